package client_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/newsvc/newsvc/framework/client"
	"github.com/newsvc/newsvc/framework/internal/loop"
)

func contains(t *testing.T, err error, parts ...string) {
	t.Helper()
	for _, p := range parts {
		if !strings.Contains(err.Error(), p) {
			t.Errorf("error %q does not contain %q", err, p)
		}
	}
}

func TestTheTimeoutSaysThatItFiredAndWhereItWasSet(t *testing.T) {
	t.Parallel()
	s := startServer(t, "127.0.0.1:0", hang)
	p := client.DefaultPolicy()
	p.Timeout = 30 * time.Millisecond
	f := newFactoryOf(t, client.Params{Caller: "caller", Resolver: newRegistry(s.addr), Default: p,
		Origin: func(callee, key string) string {
			if callee != "user-service" || key != "timeout" {
				t.Errorf("asked where %q of %q was set", key, callee)
			}
			return "clients.defaults.timeout, config.yaml:12"
		}})
	_, err := call(t.Context(), mustConn(t, f, "user-service"), methodPut)
	wantCode(t, err, codes.DeadlineExceeded)
	contains(t, err, `no answer from "user-service" within 30ms (clients.defaults.timeout, config.yaml:12; raise it there`)
}

func TestTheTimeoutBoundsMethodsThatNoProtoTellsOf(t *testing.T) {
	t.Parallel()
	s := startServer(t, "127.0.0.1:0", hang)
	c := connect(t, newRegistry(s.addr), func(p *client.Policy) { p.Timeout = 30 * time.Millisecond })
	_, err := call(t.Context(), c, "/elsewhere.v1.Service/Method")
	wantCode(t, err, codes.DeadlineExceeded)
	contains(t, err, "within 30ms (clients.user-service.timeout")
}

func TestTheTimeoutBoundsTheWaitForASilentResolver(t *testing.T) {
	t.Parallel()
	c := mustConn(t, newFactory(t, newRegistry(), func(p *client.Policy) { p.Timeout = 30 * time.Millisecond }), "user-service")
	_, err := call(t.Context(), c, methodPut)
	wantCode(t, err, codes.DeadlineExceeded)
	contains(t, err, "within 30ms (clients.user-service.timeout", `no instance of "user-service" is known`)
}

func TestADeadlineThatTheCalleeReportsIsPassedOn(t *testing.T) {
	t.Parallel()
	s := startServer(t, "127.0.0.1:0", func(*server, string, string, grpc.ServerStream) error {
		return status.Error(codes.DeadlineExceeded, "the database took too long")
	})
	c := connect(t, newRegistry(s.addr), nil)
	_, err := call(t.Context(), c, methodPut)
	wantCode(t, err, codes.DeadlineExceeded)
	if got := status.Convert(err).Message(); got != "the database took too long" {
		t.Errorf("message = %q", got)
	}
}

func TestAShorterDeadlineOfTheCallerWinsAndIsNamed(t *testing.T) {
	t.Parallel()
	s := startServer(t, "127.0.0.1:0", hang)
	c := connect(t, newRegistry(s.addr), nil)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	_, err := call(ctx, c, methodPut)
	wantCode(t, err, codes.DeadlineExceeded)
	contains(t, err, `no answer from "user-service" within`, "the caller's own deadline, shorter than clients.user-service.timeout")
}

func TestALongerDeadlineOfTheCallerLoses(t *testing.T) {
	t.Parallel()
	s := startServer(t, "127.0.0.1:0", hang)
	c := connect(t, newRegistry(s.addr), func(p *client.Policy) { p.Timeout = 30 * time.Millisecond })
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	_, err := call(ctx, c, methodPut)
	wantCode(t, err, codes.DeadlineExceeded)
	contains(t, err, "within 30ms (clients.user-service.timeout")
}

func TestAPastDeadlineIsTheCallers(t *testing.T) {
	t.Parallel()
	c := connect(t, newRegistry(startServer(t, "127.0.0.1:0", nil).addr), nil)
	ctx, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	defer cancel()
	_, err := call(ctx, c, methodPut)
	wantCode(t, err, codes.DeadlineExceeded)
	contains(t, err, "the caller's own deadline, which was over before the call began")
}

