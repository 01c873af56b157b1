package client_test

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/newsvc/newsvc/framework/client"
	"github.com/newsvc/newsvc/framework/internal/loop"
)

// failsWhile answers with UNAVAILABLE while it is set.
func failsWhile(yes *atomic.Bool) handler {
	return func(s *server, method, in string, stream grpc.ServerStream) error {
		if yes.Load() {
			return status.Error(codes.Unavailable, "sick")
		}
		return answerAddr(s, method, in, stream)
	}
}

func breaking(change func(*client.BreakerPolicy)) func(*client.Policy) {
	return func(p *client.Policy) {
		p.Breaker.Enabled = true
		if change != nil {
			change(&p.Breaker)
		}
	}
}

// reached makes n calls that fail and returns how many of them came to the server.
func reached(t *testing.T, c *client.Conn, s *server, n int) int64 {
	t.Helper()
	before := s.runs.Load()
	for range n {
		_, err := call(t.Context(), c, methodPut)
		wantCode(t, err, codes.Unavailable)
	}
	return s.runs.Load() - before
}

func TestBreakerEnabled(t *testing.T) {
	t.Parallel()
	var sick atomic.Bool
	sick.Store(true)
	s := startServer(t, "127.0.0.1:0", failsWhile(&sick))
	if n := reached(t, connect(t, newRegistry(s.addr), nil), s, 300); n != 300 {
		t.Errorf("without a breaker %d of 300 calls came to the server", n)
	}
	c := connect(t, newRegistry(s.addr), breaking(nil))
	if n := reached(t, c, s, 300); n < 20 || n > 150 {
		t.Errorf("with a breaker %d of 300 calls came to a server that fails them all, want few more than 20", n)
	}
	for { // until one is refused
		_, err := call(t.Context(), c, methodPut)
		if status.Convert(err).Message() == "sick" {
			continue
		}
		wantCode(t, err, codes.Unavailable)
		contains(t, err, `calling "user-service": the breaker of clients.user-service`, "calls failed in the last 10s", "clients.user-service.breaker.enabled")
		if public := status.Convert(err).Message(); public != `too many calls to "user-service" at present` {
			t.Errorf("others are told %q", public)
		}
		break
	}
	if why := c.State().Breaker; !strings.HasPrefix(why, "open: ") || !strings.Contains(why, "calls failed in the last 10s") {
		t.Errorf("the state says of the breaker %q", why)
	}
}

func TestTheBreakerLetsCallsPassWhenTheySucceedAgain(t *testing.T) {
	t.Parallel()
	var sick atomic.Bool
	sick.Store(true)
	s := startServer(t, "127.0.0.1:0", failsWhile(&sick))
	c := connect(t, newRegistry(s.addr), breaking(func(b *client.BreakerPolicy) { b.Window = 500 * time.Millisecond }))
	reached(t, c, s, 200)
	sick.Store(false)
	row := 0
	eventually(t, "100 calls in a row succeed", func() bool {
		if _, err := call(t.Context(), c, methodPut); err != nil {
			row = 0
		}
		row++
		return row > 100
	})
}

func TestTheBreakerCountsNoErrorsOfTheApplication(t *testing.T) {
	t.Parallel()
	for _, code := range []codes.Code{codes.NotFound, codes.Internal, codes.ResourceExhausted} {
		s := startServer(t, "127.0.0.1:0", func(*server, string, string, grpc.ServerStream) error { return status.Error(code, "no") })
		c := connect(t, newRegistry(s.addr), breaking(nil))
		for range 200 {
			_, err := call(t.Context(), c, methodPut)
			wantCode(t, err, code)
		}
	}
}

func TestBreakerRatioMinCallsAndWindow(t *testing.T) {
	t.Parallel()
	var sick atomic.Bool
	s := startServer(t, "127.0.0.1:0", failsWhile(&sick))
	of := func(change func(*client.BreakerPolicy)) int64 {
		sick.Store(false)
		c := connect(t, newRegistry(s.addr), breaking(func(b *client.BreakerPolicy) {
			b.Window = time.Hour // however slow this machine is
			change(b)
		}))
		for range 100 {
			mustCall(t, c)
		}
		sick.Store(true)
		return reached(t, c, s, 400)
	}
	usual := of(func(*client.BreakerPolicy) {})
	if n := of(func(b *client.BreakerPolicy) { b.Ratio = 4 }); n < usual+40 {
		t.Errorf("ratio: %d of 400 calls came through with 4, %d with 2", n, usual)
	}
	if n := of(func(b *client.BreakerPolicy) { b.MinCalls = 1000 }); n != 400 {
		t.Errorf("min_calls: %d of 400 calls came through, want all", n)
	}
	sick.Store(true)
	c := connect(t, newRegistry(s.addr), breaking(func(b *client.BreakerPolicy) { b.Window = 100 * time.Millisecond }))
	reached(t, c, s, 100)
	pause(t, 150*time.Millisecond)
	if n := reached(t, c, s, 10); n != 10 {
		t.Errorf("window: after it is over %d of 10 calls came through, want all", n)
	}
}

func TestBreakerMaxInFlight(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	s := startServer(t, "127.0.0.1:0", func(s *server, method, in string, stream grpc.ServerStream) error {
		select {
		case <-release:
		case <-stream.Context().Done():
		}
		return answerAddr(s, method, in, stream)
	})
	c := connect(t, newRegistry(s.addr), func(p *client.Policy) { p.Breaker.MaxInFlight = 3 })
	var g loop.Group
	defer g.Stop()
	for range 2 {
		g.Start(t.Context(), func(ctx context.Context) { _, _ = call(ctx, c, methodPut) })
	}
	stream, err := list(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "three run", func() bool { return s.runs.Load() == 3 })
	_, err = call(t.Context(), c, methodPut)
	wantCode(t, err, codes.Unavailable)
	contains(t, err, "3 calls run already", "clients.user-service.breaker.max_in_flight")
	_, err = list(t.Context(), c)
	wantCode(t, err, codes.Unavailable)
	if s.runs.Load() != 3 {
		t.Error("what was refused came to the server")
	}
	close(release)
	for err = nil; err == nil; {
		err = stream.RecvMsg(&wrapperspb.StringValue{})
	}
	eventually(t, "three more calls run one after the other", func() bool {
		for range 3 {
			if _, err := call(t.Context(), c, methodPut); err != nil {
				return false
			}
		}
		return true
	})
	for range 10 { // streams that end give their place back
		again, err := list(t.Context(), c)
		for err == nil {
			err = again.RecvMsg(&wrapperspb.StringValue{})
		}
		if status.Code(err) == codes.Unavailable {
			t.Fatal(err)
		}
	}
}

func TestBreakerIsValidated(t *testing.T) {
	t.Parallel()
	for key, change := range map[string]func(*client.BreakerPolicy){
		"ratio":         func(b *client.BreakerPolicy) { b.Ratio = 0.5 },
		"window":        func(b *client.BreakerPolicy) { b.Window = 0 },
		"min_calls":     func(b *client.BreakerPolicy) { b.MinCalls = 0 },
		"max_in_flight": func(b *client.BreakerPolicy) { b.MaxInFlight = -1 },
	} {
		p := client.DefaultPolicy()
		p.Breaker.Enabled = true
		change(&p.Breaker)
		if err := p.Validate(); err == nil || !strings.HasPrefix(err.Error(), "breaker."+key+": ") || !strings.Contains(err.Error(), "write") {
			t.Errorf("%s: error %v", key, err)
		}
	}
}
