package client_test

import (
	"context"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/newsvc/newsvc/framework/client"
	"github.com/newsvc/newsvc/framework/internal/loop"
)

func update(t *testing.T, f *client.Factory, change func(*client.Policy)) {
	t.Helper()
	p := client.DefaultPolicy()
	change(&p)
	if err := f.Update("user-service", p); err != nil {
		t.Fatal(err)
	}
}

func TestALiveChangeHoldsForTheNextCall(t *testing.T) {
	t.Parallel()
	s := startServer(t, "127.0.0.1:0", hang)
	f := newFactory(t, newRegistry(s.addr), nil)
	c := mustConn(t, f, "user-service")
	ready(t, c)
	update(t, f, func(p *client.Policy) { p.Timeout = 20 * time.Millisecond })
	_, err := call(t.Context(), c, methodPut)
	wantCode(t, err, codes.DeadlineExceeded)
	contains(t, err, "within 20ms")
	if got := c.State().Policy.Timeout; got != 20*time.Millisecond {
		t.Errorf("State says timeout %v", got)
	}
}

func TestAPushedChangeNeedsNoNewConnection(t *testing.T) {
	t.Parallel()
	s := startServer(t, "127.0.0.1:0", nil)
	f := newFactory(t, newRegistry(s.addr), nil)
	c := mustConn(t, f, "user-service")
	ready(t, c)
	update(t, f, func(p *client.Policy) { p.MaxSendBytes = 1 })
	_, err := call(t.Context(), c, methodPut)
	wantCode(t, err, codes.ResourceExhausted)
	update(t, f, func(p *client.Policy) { p.MaxSendBytes = 0 })
	if _, err := call(t.Context(), c, methodPut); err != nil {
		t.Fatal(err)
	}
	if n := s.conns.Load(); n != 1 {
		t.Errorf("%d connections were made, want 1", n)
	}
}

func TestAPushReachesACalleeWithoutInstances(t *testing.T) {
	t.Parallel()
	r := newRegistry()
	r.fail("nobody is there")
	f := newFactory(t, r, nil)
	c := mustConn(t, f, "user-service")
	c.Connect()
	eventually(t, "the resolver has answered", func() bool { return c.State().ResolverError != "" })
	update(t, f, func(p *client.Policy) { p.WaitForReady = false })
	_, err := call(t.Context(), c, methodPut)
	wantCode(t, err, codes.Unavailable)
	contains(t, err, "nobody is there")
}

