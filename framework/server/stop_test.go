package server_test

import (
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/newsvc/newsvc/framework/server"
)

func TestUnaryCallInFlightFinishes(t *testing.T) {
	t.Parallel()
	entered, release := make(chan struct{}), make(chan struct{})
	s := start(t, params(), &echo{call: func(_ context.Context, in *wrapperspb.StringValue) (*wrapperspb.StringValue, error) {
		close(entered)
		<-release
		return in, nil
	}})
	cc := dial(t, s)
	answered := make(chan error, 1)
	go func() { _, err := invoke(t, cc, "x"); answered <- err }()
	receive(t, "the call", entered)
	if n := s.ActiveCalls(); n != 1 {
		t.Errorf("ActiveCalls = %d, want 1", n)
	}
	stopped := make(chan error, 1)
	go func() { stopped <- stop(t, s, time.Minute, time.Minute) }()
	receive(t, "the drain signal", s.DrainSignal()(t.Context()))
	close(release)
	if err := receive(t, "the answer", answered); err != nil {
		t.Errorf("the call failed: %v", err)
	}
	if err := receive(t, "the stop", stopped); err != nil {
		t.Errorf("Stop = %v, want nil", err)
	}
	receive(t, "Done", s.Done())
	if err := s.Err(); err != nil {
		t.Errorf("Err = %v after a Stop, want nil", err)
	}
}

func TestD05StreamHandlerThatListensEndsItsStreamItself(t *testing.T) {
	t.Parallel()
	var s *server.Server
	s = start(t, params(), &echo{watch: func(ss grpc.ServerStream) error {
		if err := ss.SendMsg(wrapperspb.String("hello")); err != nil {
			return err
		}
		select {
		case <-s.DrainSignal()(ss.Context()):
			return ss.SendMsg(wrapperspb.String("bye"))
		case <-ss.Context().Done():
			return ss.Context().Err()
		}
	}})
	cs := open(t, dial(t, s), watchMethod)
	s.BeginDrain()
	last := new(wrapperspb.StringValue)
	if err := cs.RecvMsg(last); err != nil || last.GetValue() != "bye" {
		t.Errorf("last message = %q, %v, want bye", last.GetValue(), err)
	}
	if err := cs.RecvMsg(last); !errors.Is(err, io.EOF) {
		t.Errorf("end = %v, want io.EOF", err)
	}
	if err := stop(t, s, time.Minute, time.Minute); err != nil {
		t.Errorf("Stop = %v", err)
	}
}

func TestD05StreamsEndWithUnavailableAtTheSoftBudget(t *testing.T) {
	t.Parallel()
	causes := make(chan error, 1)
	for name, tc := range map[string]struct {
		e      *echo
		method string
	}{
		"a handler that watches its context": {&echo{watch: func(ss grpc.ServerStream) error {
			if err := ss.SendMsg(wrapperspb.String("hello")); err != nil {
				return err
			}
			<-ss.Context().Done()
			causes <- context.Cause(ss.Context())
			return ss.Context().Err()
		}}, watchMethod},
		"a handler that waits for the next message": {&echo{chat: echoAll}, bidiMethod},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := start(t, params(), tc.e)
			cs := open(t, dial(t, s), tc.method)
			if err := stop(t, s, 50*time.Millisecond, 10*time.Second); err != nil {
				t.Errorf("Stop = %v, want nil", err)
			}
			if err := cs.RecvMsg(new(wrapperspb.StringValue)); status.Code(err) != codes.Unavailable {
				t.Errorf("the stream ended with %v, want UNAVAILABLE", err)
			}
			if n := s.ActiveCalls(); n != 0 {
				t.Errorf("ActiveCalls = %d after Stop, want 0", n)
			}
			if tc.method == watchMethod {
				if err := receive(t, "the cause", causes); !errors.Is(err, server.ErrDraining) {
					t.Errorf("cause = %v, want ErrDraining", err)
				}
			}
		})
	}
}

func TestD02StuckHandlerIsCutAndNamed(t *testing.T) {
	t.Parallel()
	entered, release := make(chan struct{}), make(chan struct{})
	s := start(t, params(), &echo{call: func(context.Context, *wrapperspb.StringValue) (*wrapperspb.StringValue, error) {
		close(entered)
		<-release
		return nil, errors.New("late")
	}})
	cc := dial(t, s)
	answered := make(chan error, 1)
	go func() { _, err := invoke(t, cc, "x"); answered <- err }()
	receive(t, "the call", entered)
	begin := time.Now()
	err := stop(t, s, 20*time.Millisecond, 200*time.Millisecond)
	if took := time.Since(begin); took > 3*time.Second {
		t.Errorf("Stop took %s with a budget of 200ms and one second more", took)
	}
	cut, ok := errors.AsType[*server.CutError](err)
	if !ok || !slices.Equal(cut.Methods, []string{unaryMethod}) || !slices.Equal(cut.Stuck, []string{unaryMethod}) {
		t.Errorf("Stop = %v, want a CutError that names %s as stuck", err, unaryMethod)
	}
	if err := receive(t, "the end of the call", answered); status.Code(err) != codes.Unavailable {
		t.Errorf("the caller got %v, want UNAVAILABLE", err)
	}
	close(release)
	receive(t, "Done", s.Done())
}

