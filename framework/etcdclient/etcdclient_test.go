package etcdclient_test

import (
	"context"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/newsvc/newsvc/framework/certs"
	"github.com/newsvc/newsvc/framework/devetcd"
	"github.com/newsvc/newsvc/framework/etcdclient"
	"github.com/newsvc/newsvc/framework/internal/freeport"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func config(endpoints ...string) etcdclient.Config {
	c := etcdclient.DefaultConfig()
	c.Endpoints = endpoints
	return c
}

func newClient(t *testing.T, cfg etcdclient.Config, log *zap.Logger) *clientv3.Client {
	t.Helper()
	cli, err := etcdclient.New(cfg, log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cli.Close() })
	return cli
}

func startEtcd(t *testing.T, cfg devetcd.Config) *devetcd.Server {
	t.Helper()
	cfg.Fast = true
	s, err := devetcd.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// freeAddr returns an address that nothing listens on.
func freeAddr(t *testing.T) string {
	t.Helper()
	addr, err := freeport.Choose(t.Context(), "127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	return addr
}

func TestConnectsWhenEtcdComesLater(t *testing.T) {
	t.Parallel()
	addr := freeAddr(t)
	cli := newClient(t, config(addr), nil)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := cli.Get(ctx, "x"); err == nil {
		t.Fatal("a call succeeded without etcd")
	}
	startEtcd(t, devetcd.Config{ClientAddr: addr})
	ctx, cancel = context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if _, err := cli.Get(ctx, "x"); err != nil {
		t.Fatalf("call after etcd came: %v", err)
	}
}

func TestPasswordNeedsNoEtcdAtStart(t *testing.T) {
	t.Parallel()
	addr := freeAddr(t)
	cfg := config(addr)
	cfg.Username, cfg.Password = "root", "secret"
	start := time.Now()
	cli := newClient(t, cfg, nil)
	if d := time.Since(start); d > time.Second {
		t.Fatalf("New took %v without etcd", d)
	}
	s := startEtcd(t, devetcd.Config{ClientAddr: addr})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if _, err := cli.Put(ctx, "k", "before auth"); err != nil {
		t.Fatalf("put while etcd has no authentication: %v", err)
	}
	enableAuth(t, s.Client())
	if _, err := cli.Put(ctx, "k", "v"); err != nil {
		t.Fatalf("put with a password: %v", err)
	}
	wctx, stop := context.WithCancel(ctx)
	defer stop()
	w := cli.Watch(wctx, "k", clientv3.WithCreatedNotify())
	if r := <-w; r.Err() != nil || !r.Created {
		t.Fatalf("watch with a password: %+v %v", r, r.Err())
	}
	other := newClient(t, config(addr), nil)
	if _, err := other.Put(ctx, "k", "v"); err == nil {
		t.Fatal("put without a password succeeded")
	}
}

func enableAuth(t *testing.T, admin *clientv3.Client) {
	t.Helper()
	ctx := t.Context()
	if _, err := admin.UserAdd(ctx, "root", "secret"); err != nil {
		t.Fatal(err)
	}
	if _, err := admin.UserGrantRole(ctx, "root", "root"); err != nil {
		t.Fatal(err)
	}
	if _, err := admin.AuthEnable(ctx); err != nil {
		t.Fatal(err)
	}
}

func TestProxyOfTheEnvironmentIsNotUsed(t *testing.T) {
	dead := "http://" + freeAddr(t)
	for _, key := range []string{"HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "ALL_PROXY"} {
		t.Setenv(key, dead)
	}
	t.Setenv("NO_PROXY", "")
	s := startEtcd(t, devetcd.Config{})
	cli := newClient(t, config(s.Endpoints()...), nil)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if _, err := cli.Get(ctx, "x"); err != nil {
		t.Fatal(err)
	}
}

func TestAttemptsThatFailAreNotLogged(t *testing.T) {
	t.Parallel()
	core, logs := observer.New(zapcore.DebugLevel)
	cli := newClient(t, config(freeAddr(t)), zap.New(core))
	for range 20 {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		if _, err := cli.Get(ctx, "x"); err == nil {
			t.Error("a call without etcd succeeds")
		}
		cancel()
	}
	if n := logs.Len(); n != 0 {
		t.Errorf("%d lines about calls whose callers know: %v", n, logs.All())
	}
}

func TestConfigErrorsNameTheKeyAndTheRemedy(t *testing.T) {
	t.Parallel()
	base := etcdclient.DefaultConfig()
	if err := base.Validate(); err != nil {
		t.Fatalf("default: %v", err)
	}
	for name, tc := range map[string]struct {
		change func(*etcdclient.Config)
		want   []string
	}{
		"no endpoints":      {func(c *etcdclient.Config) { c.Endpoints = nil }, []string{"endpoints: ", "127.0.0.1:2379"}},
		"no port":           {func(c *etcdclient.Config) { c.Endpoints = []string{"etcd"} }, []string{"endpoints: ", `"etcd"`, "host:port"}},
		"no host":           {func(c *etcdclient.Config) { c.Endpoints = []string{":2379"} }, []string{"endpoints: ", `":2379"`}},
		"path":              {func(c *etcdclient.Config) { c.Endpoints = []string{"http://a:2379/x"} }, []string{"endpoints: ", "without a path"}},
		"scheme":            {func(c *etcdclient.Config) { c.Endpoints = []string{"tcp://a:2379"} }, []string{"endpoints: ", "tcp://a:2379"}},
		"https without tls": {func(c *etcdclient.Config) { c.Endpoints = []string{"https://a:2379"} }, []string{"endpoints: ", "tls.enabled"}},
		"http with tls": {func(c *etcdclient.Config) {
			c.Endpoints = []string{"http://a:2379"}
			c.TLS = certs.ClientConfig{Enabled: true}
		}, []string{"endpoints: ", `"https://a:2379"`}},
		"timeout":     {func(c *etcdclient.Config) { c.CallTimeout = 3 }, []string{"call_timeout: ", `"3ns"`, `"3s"`}},
		"no user":     {func(c *etcdclient.Config) { c.Password = "geheim" }, []string{"username: ", "remove"}},
		"no password": {func(c *etcdclient.Config) { c.Username = "ann" }, []string{"password: ", `"ann"`}},
		"tls pair":    {func(c *etcdclient.Config) { c.TLS.Cert = "a.pem" }, []string{"tls.key: ", "a.pem"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := base
			tc.change(&c)
			_, err := etcdclient.New(c, nil)
			if err == nil {
				t.Fatal("no error")
			}
			for _, want := range tc.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q does not contain %q", err, want)
				}
			}
			if strings.Contains(err.Error(), "geheim") {
				t.Errorf("error %q tells the password", err)
			}
		})
	}
}
