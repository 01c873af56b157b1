package client_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/newsvc/newsvc/framework/client"
	"github.com/newsvc/newsvc/framework/internal/backoff"
	"github.com/newsvc/newsvc/framework/internal/loop"
	"github.com/newsvc/newsvc/framework/internal/notprocessed"
)

// lagging is a server that answers when the test says so, and counts the attempts that were given up.
type lagging struct {
	*server
	late atomic.Int64 // nanoseconds
	lost atomic.Int64
	fail atomic.Pointer[error]
}

func startLagging(t *testing.T, late time.Duration) *lagging {
	t.Helper()
	l := &lagging{}
	l.late.Store(int64(late))
	l.server = startServer(t, "127.0.0.1:0", func(s *server, method, in string, stream grpc.ServerStream) error {
		if err := backoff.Sleep(stream.Context(), time.Duration(l.late.Load())); err != nil {
			l.lost.Add(1)
			return err
		}
		if err := l.fail.Load(); err != nil {
			return *err
		}
		_ = stream.SetHeader(metadata.Pairs("from", s.addr)) // fails only after the first message
		stream.SetTrailer(metadata.Pairs("from", s.addr))
		return answerAddr(s, method, in, stream)
	})
	return l
}

// forever is longer than any test.
const forever = time.Hour

