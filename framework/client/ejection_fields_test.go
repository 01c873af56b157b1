package client_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/newsvc/newsvc/framework/client"
)

// The tests below show what each field of client.EjectionPolicy does to real calls.

// ward is servers, the first of which falls sick, and a connection to them whose policy is quick but for what a test changes.
type ward struct {
	*client.Conn
	t   *testing.T
	f   *client.Factory
	p   client.Policy
	all []*patient
}

func newWard(t *testing.T, servers int, change func(*client.EjectionPolicy)) *ward {
	t.Helper()
	all, r := startPatients(t, servers)
	for _, p := range all {
		p.usual = time.Millisecond
	}
	p := client.DefaultPolicy()
	quick(&p)
	if change != nil {
		change(&p.Ejection)
	}
	f := newFactoryOf(t, client.Params{Caller: "caller", Resolver: r, Default: p})
	w := &ward{Conn: mustConn(t, f, "user-service"), t: t, f: f, p: p, all: all}
	ready(t, w.Conn)
	eventually(t, "all take calls", func() bool { return allIn(w.Conn, servers) })
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the instances: %+v", w.Endpoints())
		}
	})
	return w
}

// learn makes calls until it is known what is usual.
func (w *ward) learn() {
	until := time.Now().Add(300 * time.Millisecond)
	for time.Now().Before(until) {
		mustCall(w.t, w.Conn)
	}
}

// calls makes n calls, one after the other, and returns how many of them the first server got.
func (w *ward) calls(n int) int64 {
	before := w.all[0].runs.Load()
	for range n {
		_, _ = call(w.t.Context(), w.Conn, methodPut)
	}
	return w.all[0].runs.Load() - before
}

func (w *ward) sick(how func(grpc.ServerStream) error) { w.all[0].falls(how) }
func (w *ward) out() bool                              { return ejected(w.Conn, w.all[0].addr) != "" }

func (w *ward) change(change func(*client.EjectionPolicy)) {
	w.t.Helper()
	change(&w.p.Ejection)
	if err := w.f.Update("user-service", w.p); err != nil {
		w.t.Fatal(err)
	}
}

func TestEjectionEnabled(t *testing.T) {
	t.Parallel()
	w := newWard(t, 2, func(e *client.EjectionPolicy) { e.Enabled, e.BaseTime, e.MaxTime = false, time.Hour, time.Hour })
	w.sick(fails(codes.Unavailable))
	if n := w.calls(100); n != 50 {
		t.Errorf("without ejection it got %d of 100 calls, want 50", n)
	}
	w.change(func(e *client.EjectionPolicy) { e.Enabled = true })
	if n := w.calls(100); n != 3 || !w.out() {
		t.Errorf("with ejection it got %d of 100 calls, want 3", n)
	}
	w.change(func(e *client.EjectionPolicy) { e.Enabled = false })
	if n := w.calls(100); n < 2 || w.out() {
		t.Errorf("when ejection was switched off it got %d of 100 calls", n)
	}
}

func TestEjectionConsecutive(t *testing.T) {
	t.Parallel()
	for _, consecutive := range []int{1, 3, 7} {
		w := newWard(t, 2, func(e *client.EjectionPolicy) {
			e.Consecutive, e.BaseTime, e.MaxTime = consecutive, time.Hour, time.Hour
		})
		w.sick(fails(codes.Unavailable))
		if n := w.calls(50); n != int64(consecutive) {
			t.Errorf("consecutive: %d: it got %d calls", consecutive, n)
		}
	}
}

func TestEjectionErrorShare(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		share float64
		out   bool
	}{{0, false}, {0.3, true}} {
		w := newWard(t, 2, func(e *client.EjectionPolicy) { e.ErrorShare, e.BaseTime, e.MaxTime = c.share, time.Hour, time.Hour })
		w.sick(fails(codes.Internal))
		w.calls(200)
		pause(t, 100*time.Millisecond)
		if w.calls(1); w.out() != c.out {
			t.Errorf("error_share: %v: ejected is %t", c.share, w.out())
		}
	}
}