func TestHandlerThatHeedsItsContextIsCutButNotStuck(t *testing.T) {
	t.Parallel()
	entered := make(chan struct{})
	s := start(t, params(), &echo{call: func(ctx context.Context, _ *wrapperspb.StringValue) (*wrapperspb.StringValue, error) {
		close(entered)
		<-ctx.Done()
		return nil, ctx.Err()
	}})
	cc := dial(t, s)
	answered := make(chan error, 1)
	go func() { _, err := invoke(t, cc, "x"); answered <- err }()
	receive(t, "the call", entered)
	cut, ok := errors.AsType[*server.CutError](stop(t, s, 0, 100*time.Millisecond))
	if !ok || !slices.Equal(cut.Methods, []string{unaryMethod}) || len(cut.Stuck) > 0 {
		t.Errorf("Stop = %v, want one method cut and none stuck", cut)
	}
	receive(t, "the end of the call", answered)
}

func TestD03SilentConnectionDoesNotDelayTheStop(t *testing.T) {
	t.Parallel()
	p := params()
	p.Config.Limits.ConnectionTimeout = time.Minute
	s := start(t, p, &echo{})
	var d net.Dialer
	c, err := d.DialContext(t.Context(), "tcp", s.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	// One that began to speak and went quiet is not silent; it is what the budget is for.
	half, err := d.DialContext(t.Context(), "tcp", s.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = half.Close() })
	if _, err := half.Write([]byte("PRI * HTT")); err != nil {
		t.Fatal(err)
	}
	if _, err := invoke(t, dial(t, s), "x"); err != nil { // both have been accepted when this returns
		t.Fatal(err)
	}
	begin := time.Now()
	if err := stop(t, s, 10*time.Millisecond, 300*time.Millisecond); err != nil {
		t.Errorf("Stop = %v, want nil: no call was lost", err)
	}
	if took := time.Since(begin); took > 3*time.Second {
		t.Errorf("Stop took %s with a budget of 300ms and one second more", took)
	}
	receive(t, "Done", s.Done())
}

func TestConnectionThatSaidNothingIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	p := params()
	p.Config.Limits.ConnectionTimeout = time.Minute
	s := start(t, p, &echo{})
	c, err := new(net.Dialer).DialContext(t.Context(), "tcp", s.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if err := stop(t, s, time.Minute, time.Minute); err != nil {
		t.Errorf("Stop = %v", err)
	}
}

func TestD12HealthWatchersDoNotDelayTheStop(t *testing.T) {
	t.Parallel()
	s := start(t, params(), &echo{})
	s.SetServing(true)
	watch, err := healthpb.NewHealthClient(dial(t, s)).Watch(t.Context(), &healthpb.HealthCheckRequest{Service: echoService})
	if err != nil {
		t.Fatal(err)
	}
	if r, err := watch.Recv(); err != nil || r.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		t.Fatalf("first state = %v, %v, want SERVING", r, err)
	}
	if n := s.ActiveCalls(); n != 0 {
		t.Errorf("ActiveCalls = %d, want 0: health is nobody's work", n)
	}
	if !s.LastCall().IsZero() {
		t.Errorf("LastCall = %s, want none", s.LastCall())
	}
	if err := stop(t, s, time.Minute, time.Minute); err != nil {
		t.Errorf("Stop = %v", err)
	}
}

func TestEveryStopReturnsTheSame(t *testing.T) {
	t.Parallel()
	s := start(t, params(), &echo{})
	results := make(chan error, 3)
	for range 3 {
		go func() { results <- stop(t, s, time.Second, time.Minute) }()
	}
	for range 3 {
		if err := receive(t, "Stop", results); err != nil {
			t.Errorf("Stop = %v", err)
		}
	}
}

func TestStopBeforeStart(t *testing.T) {
	t.Parallel()
	s := build(t, params())
	if err := s.Listen(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := stop(t, s, 0, time.Minute); err != nil {
		t.Errorf("Stop = %v", err)
	}
	receive(t, "Done", s.Done())
	if c, err := new(net.Dialer).DialContext(t.Context(), "tcp", s.Addr()); err == nil {
		_ = c.Close()
		t.Error("the address still accepts connections")
	}
	if err := s.Start(); err == nil {
		t.Error("a stopped server started")
	}
}