func TestCancellationIsPassedOn(t *testing.T) {
	t.Parallel()
	s := startServer(t, "127.0.0.1:0", hang)
	c := connect(t, newRegistry(s.addr), nil)
	ctx, cancel := context.WithCancel(t.Context())
	l := loop.Start(t.Context(), func(context.Context) {
		eventually(t, "the handler runs", func() bool { return s.runs.Load() > 0 })
		cancel()
	})
	defer l.Stop()
	_, err := call(ctx, c, methodPut)
	wantCode(t, err, codes.Canceled)
}

func TestStreamsAreNotBoundedByTheTimeouts(t *testing.T) {
	t.Parallel()
	chat := startServer(t, "127.0.0.1:0", echoChat)
	c := connect(t, newRegistry(chat.addr), func(p *client.Policy) {
		p.Timeout, p.OpenTimeout = 20*time.Millisecond, 200*time.Millisecond
	})
	stream, err := c.NewStream(t.Context(), chatDesc, methodChat)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := stream.SendMsg(wrapperspb.String("hello")); err != nil {
			t.Fatal(err)
		}
		out := &wrapperspb.StringValue{}
		if err := stream.RecvMsg(out); err != nil || out.GetValue() != "hello" {
			t.Fatalf("RecvMsg = %q, %v", out.GetValue(), err)
		}
		pause(t, 300*time.Millisecond)
	}
}

func TestAStreamThatFindsNobodyFailsAfterOpenTimeoutAndSaysWhy(t *testing.T) {
	t.Parallel()
	r := newRegistry()
	r.fail(`no instance of "user-service" under "/newsvc/default/user-service/"; near: "user"`)
	c := mustConn(t, newFactory(t, r, func(p *client.Policy) { p.OpenTimeout = 30 * time.Millisecond }), "user-service")
	_, err := list(t.Context(), c)
	wantCode(t, err, codes.Unavailable)
	contains(t, err, `nobody took the stream within 30ms (clients.user-service.open_timeout`, `near: "user"`)
}

func TestACallThatFindsNobodySaysWhatTheResolverSaid(t *testing.T) {
	t.Parallel()
	r := newRegistry()
	r.fail(`no instance of "user-service" under "/newsvc/default/user-service/"; near: "user"`)
	for name, tc := range map[string]struct {
		wait bool
		code codes.Code
	}{"wait for ready": {true, codes.DeadlineExceeded}, "fail fast": {false, codes.Unavailable}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := mustConn(t, newFactory(t, r, func(p *client.Policy) { p.WaitForReady, p.Timeout = tc.wait, 30*time.Millisecond }), "user-service")
			_, err := call(t.Context(), c, methodPut)
			wantCode(t, err, tc.code)
			contains(t, err, `"user-service"`, `near: "user"`)
		})
	}
}

func TestWaitForReadyBridgesARestart(t *testing.T) {
	t.Parallel()
	s := startServer(t, "127.0.0.1:0", nil)
	c := connect(t, newRegistry(s.addr), nil)
	s.Stop()
	eventually(t, "the loss is noticed", func() bool { return c.State().Connectivity != "READY" })
	errs := make(chan error, 1)
	l := loop.Start(t.Context(), func(ctx context.Context) {
		_, err := call(ctx, c, methodPut)
		errs <- err
	})
	defer l.Stop()
	pause(t, 50*time.Millisecond)
	startServer(t, s.addr, nil)
	if err := <-errs; err != nil {
		t.Fatal(err)
	}
}

func TestInstancesTakeTurns(t *testing.T) {
	t.Parallel()
	a, b := startServer(t, "127.0.0.1:0", nil), startServer(t, "127.0.0.1:0", nil)
	c := connect(t, newRegistry(a.addr, b.addr), nil)
	eventually(t, "both instances have answered", func() bool {
		if _, err := call(t.Context(), c, methodPut); err != nil {
			t.Fatal(err)
		}
		return a.runs.Load() > 0 && b.runs.Load() > 0
	})
}
