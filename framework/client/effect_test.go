package client_test

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/newsvc/newsvc/framework/client"
	"github.com/newsvc/newsvc/framework/internal/backoff"
	"github.com/newsvc/newsvc/framework/internal/loop"
)

// failing is a server whose calls fail as it is told, and that knows when they came.
type failing struct {
	*server
	mu    sync.Mutex
	err   error
	times []time.Time
}

func startFailing(t *testing.T, err error) *failing {
	t.Helper()
	f := &failing{err: err}
	f.server = startServer(t, "127.0.0.1:0", func(s *server, _, _ string, stream grpc.ServerStream) error {
		f.mu.Lock()
		f.times = append(f.times, time.Now())
		err := f.err
		f.mu.Unlock()
		if err != nil {
			return err
		}
		return answerAddr(s, "", "", stream)
	})
	return f
}

func (f *failing) fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err = err
}

// attempts makes a call and returns when its attempts came.
func (f *failing) attempts(t *testing.T, c *client.Conn, method string) []time.Time {
	t.Helper()
	f.mu.Lock()
	f.times = nil
	f.mu.Unlock()
	_, err := call(t.Context(), c, method)
	f.mu.Lock()
	defer f.mu.Unlock()
	if (err == nil) != (f.err == nil) {
		t.Fatalf("the call: %v", err)
	}
	return f.times
}

var errDown = status.Error(codes.Unavailable, "the disk is full")

func TestMaxAttemptsBoundsRetries(t *testing.T) {
	t.Parallel()
	for _, most := range []int{1, 3} {
		s := startFailing(t, errDown)
		c := connect(t, newRegistry(s.addr), func(p *client.Policy) {
			p.Retry.MaxAttempts, p.Retry.InitialBackoff, p.Retry.MaxBackoff = most, time.Millisecond, time.Millisecond
		})
		if n := len(s.attempts(t, c, methodGet)); n != most {
			t.Errorf("retry.max_attempts %d: %d attempts", most, n)
		}
	}
}

func TestRetriesStopWhenTheirBudgetIsHalfEmpty(t *testing.T) {
	t.Parallel()
	for tokens, want := range map[int]int{2: 1, 4: 2, 1000: 4} {
		s := startFailing(t, errDown)
		c := connect(t, newRegistry(s.addr), func(p *client.Policy) {
			p.Retry.BudgetTokens, p.Retry.InitialBackoff, p.Retry.MaxBackoff = tokens, time.Millisecond, time.Millisecond
		})
		if n := len(s.attempts(t, c, methodGet)); n != want {
			t.Errorf("retry.budget_tokens %d: %d attempts, want %d", tokens, n, want)
		}
	}
}

func TestSuccessesEarnRetries(t *testing.T) {
	t.Parallel()
	for ratio, want := range map[float64]int{1: 2, 0.001: 1} {
		s := startFailing(t, errDown)
		c := connect(t, newRegistry(s.addr), func(p *client.Policy) {
			p.Retry.BudgetTokens, p.Retry.BudgetRatio = 4, ratio
			p.Retry.InitialBackoff, p.Retry.MaxBackoff = time.Millisecond, time.Millisecond
		})
		for range 5 {
			s.attempts(t, c, methodGet) // until the budget is spent
		}
		s.fail(nil)
		for range 10 {
			s.attempts(t, c, methodGet)
		}
		s.fail(errDown)
		if n := len(s.attempts(t, c, methodGet)); n != want {
			t.Errorf("retry.budget_ratio %v: %d attempts after 10 successes, want %d", ratio, n, want)
		}
	}
}

