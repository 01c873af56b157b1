package client_test

import (
	"context"
	"errors"
	"io"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/newsvc/newsvc/framework/client"
	"github.com/newsvc/newsvc/framework/internal/loop"
	"github.com/newsvc/newsvc/framework/internal/notprocessed"
)

func refuse(*server, string, string, grpc.ServerStream) error {
	return notprocessed.Error("this instance is draining")
}

// lost ends its server in the middle of each call, as a kill does.
func lost(s *server, _, _ string, stream grpc.ServerStream) error {
	l := loop.Start(context.Background(), func(context.Context) { s.Stop() })
	<-stream.Context().Done()
	defer l.Cancel()
	return stream.Context().Err()
}

// connectBoth returns a connection on which both servers have been reached, so that its calls alternate.
func connectBoth(t *testing.T, a, b *server) *client.Conn {
	t.Helper()
	c := connect(t, newRegistry(a.addr, b.addr), nil)
	eventually(t, "both instances were reached", func() bool {
		stream, err := list(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		for err == nil { // how it ends does not matter: one of the servers refuses
			err = stream.RecvMsg(&wrapperspb.StringValue{})
		}
		return a.runs.Load() > 0 && b.runs.Load() > 0
	})
	return c
}

func TestIdempotentMethodsSurviveTheLossOfInstances(t *testing.T) {
	t.Parallel()
	servers := []*server{startServer(t, "127.0.0.1:0", nil), startServer(t, "127.0.0.1:0", nil), startServer(t, "127.0.0.1:0", nil)}
	c := connect(t, newRegistry(servers[0].addr, servers[1].addr, servers[2].addr), nil)
	var done, failed atomic.Int64
	var callers loop.Group
	for range 8 {
		callers.Start(t.Context(), func(ctx context.Context) {
			for ctx.Err() == nil {
				_, err := call(context.WithoutCancel(ctx), c, methodGet)
				done.Add(1)
				if err != nil {
					failed.Add(1)
					t.Errorf("call failed: %v", err)
				}
			}
		})
	}
	for _, s := range servers {
		s.Stop()
		before := done.Load()
		eventually(t, "100 more calls are done", func() bool { return done.Load() >= before+100 })
		again := startServer(t, s.addr, nil)
		eventually(t, "the instance is used again", func() bool { return again.runs.Load() > 0 })
	}
	callers.Stop()
	t.Logf("%d calls, %d failed", done.Load(), failed.Load())
}

func TestALostCallOfAnIdempotentMethodIsRetriedElsewhere(t *testing.T) {
	t.Parallel()
	a, b := startServer(t, "127.0.0.1:0", lost), startServer(t, "127.0.0.1:0", nil)
	c := connect(t, newRegistry(a.addr, b.addr), nil)
	eventually(t, "the call was lost once", func() bool {
		got, err := call(t.Context(), c, methodGet)
		if err != nil || got != b.addr {
			t.Fatalf("call = %q, %v; want an answer of %q", got, err, b.addr)
		}
		return a.runs.Load() == 1
	})
}

func TestALostCallOfAnyOtherMethodIsNotRepeated(t *testing.T) {
	t.Parallel()
	s := startServer(t, "127.0.0.1:0", lost)
	c := connect(t, newRegistry(s.addr), nil)
	_, err := call(t.Context(), c, methodPut)
	wantCode(t, err, codes.Unavailable)
	if n := s.runs.Load(); n != 1 {
		t.Errorf("the handler ran %d times, want once", n)
	}
}

func TestARefusedCallIsRepeatedElsewhereAndRunsOnce(t *testing.T) {
	t.Parallel()
	a, b := startServer(t, "127.0.0.1:0", refuse), startServer(t, "127.0.0.1:0", nil)
	c := connectBoth(t, a, b)
	refused, ran := a.runs.Load(), b.runs.Load()
	const n = 20
	for range n {
		if got, err := call(t.Context(), c, methodPut); err != nil || got != b.addr {
			t.Fatalf("call = %q, %v; want an answer of %q", got, err, b.addr)
		}
	}
	if got := b.runs.Load() - ran; got != n {
		t.Errorf("handlers ran %d times for %d calls", got, n)
	}
	if a.runs.Load() == refused {
		t.Error("the refusing instance was never asked, so nothing was repeated")
	}
}

func TestARefusalByAllIsReportedWithoutTheMark(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		method string
		most   int64
	}{"any method": {methodPut, 4}, "a method that gRPC retries": {methodGet, 8}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startServer(t, "127.0.0.1:0", refuse)
			c := connect(t, newRegistry(s.addr), nil)
			_, err := call(t.Context(), c, tc.method)
			wantCode(t, err, codes.Unavailable)
			contains(t, err, `calling "user-service": refused without being processed`, "this instance is draining", "more attempts)")
			if notprocessed.Is(err) || len(status.Convert(err).Details()) != 0 {
				t.Errorf("the error %v still carries the mark: a handler that returned it would be repeated too", err)
			}
			if n := s.runs.Load(); n != tc.most {
				t.Errorf("%d attempts, want %d", n, tc.most)
			}
		})
	}
}

func TestOtherDetailsOfARefusalStay(t *testing.T) {
	t.Parallel()
	s := startServer(t, "127.0.0.1:0", func(*server, string, string, grpc.ServerStream) error {
		st, err := status.Convert(notprocessed.Error("busy")).WithDetails(&errdetails.RetryInfo{})
		if err != nil {
			return err
		}
		return st.Err()
	})
	c := connect(t, newRegistry(s.addr), nil)
	_, err := call(t.Context(), c, methodPut)
	details := status.Convert(err).Details()
	if len(details) != 1 {
		t.Fatalf("details = %v, want the RetryInfo alone", details)
	}
	if _, ok := details[0].(*errdetails.RetryInfo); !ok {
		t.Fatalf("details = %v, want the RetryInfo alone", details)
	}
}