func TestARedialSwapsWhenReadyAndLetsRunningStreamsEnd(t *testing.T) {
	t.Parallel()
	a, b := startServer(t, "127.0.0.1:0", echoChat), startServer(t, "127.0.0.1:0", nil)
	f := newFactory(t, newRegistry(a.addr), nil)
	c := mustConn(t, f, "user-service")
	ready(t, c)
	stream, err := c.NewStream(t.Context(), chatDesc, methodChat)
	if err != nil {
		t.Fatal(err)
	}
	update(t, f, func(p *client.Policy) { p.Target = "static:///" + b.addr })
	eventually(t, "the new connection took over", func() bool { return c.State().Target == "static:///"+b.addr })
	if got, err := call(t.Context(), c, methodPut); err != nil || got != b.addr {
		t.Fatalf("call = %q, %v; want an answer of %q", got, err, b.addr)
	}
	if err := stream.SendMsg(wrapperspb.String("still here")); err != nil {
		t.Fatal(err)
	}
	out := &wrapperspb.StringValue{}
	if err := stream.RecvMsg(out); err != nil || out.GetValue() != "still here" {
		t.Fatalf("the running stream: %q, %v", out.GetValue(), err)
	}
	if n := c.State().RunningCalls; n != 1 {
		t.Errorf("%d running calls, want 1", n)
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	_ = stream.RecvMsg(out)
	eventually(t, "the stream has ended", func() bool { return c.State().RunningCalls == 0 })
}

func TestARedialToNobodyLeavesAWorkingConnectionInPlace(t *testing.T) {
	t.Parallel()
	s := startServer(t, "127.0.0.1:0", nil)
	gone := startServer(t, "127.0.0.1:0", nil)
	gone.Stop()
	f := newFactory(t, newRegistry(s.addr), nil)
	c := mustConn(t, f, "user-service")
	ready(t, c)
	update(t, f, func(p *client.Policy) { p.Target = "static:///" + gone.addr })
	if got, err := call(t.Context(), c, methodPut); err != nil || got != s.addr {
		t.Fatalf("call = %q, %v; want an answer of %q", got, err, s.addr)
	}
	if got := c.State().Replacing; got != "static:///"+gone.addr {
		t.Errorf("State says that %q takes over", got)
	}
	update(t, f, func(*client.Policy) {}) // back again: the one that waits is dropped
	eventually(t, "nothing waits to take over", func() bool { return c.State().Replacing == "" })
}

func TestAPushedChangeHoldsWhileARedialWaits(t *testing.T) {
	t.Parallel()
	s := startServer(t, "127.0.0.1:0", nil)
	gone := startServer(t, "127.0.0.1:0", nil)
	gone.Stop()
	f := newFactory(t, newRegistry(s.addr), nil)
	c := mustConn(t, f, "user-service")
	ready(t, c)
	update(t, f, func(p *client.Policy) { p.Target, p.MaxSendBytes = "static:///"+gone.addr, 1 })
	_, err := call(t.Context(), c, methodPut)
	wantCode(t, err, codes.ResourceExhausted)
}

func TestARedialReplacesAConnectionThatIsNotReadyAtOnce(t *testing.T) {
	t.Parallel()
	s := startServer(t, "127.0.0.1:0", nil)
	f := newFactory(t, newRegistry(), nil)
	c := mustConn(t, f, "user-service")
	waited := make(chan error, 1)
	l := loop.Start(t.Context(), func(ctx context.Context) { waited <- c.WaitInstances(ctx, 1) })
	defer l.Stop()
	update(t, f, func(p *client.Policy) { p.Target = "static:///" + s.addr })
	if got, err := call(t.Context(), c, methodPut); err != nil || got != s.addr {
		t.Fatalf("call = %q, %v; want an answer of %q", got, err, s.addr)
	}
	if err := <-waited; err != nil {
		t.Errorf("WaitInstances did not follow: %v", err)
	}
}

func TestARefusedUpdateChangesNothing(t *testing.T) {
	t.Parallel()
	f := newFactory(t, newRegistry(), nil)
	c := mustConn(t, f, "user-service")
	before := c.State().Policy
	for _, change := range []func(*client.Policy){
		func(p *client.Policy) { p.Balancer = "best" },
		func(p *client.Policy) { p.TLS.CA = "no-such-file.pem" },
	} {
		p := client.DefaultPolicy()
		change(&p)
		if err := f.Update("user-service", p); err == nil {
			t.Errorf("policy %+v was accepted", p)
		} else {
			contains(t, err, "user-service")
		}
	}
	if c.State().Policy != before {
		t.Error("a refused update changed the policy")
	}
}

func TestAnUpdateBeforeTheFirstConnectionHolds(t *testing.T) {
	t.Parallel()
	f := newFactory(t, newRegistry(), nil)
	update(t, f, func(p *client.Policy) { p.Timeout = time.Hour })
	if got := mustConn(t, f, "user-service").State().Policy.Timeout; got != time.Hour {
		t.Errorf("timeout = %v, want 1h", got)
	}
}

func TestDefaultsChangeForCalleesWithoutAPolicyOfTheirOwn(t *testing.T) {
	t.Parallel()
	s := startServer(t, "127.0.0.1:0", nil)
	f := newFactory(t, newRegistry(s.addr), nil)
	update(t, f, func(p *client.Policy) { p.Timeout = time.Hour })
	own, other := mustConn(t, f, "user-service"), mustConn(t, f, "mail-service")
	ready(t, other)
	p := client.DefaultPolicy()
	p.MaxSendBytes = 1
	if err := f.UpdateDefault(p); err != nil {
		t.Fatal(err)
	}
	_, err := call(t.Context(), other, methodPut)
	wantCode(t, err, codes.ResourceExhausted)
	if _, err := call(t.Context(), own, methodPut); err != nil {
		t.Errorf("a callee with a policy of its own: %v", err)
	}
	_, err = call(t.Context(), mustConn(t, f, "late-service"), methodPut)
	wantCode(t, err, codes.ResourceExhausted)
	p.MaxSendBytes = -1
	if err := f.UpdateDefault(p); err == nil {
		t.Error("a policy that is not valid passes")
	}
}
