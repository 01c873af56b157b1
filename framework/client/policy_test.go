package client_test

import (
	"strings"
	"testing"
	"time"

	"github.com/newsvc/newsvc/framework/client"
)

func TestTheDefaultPolicyIsValidAndSendsNoPings(t *testing.T) {
	t.Parallel()
	p := client.DefaultPolicy()
	if err := p.Validate(); err != nil {
		t.Fatal(err)
	}
	if p.KeepAlive.Time != 0 {
		t.Errorf("HTTP/2 keep-alive is on by default (%v): plain gRPC servers close quiet connections for that", p.KeepAlive.Time)
	}
}

func TestValidateNamesTheKeyAndTheRemedy(t *testing.T) {
	t.Parallel()
	for want, change := range map[string]func(*client.Policy){
		`timeout: "-1s" is negative; write`:                                                                    func(p *client.Policy) { p.Timeout = -time.Second },
		`open_timeout: "-1s" is negative; write`:                                                               func(p *client.Policy) { p.OpenTimeout = -time.Second },
		`balancer: "best" is not known; write one of ["round_robin"`:                                           func(p *client.Policy) { p.Balancer = "best" },
		`retry.max_attempts: 6 is out of range; write 1`:                                                       func(p *client.Policy) { p.Retry.MaxAttempts = 6 },
		`retry.initial_backoff: "0s" is too short; write`:                                                      func(p *client.Policy) { p.Retry.InitialBackoff = 0 },
		`retry.max_backoff: "1ms" is shorter than`:                                                             func(p *client.Policy) { p.Retry.MaxBackoff = time.Millisecond },
		`retry.multiplier: 0.5 would shorten`:                                                                  func(p *client.Policy) { p.Retry.Multiplier = 0.5 },
		`retry.budget_tokens: 1001 is out of range`:                                                            func(p *client.Policy) { p.Retry.BudgetTokens = 1001 },
		`retry.budget_ratio: 0 would never`:                                                                    func(p *client.Policy) { p.Retry.BudgetRatio = 0 },
		`not_processed.max_attempts: 0 is out of range; write 1`:                                               func(p *client.Policy) { p.NotProcessed.MaxAttempts = 0 },
		`not_processed.budget_tokens: 0 is out of range`:                                                       func(p *client.Policy) { p.NotProcessed.BudgetTokens = 0 },
		`not_processed.budget_ratio: -1 would never`:                                                           func(p *client.Policy) { p.NotProcessed.BudgetRatio = -1 },
		`max_recv_bytes: 0 is too small; write 1`:                                                              func(p *client.Policy) { p.MaxRecvBytes = 0 },
		`target: "host:1" is not understood; write for example`:                                                func(p *client.Policy) { p.Target = "host:1" },
		`target: "etcd:///x" is not understood`:                                                                func(p *client.Policy) { p.Target = "etcd:///x" },
		`target: "dns:///" names no host`:                                                                      func(p *client.Policy) { p.Target = "dns:///" },
		`target: "static:///": the list is empty`:                                                              func(p *client.Policy) { p.Target = "static:///" },
		`target: "static:///a:1,b": "b" is no host:port; write`:                                                func(p *client.Policy) { p.Target = "static:///a:1,b" },
		`target: "static:///a:1=x": "a:1=x" has no weight`:                                                     func(p *client.Policy) { p.Target = "static:///a:1=x" },
		`target: "static:///a:0": "a:0" is no host:port`:                                                       func(p *client.Policy) { p.Target = "static:///a:0" },
		`tls.key: not set, but cert is "c.pem"`:                                                                func(p *client.Policy) { p.TLS.Cert = "c.pem" },
		`keepalive.time: "1s" is less than gRPC sends; write 10s`:                                              func(p *client.Policy) { p.KeepAlive.Time = time.Second },
		`compression: "gzip" is not linked into this process; import _ "google.golang.org/grpc/encoding/gzip"`: func(p *client.Policy) { p.Compression = client.Gzip },
		`compression: no compressor "zstd" is linked`:                                                          func(p *client.Policy) { p.Compression = "zstd" },
		`min_instances: -1 is too small`:                                                                       func(p *client.Policy) { p.MinInstances = -1 },
	} {
		p := client.DefaultPolicy()
		change(&p)
		err := p.Validate()
		if err == nil {
			t.Errorf("no error; want %q", want)
		} else if !strings.HasPrefix(err.Error(), want) {
			t.Errorf("error %q; want it to begin with %q", err, want)
		}
	}
}

func TestSwitchedOffIsValid(t *testing.T) {
	t.Parallel()
	p := client.DefaultPolicy()
	p.Timeout, p.OpenTimeout = 0, 0
	p.Retry = client.RetryPolicy{MaxAttempts: 1}
	p.NotProcessed = client.RepeatPolicy{MaxAttempts: 1}
	p.Target = "static:///[::1]:9000,10.0.0.1:9000"
	if err := p.Validate(); err != nil {
		t.Fatal(err)
	}
	f := newFactoryOf(t, client.Params{Caller: "caller", Default: p})
	c := mustConn(t, f, "user-service")
	c.Connect()
	eventually(t, "the IPv6 address is understood", func() bool { return c.State().Instances == 2 })
}

func TestAFactoryNamesThePolicyAtFault(t *testing.T) {
	t.Parallel()
	bad := client.DefaultPolicy()
	bad.Balancer, bad.Timeout = "best", -1
	_, err := client.NewFactory(client.Params{Caller: "caller", Policies: map[string]client.Policy{"user-service": bad}})
	if err == nil {
		t.Fatal("the policy was accepted")
	}
	contains(t, err, `clients.user-service.timeout: "-1ns"`, `clients.user-service.balancer: "best"`)
}
