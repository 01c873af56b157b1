package client_test

import (
	"context"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/newsvc/newsvc/framework/client"
)

// asked is a factory whose errors say what why says.
func asked(t *testing.T, r *registry, why func(callee string, endpoints []client.EndpointState) string, change func(*client.Policy)) *client.Conn {
	t.Helper()
	p := client.DefaultPolicy()
	change(&p)
	f, err := client.NewFactory(client.Params{Caller: "caller", Resolver: r, Default: p, Why: why})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close(t.Context()) })
	return mustConn(t, f, "user-service")
}

// closed is an address where nobody listens.
func closed(t *testing.T) string {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func TestCallsThatFindNobodySayTheSameHoweverTheyEnd(t *testing.T) {
	t.Parallel()
	const reason = `nothing under "/newsvc/default/user-service/" in etcd at 10.0.0.9:2379`
	why := func(callee string, _ []client.EndpointState) string { return reason }
	for name, tc := range map[string]struct {
		fill func(*registry)
		wait bool
		code codes.Code
		end  string
	}{
		"fail fast, no instance":          {func(r *registry) { r.fail("none") }, false, codes.Unavailable, ""},
		"deadline, no instance":           {func(r *registry) { r.fail("none") }, true, codes.DeadlineExceeded, "; nobody took the call within 30ms (clients.user-service.timeout)"},
		"deadline, a silent resolver":     {func(*registry) {}, true, codes.DeadlineExceeded, "; nobody took the call within 30ms (clients.user-service.timeout)"},
		"deadline, nobody listens":        {func(r *registry) { r.set(closed(t)) }, true, codes.DeadlineExceeded, "; nobody took the call within 30ms (clients.user-service.timeout)"},
		"fail fast, nobody listens there": {func(r *registry) { r.set(closed(t)) }, false, codes.Unavailable, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRegistry()
			tc.fill(r)
			c := asked(t, r, why, func(p *client.Policy) { p.WaitForReady, p.Timeout = tc.wait, 30*time.Millisecond })
			_, err := call(t.Context(), c, methodPut)
			wantCode(t, err, tc.code)
			if want := `calling "user-service": ` + reason + tc.end; !strings.HasSuffix(err.Error(), "desc = "+want) {
				t.Errorf("err = %v\nwant %s", err, want)
			}
			if public := status.Convert(err).Message(); public != `no instance of "user-service" takes calls at present` {
				t.Errorf("others are told %q", public)
			}
		})
	}
}

func TestACallGivenUpWhileNobodyIsThereSaysWhyToo(t *testing.T) {
	t.Parallel()
	r := newRegistry()
	r.fail(`nothing under "/newsvc/default"`)
	c := asked(t, r, func(string, []client.EndpointState) string { return "reason" }, func(p *client.Policy) { p.Timeout = time.Minute })
	ctx, cancel := context.WithCancel(t.Context())
	stop := time.AfterFunc(300*time.Millisecond, cancel) // by then the resolver has said something
	defer stop.Stop()
	_, err := call(ctx, c, methodPut)
	wantCode(t, err, codes.Canceled)
	contains(t, err, `calling "user-service": reason; nobody took the call before its caller gave up`)
	if public := status.Convert(err).Message(); strings.Contains(public, "/newsvc/") {
		t.Errorf("others are told %q", public)
	}
}

func TestTheReasonIsAskedForWithTheStateOfEachConnection(t *testing.T) {
	t.Parallel()
	addr := closed(t)
	r := newRegistry(addr)
	c := asked(t, r, func(_ string, endpoints []client.EndpointState) string {
		if len(endpoints) != 1 {
			return "no endpoints"
		}
		return endpoints[0].Addr + " " + endpoints[0].Connectivity + " " + endpoints[0].Error
	}, func(p *client.Policy) { p.WaitForReady = false })
	_, err := call(t.Context(), c, methodPut)
	wantCode(t, err, codes.Unavailable)
	contains(t, err, addr+" TRANSIENT_FAILURE", "connection refused")
}

func TestAFailureOfTheCalleeIsNotTakenForNobody(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"the database is away", "no children to pick from", "latest balancer error: x"} {
		s := startServer(t, "127.0.0.1:0", func(*server, string, string, grpc.ServerStream) error {
			return status.Error(codes.Unavailable, text)
		})
		c := asked(t, newRegistry(s.addr), func(string, []client.EndpointState) string { return "wrong" }, func(*client.Policy) {})
		_, err := call(t.Context(), c, methodPut)
		wantCode(t, err, codes.Unavailable)
		if got := status.Convert(err).Message(); got != text {
			t.Errorf("message = %q, want the callee's own %q", got, text)
		}
	}
}

func TestAFailureOfALastResortIsNotTakenForNobody(t *testing.T) {
	t.Parallel()
	const text = "no children to pick from"
	s := startServer(t, "127.0.0.1:0", func(*server, string, string, grpc.ServerStream) error {
		return status.Error(codes.Unavailable, text)
	})
	c := asked(t, newRegistry(s.addr), func(string, []client.EndpointState) string { return "wrong" }, func(*client.Policy) {})
	ready(t, c)
	s.health.Shutdown()
	eventually(t, "it is about to stop", func() bool { return !takesCalls(c, s.addr) })
	_, err := call(t.Context(), c, methodPut)
	wantCode(t, err, codes.Unavailable)
	if got := status.Convert(err).Message(); got != text {
		t.Errorf("message = %q, want the callee's own %q", got, text)
	}
}

func TestALongReasonIsCutShort(t *testing.T) {
	t.Parallel()
	r := newRegistry()
	r.fail("none")
	c := asked(t, r, func(string, []client.EndpointState) string { return strings.Repeat("ä", 1000) },
		func(p *client.Policy) { p.Timeout = 30 * time.Millisecond })
	_, err := call(t.Context(), c, methodPut)
	if n := len(err.Error()); n > 400 || strings.ContainsRune(err.Error(), '\uFFFD') {
		t.Errorf("%d bytes: %v", n, err)
	}
}