// connectHedged connects to all of them, with hedging; change may alter that.
func connectHedged(t *testing.T, change func(*client.Policy), all ...*lagging) *client.Conn {
	t.Helper()
	var addrs []string
	for _, l := range all {
		addrs = append(addrs, l.addr)
	}
	c := connect(t, newRegistry(addrs...), func(p *client.Policy) {
		p.Hedging.Delay, p.Hedging.BudgetRatio = 20*time.Millisecond, 1
		p.Ejection.Enabled = false // which would cut the tail, too
		if change != nil {
			change(p)
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := c.WaitInstances(ctx, len(all)); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestASlowInstanceIsCutFromTheTail(t *testing.T) {
	t.Parallel()
	slow, quick := startLagging(t, forever), startLagging(t, 0)
	c := connectHedged(t, func(p *client.Policy) { p.Timeout = 30 * time.Second }, slow, quick)
	const calls = 20
	var worst time.Duration
	for range calls {
		began := time.Now()
		got, err := call(t.Context(), c, methodGet)
		worst = max(worst, time.Since(began))
		if err != nil || got != quick.addr {
			t.Fatalf("call = %q, %v; want an answer of %q", got, err, quick.addr)
		}
	}
	met := slow.runs.Load()
	t.Logf("the longest of %d calls, of which %d met an instance that hangs, took %v", calls, met, worst)
	if met < calls/2 || met > calls*3/4 { // on a busy machine a quick call is late now and then, and its hedge goes there
		t.Errorf("%d of %d calls met the slow instance, want half: a hedge takes nobody's turn", met, calls)
	}
	eventually(t, "what lost was cancelled", func() bool { return slow.lost.Load() == slow.runs.Load() })
	if s := c.State(); s.HedgesWon < calls/2 || s.Hedges < s.HedgesWon {
		t.Errorf("%d hedges, %d won", s.Hedges, s.HedgesWon)
	}
}

func TestOnlyIdempotentUnaryMethodsAreHedged(t *testing.T) {
	t.Parallel()
	for _, method := range []string{methodPut, "/elsewhere.v1.Service/Method"} {
		slow, quick := startLagging(t, forever), startLagging(t, 0)
		c := connectHedged(t, func(p *client.Policy) { p.Timeout = 500 * time.Millisecond }, slow, quick)
		failed := 0
		for range 4 {
			if _, err := call(t.Context(), c, method); err != nil {
				wantCode(t, err, codes.DeadlineExceeded)
				failed++
			}
		}
		if n := slow.runs.Load() + quick.runs.Load(); n != 4 || failed == 0 || failed != int(slow.runs.Load()) {
			t.Errorf("%s: %d attempts for 4 calls, %d failed; want each one made once, and those at the slow instance to fail", method, n, failed)
		}
	}
	slow, quick := startLagging(t, 100*time.Millisecond), startLagging(t, 100*time.Millisecond)
	c := connectHedged(t, nil, slow, quick)
	s, err := list(t.Context(), c)
	if err == nil {
		err = s.RecvMsg(&wrapperspb.StringValue{})
	}
	if n := slow.runs.Load() + quick.runs.Load(); n != 1 || err != nil {
		t.Errorf("a stream was made %d times (%v), want once", n, err)
	}
}

func TestHedgesGoToOneMoreInstanceEach(t *testing.T) {
	t.Parallel()
	for _, attempts := range []int{2, 3, 4} {
		for _, rule := range []string{client.RoundRobin, client.LeastRequest, client.RingHash} {
			t.Run(fmt.Sprint(attempts, " ", rule), func(t *testing.T) {
				t.Parallel()
				all := []*lagging{startLagging(t, forever), startLagging(t, forever), startLagging(t, forever), startLagging(t, forever)}
				c := connectHedged(t, func(p *client.Policy) {
					p.Timeout, p.Hedging.MaxAttempts, p.Balancer = 2*time.Second, attempts, rule
				}, all...)
				_, err := call(client.WithHashKey(t.Context(), "key"), c, methodGet)
				wantCode(t, err, codes.DeadlineExceeded)
				contains(t, err, "within 2s (clients.user-service.timeout")
				met := 0
				for _, l := range all {
					if n := l.runs.Load(); n > 1 {
						t.Errorf("an instance had the call %d times", n)
					} else {
						met += int(n)
					}
				}
				if met != attempts {
					t.Errorf("%d instances had the call, want %d", met, attempts)
				}
			})
		}
	}
}

func TestHedgesAreAShareOfTheCalls(t *testing.T) {
	t.Parallel()
	const burst = 10
	for ratio, most := range map[float64]int64{0.05: burst + 100*0.05, 0.5: burst + 100*0.5} {
		t.Run(fmt.Sprint(ratio), func(t *testing.T) {
			t.Parallel()
			one, other := startLagging(t, 8*time.Millisecond), startLagging(t, 8*time.Millisecond)
			c := connectHedged(t, func(p *client.Policy) { p.Hedging.Delay, p.Hedging.BudgetRatio = time.Millisecond, ratio }, one, other)
			for range 100 {
				if _, err := call(t.Context(), c, methodGet); err != nil {
					t.Fatal(err)
				}
			}
			// All calls are late; that a few timers are late, too, does not matter.
			if n := c.State().Hedges; n > most || n < most*8/10 {
				t.Errorf("%d hedges for 100 calls, want %d at most, and nearly as many", n, most)
			}
		})
	}
}

func TestThereIsNoHedgeWhereItWouldNotHelp(t *testing.T) {
	t.Parallel()
	slow := 80 * time.Millisecond
	for name, c := range map[string]struct {
		change    func(*client.Policy)
		instances int
		prepare   func(*testing.T, *client.Conn, []*lagging)
		opts      []grpc.CallOption
	}{
		"switched off":             {change: func(p *client.Policy) { p.Hedging.Delay = 0 }},
		"with a single instance":   {instances: 1},
		"with pick_first":          {change: func(p *client.Policy) { p.Balancer = client.PickFirst }, instances: 1},
		"with a hook at the end":   {opts: []grpc.CallOption{grpc.OnFinish(func(error) {})}},
		"with the bound in flight": {change: func(p *client.Policy) { p.Breaker.MaxInFlight = 1 }},
		"while the breaker acts": {
			change: func(p *client.Policy) {
				p.Breaker = client.BreakerPolicy{Enabled: true, Ratio: 1, Window: time.Hour, MinCalls: 4}
				p.Retry.MaxAttempts = 1
			},
			prepare: func(t *testing.T, c *client.Conn, all []*lagging) {
				all[0].late.Store(0)
				all[1].late.Store(0)
				failAll(all, status.Error(codes.Unavailable, "broken"))
				eventually(t, "the breaker refuses calls", func() bool {
					_, err := call(t.Context(), c, methodPut)
					return strings.Contains(err.Error(), "the breaker")
				})
			},
		},
		"while calls are refused": {
			change: func(p *client.Policy) {
				p.NotProcessed = client.RepeatPolicy{MaxAttempts: 4, BudgetTokens: 4, BudgetRatio: 0.001}
			},
			prepare: func(t *testing.T, c *client.Conn, all []*lagging) {
				failAll(all, notprocessed.Error("busy"))
				_, err := call(t.Context(), c, methodPut)
				wantCode(t, err, codes.Unavailable)
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			all := []*lagging{startLagging(t, 0), startLagging(t, 0)}
			if c.instances > 0 {
				all = all[:c.instances]
			}
			conn := connectHedged(t, c.change, all...)
			if c.prepare != nil {
				c.prepare(t, conn, all)
			}
			for _, l := range all {
				l.fail.Store(nil)
				l.late.Store(int64(slow))
			}
			before := attemptsAt(all)
			for range 3 {
				_, _ = call(t.Context(), conn, methodGet, c.opts...) // the breaker may refuse it
			}
			if n := attemptsAt(all) - before; n > 3 || conn.State().Hedges != 0 {
				t.Errorf("%d attempts for 3 calls, %d hedges", n, conn.State().Hedges)
			}
		})
	}
}

func failAll(all []*lagging, err error) {
	for _, l := range all {
		l.fail.Store(&err)
	}
}

func attemptsAt(all []*lagging) (n int64) {
	for _, l := range all {
		n += l.runs.Load()
	}
	return n
}

func TestAnAnswerWinsAndAFaultOfAnInstanceDoesNot(t *testing.T) {
	t.Parallel()
	for code, wins := range map[codes.Code]bool{codes.NotFound: true, codes.Internal: false, codes.Unknown: false} {
		t.Run(code.String(), func(t *testing.T) {
			t.Parallel()
			slow, quick := startLagging(t, 700*time.Millisecond), startLagging(t, 0)
			c := connectHedged(t, nil, slow, quick)
			failAll([]*lagging{quick}, status.Error(code, "by the quick one"))
			eventually(t, "the slow instance had a call", func() bool {
				before := slow.runs.Load()
				got, err := call(t.Context(), c, methodGet)
				if slow.runs.Load() == before {
					return false // this one went to the quick one first
				}
				if wins != (status.Code(err) == code) || !wins && (err != nil || got != slow.addr) {
					t.Errorf("call = %q, %v; want the answer of the quick instance: %v", got, err, wins)
				}
				return true
			})
		})
	}
}

func TestTheCallerIsHandedWhatCameWithTheAnswerThatWon(t *testing.T) {
	t.Parallel()
	slow, quick := startLagging(t, forever), startLagging(t, 0)
	c := connectHedged(t, nil, slow, quick)
	eventually(t, "a hedge won", func() bool {
		var header, trailer metadata.MD
		var from peer.Peer
		got, err := call(t.Context(), c, methodGet, grpc.Header(&header), grpc.Trailer(&trailer), grpc.Peer(&from))
		if err != nil || got != quick.addr || !slices.Equal(header.Get("from"), []string{got}) || !slices.Equal(trailer.Get("from"), []string{got}) ||
			from.Addr.String() != got {
			t.Fatalf("answer %q (%v), header %v, trailer %v, peer %v", got, err, header, trailer, from)
		}
		return c.State().HedgesWon > 0
	})
}

// Replies and requests belong to the caller again when the call has returned, whichever attempt won; the race detector looks on.
func TestHedgedCallsShareNothing(t *testing.T) {
	t.Parallel()
	one, other := startLagging(t, time.Millisecond), startLagging(t, time.Millisecond)
	c := connectHedged(t, func(p *client.Policy) { p.Hedging.Delay, p.Hedging.MaxAttempts = time.Millisecond, 3 }, one, other)
	var callers loop.Group
	var left sync.WaitGroup
	for range 4 {
		left.Add(1)
		callers.Start(t.Context(), func(ctx context.Context) {
			defer left.Done()
			in, out := wrapperspb.String(""), wrapperspb.String("")
			for n := range 100 {
				in.Value = strings.Repeat("x", n)
				if err := c.Invoke(ctx, methodGet, in, out); err != nil {
					t.Error(err)
				}
				in.Value, out.Value = "", ""
			}
		})
	}
	left.Wait()
	callers.Stop()
	t.Logf("%d hedges of 400 calls, %d won", c.State().Hedges, c.State().HedgesWon)
}

func TestHedgingIsSwitchedOnWhileCallsRun(t *testing.T) {
	t.Parallel()
	slow, quick := startLagging(t, forever), startLagging(t, 0)
	r := newRegistry(slow.addr, quick.addr)
	p := client.DefaultPolicy()
	p.Timeout, p.Ejection.Enabled = 30*time.Second, false
	f := newFactoryOf(t, client.Params{Caller: "caller", Resolver: r, Default: p})
	c := mustConn(t, f, "user-service")
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := c.WaitInstances(ctx, 2); err != nil {
		t.Fatal(err)
	}
	p.Hedging.Delay = 10 * time.Millisecond
	if err := f.Update("user-service", p); err != nil {
		t.Fatal(err)
	}
	for range 4 {
		if got, err := call(t.Context(), c, methodGet); err != nil || got != quick.addr {
			t.Errorf("call = %q, %v", got, err)
		}
	}
}

func TestACallThatEndsTakesItsHedgesAlong(t *testing.T) {
	t.Parallel()
	one, other := startLagging(t, forever), startLagging(t, forever)
	c := connectHedged(t, nil, one, other)
	ctx, cancel := context.WithCancel(t.Context())
	l := loop.Start(t.Context(), func(context.Context) {
		eventually(t, "both have the call", func() bool { return one.runs.Load() == 1 && other.runs.Load() == 1 })
		cancel()
	})
	defer l.Stop()
	_, err := call(ctx, c, methodGet)
	wantCode(t, err, codes.Canceled)
	if n := c.State().RunningCalls; n != 0 {
		t.Errorf("%d calls run after the end", n)
	}
	eventually(t, "both were told", func() bool { return one.lost.Load() == 1 && other.lost.Load() == 1 })
}

func TestAnInstanceThatHangsIsEjectedThoughNoCallWaitsForIt(t *testing.T) {
	t.Parallel()
	hangs, other, third := startLagging(t, forever), startLagging(t, time.Millisecond), startLagging(t, time.Millisecond)
	c := connectHedged(t, func(p *client.Policy) { p.Ejection = client.DefaultPolicy().Ejection }, hangs, other, third)
	eventually(t, "it is ejected", func() bool {
		if got, err := call(t.Context(), c, methodGet); err != nil || got == hangs.addr {
			t.Fatalf("call = %q, %v", got, err)
		}
		return c.State().Ejections > 0
	})
	for _, e := range c.Endpoints() {
		if (e.Ejected != "") != (e.Addr == hangs.addr) {
			t.Errorf("%s: ejected %q", e.Addr, e.Ejected)
		}
	}
}