func TestRepeatsKeepToTheirBudget(t *testing.T) {
	t.Parallel()
	s := startServer(t, "127.0.0.1:0", refuse)
	c := connect(t, newRegistry(s.addr), func(p *client.Policy) {
		p.NotProcessed = client.RepeatPolicy{MaxAttempts: 10, BudgetTokens: 5, BudgetRatio: 0.1}
	})
	const calls = 30
	for range calls {
		_, err := call(t.Context(), c, methodPut)
		wantCode(t, err, codes.Unavailable)
	}
	// 5 tokens at first and 0.1 for each call.
	if repeats := s.runs.Load() - calls; repeats < 5 || repeats > 8 {
		t.Errorf("%d repeats for %d calls, want 5 to 8", repeats, calls)
	}
}

func TestRepeatsNeverOutliveTheDeadline(t *testing.T) {
	t.Parallel()
	s := startServer(t, "127.0.0.1:0", refuse)
	c := connect(t, newRegistry(s.addr), func(p *client.Policy) {
		p.Timeout = 200 * time.Millisecond
		p.NotProcessed = client.RepeatPolicy{MaxAttempts: 1000, BudgetTokens: 1000, BudgetRatio: 1}
	})
	start := time.Now()
	_, err := call(t.Context(), c, methodPut)
	// The limit may also fire while an attempt is under way.
	if code := status.Code(err); code != codes.Unavailable && code != codes.DeadlineExceeded {
		t.Fatalf("error = %v", err)
	}
	contains(t, err, "this instance is draining")
	if d := time.Since(start); d > time.Second {
		t.Errorf("the call took %v with a timeout of 200ms", d)
	}
}

func TestARefusedServerStreamIsOpenedElsewhere(t *testing.T) {
	t.Parallel()
	three := func(s *server, _, in string, stream grpc.ServerStream) error {
		for range 3 {
			if err := stream.SendMsg(wrapperspb.String(in)); err != nil {
				return err
			}
		}
		return nil
	}
	a, b := startServer(t, "127.0.0.1:0", refuse), startServer(t, "127.0.0.1:0", three)
	c := connectBoth(t, a, b)
	refused, ran := a.runs.Load(), b.runs.Load()
	for calls := int64(1); ; calls++ {
		s, err := list(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			out := &wrapperspb.StringValue{}
			if err := s.RecvMsg(out); err != nil || out.GetValue() != "x" {
				t.Fatalf("RecvMsg = %q, %v", out.GetValue(), err)
			}
		}
		if err := s.RecvMsg(&wrapperspb.StringValue{}); !errors.Is(err, io.EOF) {
			t.Fatalf("the stream ended with %v, want EOF", err)
		}
		if n := b.runs.Load() - ran; n != calls {
			t.Fatalf("the handler ran %d times for %d streams", n, calls)
		}
		if a.runs.Load() > refused && calls > 5 {
			return
		}
	}
}

func TestARefusedChatIsOpenedElsewhereAfterOneMessage(t *testing.T) {
	t.Parallel()
	a, b := startServer(t, "127.0.0.1:0", refuse), startServer(t, "127.0.0.1:0", echoChat)
	c := connectBoth(t, a, b)
	refused := a.runs.Load()
	for i := 0; i < 6 || a.runs.Load() == refused; i++ {
		s, err := c.NewStream(t.Context(), chatDesc, methodChat)
		if err != nil {
			t.Fatal(err)
		}
		for _, text := range []string{"one", "two"} {
			if err := s.SendMsg(wrapperspb.String(text)); err != nil {
				t.Fatal(err)
			}
			out := &wrapperspb.StringValue{}
			if err := s.RecvMsg(out); err != nil || out.GetValue() != text {
				t.Fatalf("RecvMsg = %q, %v; want %q", out.GetValue(), err, text)
			}
		}
		if err := s.CloseSend(); err != nil {
			t.Fatal(err)
		}
		if err := s.RecvMsg(&wrapperspb.StringValue{}); !errors.Is(err, io.EOF) {
			t.Fatalf("the stream ended with %v, want EOF", err)
		}
	}
}

func TestAChatThatSentMoreThanItKeepsIsNotRepeated(t *testing.T) {
	t.Parallel()
	s := startServer(t, "127.0.0.1:0", refuse)
	c := connect(t, newRegistry(s.addr), nil)
	stream, err := c.NewStream(t.Context(), chatDesc, methodChat)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := stream.SendMsg(wrapperspb.String("x")); err != nil && !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
	}
	err = stream.RecvMsg(&wrapperspb.StringValue{})
	wantCode(t, err, codes.Unavailable)
	if n := s.runs.Load(); n != 1 || notprocessed.Is(err) {
		t.Errorf("%d attempts and error %v, want one attempt and no mark", n, err)
	}
}

func TestAStreamRefusedByAllFails(t *testing.T) {
	t.Parallel()
	s := startServer(t, "127.0.0.1:0", refuse)
	c := connect(t, newRegistry(s.addr), nil)
	stream, err := list(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	err = stream.RecvMsg(&wrapperspb.StringValue{})
	wantCode(t, err, codes.Unavailable)
	contains(t, err, "refused without being processed", "3 more attempts")
	if n := s.runs.Load(); n != 4 {
		t.Errorf("%d attempts, want 4", n)
	}
}