// The waits between attempts are jittered by a fifth. A busy machine makes them longer, so of some calls the quickest counts.
func TestBackoffSpacesRetriesOut(t *testing.T) {
	t.Parallel()
	const ms = time.Millisecond
	for name, tc := range map[string]struct {
		retry         func(*client.RetryPolicy)
		longer, below [2]time.Duration // than the first and the second wait
	}{
		"initial_backoff":           {func(r *client.RetryPolicy) { r.InitialBackoff, r.MaxBackoff, r.Multiplier = 200*ms, 10000*ms, 1 }, [2]time.Duration{160 * ms, 160 * ms}, [2]time.Duration{700 * ms, 700 * ms}},
		"a shorter initial_backoff": {func(r *client.RetryPolicy) { r.InitialBackoff, r.MaxBackoff, r.Multiplier = 1*ms, 10000*ms, 1 }, [2]time.Duration{}, [2]time.Duration{150 * ms, 150 * ms}},
		"multiplier":                {func(r *client.RetryPolicy) { r.InitialBackoff, r.MaxBackoff, r.Multiplier = 200*ms, 10000*ms, 5 }, [2]time.Duration{160 * ms, 800 * ms}, [2]time.Duration{700 * ms, 3000 * ms}},
		"max_backoff":               {func(r *client.RetryPolicy) { r.InitialBackoff, r.MaxBackoff, r.Multiplier = 200*ms, 200*ms, 5 }, [2]time.Duration{160 * ms, 160 * ms}, [2]time.Duration{700 * ms, 700 * ms}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startFailing(t, errDown)
			c := connect(t, newRegistry(s.addr), func(p *client.Policy) {
				p.Retry.MaxAttempts, p.Retry.BudgetTokens = 3, 1000
				tc.retry(&p.Retry)
			})
			var quickest [2]time.Duration
			for range 3 {
				at := s.attempts(t, c, methodGet)
				if len(at) != 3 {
					t.Fatalf("%d attempts", len(at))
				}
				for n := range quickest {
					if wait := at[n+1].Sub(at[n]); quickest[n] == 0 || wait < quickest[n] {
						quickest[n] = wait
					}
				}
			}
			for n, wait := range quickest {
				if wait < tc.longer[n] || wait > tc.below[n] {
					t.Errorf("wait %d was %v, want %v to %v", n+1, wait, tc.longer[n], tc.below[n])
				}
			}
		})
	}
}

func TestRepeatsAreBoundedByTheirPolicy(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		policy        client.RepeatPolicy
		first, second int // attempts of the first call and of the second
	}{
		"no repeats":         {client.RepeatPolicy{MaxAttempts: 1}, 1, 1},
		"max_attempts":       {client.RepeatPolicy{MaxAttempts: 3, BudgetTokens: 100, BudgetRatio: 1}, 3, 3},
		"budget_tokens":      {client.RepeatPolicy{MaxAttempts: 10, BudgetTokens: 2, BudgetRatio: 0.001}, 3, 1},
		"more budget_tokens": {client.RepeatPolicy{MaxAttempts: 4, BudgetTokens: 4, BudgetRatio: 0.001}, 4, 2},
		"budget_ratio":       {client.RepeatPolicy{MaxAttempts: 10, BudgetTokens: 2, BudgetRatio: 1}, 3, 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startFailing(t, refuse(nil, "", "", nil))
			c := connect(t, newRegistry(s.addr), func(p *client.Policy) { p.NotProcessed = tc.policy })
			if first, second := len(s.attempts(t, c, methodPut)), len(s.attempts(t, c, methodPut)); first != tc.first || second != tc.second {
				t.Errorf("%d attempts and then %d, want %d and %d", first, second, tc.first, tc.second)
			}
		})
	}
}

func TestHealthIsFollowedWhenAsked(t *testing.T) {
	t.Parallel()
	for _, follow := range []bool{true, false} {
		well, sick := startServer(t, "127.0.0.1:0", nil), startServer(t, "127.0.0.1:0", nil)
		sick.health.SetServingStatus("", healthpb.HealthCheckResponse_NOT_SERVING)
		c := connect(t, newRegistry(well.addr, sick.addr), func(p *client.Policy) { p.HealthCheck = follow })
		reached := func() bool {
			_, err := call(t.Context(), c, methodPut)
			return err != nil || sick.runs.Load() > 0
		}
		if !follow {
			eventually(t, "a call of the instance that says NOT_SERVING", reached)
			continue
		}
		for range 100 {
			if reached() {
				t.Fatal("an instance that says NOT_SERVING was called")
			}
		}
	}
}

func TestWaitForReadyDecidesWhetherACallWaits(t *testing.T) {
	t.Parallel()
	s := startServer(t, "127.0.0.1:0", nil)
	s.Stop()
	impatient := mustConn(t, newFactory(t, newRegistry(s.addr), func(p *client.Policy) { p.WaitForReady, p.Timeout = false, time.Minute }), "user-service")
	_, err := call(t.Context(), impatient, methodPut)
	wantCode(t, err, codes.Unavailable)
	patient := mustConn(t, newFactory(t, newRegistry(s.addr), func(p *client.Policy) { p.WaitForReady, p.Timeout = true, time.Minute }), "user-service")
	answered := make(chan error, 1)
	waiting := loop.Start(t.Context(), func(ctx context.Context) {
		_, err := call(ctx, patient, methodPut)
		answered <- err
	})
	defer waiting.Stop()
	pause(t, 100*time.Millisecond)
	select {
	case err := <-answered:
		t.Fatalf("the call did not wait: %v", err)
	default:
	}
	startServer(t, s.addr, nil)
	if err := <-answered; err != nil {
		t.Error(err)
	}
}

// quiet is a connection in memory, in a bubble, on which nothing is called; what the client writes by itself are pings.
type quiet struct {
	net.Conn
	mu      sync.Mutex
	writes  int
	swallow chan struct{} // closed: nothing gets through any more, and nobody is told
}