func TestEjectionMinCalls(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		calls int
		out   bool
	}{{10, true}, {10_000, false}} {
		w := newWard(t, 2, func(e *client.EjectionPolicy) { e.MinCalls, e.BaseTime, e.MaxTime = c.calls, time.Hour, time.Hour })
		w.sick(fails(codes.Internal))
		w.calls(100)
		pause(t, 100*time.Millisecond)
		if w.calls(1); w.out() != c.out {
			t.Errorf("min_calls: %d: ejected is %t", c.calls, w.out())
		}
	}
}

func TestEjectionOfWhoIsSlow(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(*client.EjectionPolicy)
		out    bool
	}{
		"as it is":               {func(*client.EjectionPolicy) {}, true},
		"slow_factor off":        {func(e *client.EjectionPolicy) { e.SlowFactor = 0 }, false},
		"slow_factor very large": {func(e *client.EjectionPolicy) { e.SlowFactor = 10_000 }, false},
		"slow_margin very large": {func(e *client.EjectionPolicy) { e.SlowMargin = time.Minute }, false},
		"slow_after very long":   {func(e *client.EjectionPolicy) { e.SlowAfter = time.Hour }, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWard(t, 2, func(e *client.EjectionPolicy) {
				e.BaseTime, e.MaxTime = time.Hour, time.Hour
				// On a busy machine the other one has slow calls, too, and silence of half a second says more of us.
				e.SlowMargin, e.SlowAfter = 100*time.Millisecond, 800*time.Millisecond
				c.change(e)
			})
			w.learn()
			w.sick(takes(400 * time.Millisecond))
			startLoad(t, w.Conn, 8)
			if c.out {
				eventually(t, "it is ejected", w.out)
				contains(t, errors.New(ejected(w.Conn, w.all[0].addr)), "took too long")
				return
			}
			pause(t, 1500*time.Millisecond)
			if w.out() {
				t.Errorf("it is %s", ejected(w.Conn, w.all[0].addr))
			}
		})
	}
}

func TestEjectionBaseTime(t *testing.T) {
	t.Parallel()
	long := newWard(t, 2, func(e *client.EjectionPolicy) { e.BaseTime, e.MaxTime = time.Hour, time.Hour })
	short := newWard(t, 2, func(e *client.EjectionPolicy) { e.BaseTime, e.MaxTime = 20*time.Millisecond, time.Hour })
	for _, w := range []*ward{long, short} {
		w.sick(fails(codes.Unavailable))
		w.calls(10)
		w.all[0].heals()
		startLoad(t, w.Conn, 2)
	}
	eventually(t, "the one with the short time is back", func() bool { return !short.out() })
	if !long.out() {
		t.Error("the one with the long time is back too")
	}
}

func TestEjectionMaxTime(t *testing.T) {
	t.Parallel()
	var wards [2]*ward
	var tries [2]int64
	for n, longest := range []time.Duration{50 * time.Millisecond, time.Hour} {
		w := newWard(t, 2, func(e *client.EjectionPolicy) { e.BaseTime, e.MaxTime = 50*time.Millisecond, longest })
		w.sick(fails(codes.Unavailable))
		w.calls(10)
		wards[n], tries[n] = w, w.all[0].runs.Load()
		startLoad(t, w.Conn, 2)
	}
	pause(t, 2500*time.Millisecond)
	for n, w := range wards {
		tries[n] = w.all[0].runs.Load() - tries[n]
	}
	if tries[0] < 2*tries[1] {
		t.Errorf("it was tried %d times when sentences don't grow, and %d times when they do", tries[0], tries[1])
	}
}