func (q *quiet) Write(b []byte) (int, error) {
	q.mu.Lock()
	q.writes++
	q.mu.Unlock()
	select {
	case <-q.swallow:
		return len(b), nil
	default:
		return q.Conn.Write(b)
	}
}

func (q *quiet) Read(b []byte) (int, error) {
	for {
		n, err := q.Conn.Read(b)
		select {
		case <-q.swallow:
			if err == nil {
				continue
			}
		default:
		}
		return n, err
	}
}

func (q *quiet) written() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.writes
}

// inQuiet runs a test in a bubble with a connection that is ready, and a stream that is open when asked for.
func inQuiet(t *testing.T, k client.KeepAlive, open bool, test func(ctx context.Context, q *quiet, s grpc.ClientStream)) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		listener := bufconn.Listen(1 << 16)
		g := grpc.NewServer(grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: time.Second, PermitWithoutStream: true}),
			grpc.UnknownServiceHandler(func(_ any, s grpc.ServerStream) error { <-s.Context().Done(); return nil }))
		serving := loop.Start(ctx, func(context.Context) { _ = g.Serve(listener) })
		q := &quiet{swallow: make(chan struct{})}
		p := client.DefaultPolicy()
		p.HealthCheck, p.KeepAlive = false, k // a health check is a stream
		p.Ejection.Enabled = false            // its probes are calls
		f, err := client.NewFactory(client.Params{Caller: "caller", Resolver: newRegistry("10.0.0.1:9000"), Default: p, Dialer: func(ctx context.Context, _ string) (net.Conn, error) {
			if q.Conn != nil {
				return nil, errors.New("the network is gone")
			}
			raw, err := listener.DialContext(ctx)
			q.Conn = raw
			return q, err
		}})
		if err != nil {
			t.Fatal(err)
		}
		c := mustConn(t, f, "user-service")
		if err := c.WaitInstances(ctx, 1); err != nil {
			t.Fatal(err)
		}
		var s grpc.ClientStream
		if open {
			if s, err = c.NewStream(ctx, chatDesc, methodChat); err == nil {
				err = s.SendMsg(wrapperspb.String("x"))
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		test(ctx, q, s)
		cancel()
		_ = f.Close(ctx)
		g.Stop()
		serving.Stop()
		synctest.Wait()
	})
}

func TestKeepAlivePingsAQuietConnectionWhenAsked(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		KeepAlive client.KeepAlive
		open      bool
		pings     [2]int // in two minutes, at least and at most
	}{
		"by default none":             {client.DefaultPolicy().KeepAlive, true, [2]int{0, 0}},
		"time":                        {client.KeepAlive{Time: 10 * time.Second, Timeout: 5 * time.Second}, true, [2]int{9, 13}},
		"a longer time":               {client.KeepAlive{Time: 50 * time.Second, Timeout: 5 * time.Second}, true, [2]int{1, 3}},
		"without a stream none":       {client.KeepAlive{Time: 10 * time.Second, Timeout: 5 * time.Second}, false, [2]int{0, 0}},
		"but permit_without_stream":   {client.KeepAlive{Time: 10 * time.Second, Timeout: 5 * time.Second, PermitWithoutStream: true}, false, [2]int{9, 13}},
		"permit_without_stream alone": {client.KeepAlive{Timeout: 5 * time.Second, PermitWithoutStream: true}, false, [2]int{0, 0}},
	} {
		t.Run(name, func(t *testing.T) {
			inQuiet(t, tc.KeepAlive, tc.open, func(ctx context.Context, q *quiet, _ grpc.ClientStream) {
				before := q.written()
				_ = backoff.Sleep(ctx, 2*time.Minute)
				if n := q.written() - before; n < tc.pings[0] || n > tc.pings[1] {
					t.Errorf("%d pings, want %d to %d", n, tc.pings[0], tc.pings[1])
				}
			})
		})
	}
}

func TestKeepAliveGivesUpAConnectionThatDoesNotAnswer(t *testing.T) {
	t.Parallel()
	for _, Timeout := range []time.Duration{3 * time.Second, 30 * time.Second} {
		inQuiet(t, client.KeepAlive{Time: 10 * time.Second, Timeout: Timeout}, true, func(_ context.Context, q *quiet, s grpc.ClientStream) {
			began := time.Now()
			close(q.swallow)
			err := s.RecvMsg(&wrapperspb.StringValue{})
			took := time.Since(began)
			if status.Code(err) != codes.Unavailable {
				t.Errorf("err = %v", err)
			}
			if took < Timeout || took > Timeout+25*time.Second {
				t.Errorf("timeout %v: the stream ended after %v", Timeout, took)
			}
		})
	}
}