func TestEjectionMaxShare(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		share float64
		out   int
	}{{0, 0}, {0.2, 1}, {0.5, 2}} {
		w := newWard(t, 5, func(e *client.EjectionPolicy) { e.MaxShare, e.BaseTime, e.MaxTime = c.share, time.Hour, time.Hour })
		w.all[0].falls(fails(codes.Unavailable))
		w.calls(50)
		w.all[1].falls(fails(codes.Unavailable))
		w.calls(50)
		if !allIn(w.Conn, 5-c.out) {
			t.Errorf("max_share: %v: want %d of 5 ejected: %+v", c.share, c.out, w.Endpoints())
		}
	}
}

func TestEjectionSlowStart(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		over        time.Duration
		least, most int64
	}{{0, 100, 101}, {time.Hour, 10, 40}} {
		w := newWard(t, 2, func(e *client.EjectionPolicy) { e.BaseTime, e.SlowStart = 20*time.Millisecond, c.over })
		w.sick(fails(codes.Unavailable))
		w.calls(10)
		w.all[0].heals()
		eventually(t, "it is back", func() bool {
			w.calls(2)
			return !w.out()
		})
		if n := w.calls(200); n < c.least || n > c.most {
			t.Errorf("slow_start: %v: it got %d of 200 calls, want %d to %d", c.over, n, c.least, c.most)
		}
	}
}

func TestAnEjectedInstanceStaysOutWhileItDoesNotAnswerItsHealthCheck(t *testing.T) {
	t.Parallel()
	released := make(chan struct{})
	sick := startServer(t, "127.0.0.1:0", func(_ *server, _, _ string, _ grpc.ServerStream) error {
		select {
		case <-released:
			return nil
		default:
			return fails(codes.Unavailable)(nil)
		}
	}, grpc.UnaryInterceptor(func(ctx context.Context, req any, info *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
		if strings.HasSuffix(info.FullMethod, "/Check") {
			select {
			case <-released:
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
		return h(ctx, req)
	}))
	well := startServer(t, "127.0.0.1:0", nil)
	c := connect(t, newRegistry(sick.addr, well.addr), quick)
	eventually(t, "both take calls", func() bool { return allIn(c, 2) })
	startLoad(t, c, 2)
	eventually(t, "it is ejected", func() bool { return ejected(c, sick.addr) != "" })
	before := sick.runs.Load()
	pause(t, 1200*time.Millisecond)
	if n := sick.runs.Load() - before; n > 2 { // those that were under way
		t.Errorf("it does not answer its health check and got %d calls", n)
	}
	close(released)
	eventually(t, "calls try it", func() bool { return sick.runs.Load() > before+2 })
}

func TestEjectionIsValidated(t *testing.T) {
	t.Parallel()
	for key, change := range map[string]func(*client.EjectionPolicy){
		"consecutive": func(e *client.EjectionPolicy) { e.Consecutive = 0 },
		"error_share": func(e *client.EjectionPolicy) { e.ErrorShare = 1.5 },
		"min_calls":   func(e *client.EjectionPolicy) { e.MinCalls = 0 },
		"slow_factor": func(e *client.EjectionPolicy) { e.SlowFactor = 1 },
		"slow_margin": func(e *client.EjectionPolicy) { e.SlowMargin = -1 },
		"slow_after":  func(e *client.EjectionPolicy) { e.SlowAfter = 0 },
		"base_time":   func(e *client.EjectionPolicy) { e.BaseTime = 0 },
		"max_time":    func(e *client.EjectionPolicy) { e.MaxTime = time.Second },
		"max_share":   func(e *client.EjectionPolicy) { e.MaxShare = 1 },
		"slow_start":  func(e *client.EjectionPolicy) { e.SlowStart = -1 },
	} {
		p := client.DefaultPolicy()
		change(&p.Ejection)
		err := p.Validate()
		if err == nil || !strings.HasPrefix(err.Error(), "ejection."+key+": ") || !strings.Contains(err.Error(), "write") {
			t.Errorf("%s: error %v", key, err)
		}
		p.Ejection.Enabled = false
		if err := p.Validate(); err != nil {
			t.Errorf("%s: what is switched off is refused: %v", key, err)
		}
	}
}
