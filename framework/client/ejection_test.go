package client_test

import (
	"context"
	"flag"
	"fmt"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/newsvc/newsvc/framework/client"
	"github.com/newsvc/newsvc/framework/internal/backoff"
	"github.com/newsvc/newsvc/framework/internal/loop"
	"github.com/newsvc/newsvc/framework/internal/notprocessed"
)

// full lets the tests of ejection take the times that are the default, which is a few minutes.
var full = flag.Bool("ejection.full", false, "test ejection with the default policy instead of a quick one")

// patient is a server that takes its time, and falls sick and heals when the test says so.
type patient struct {
	*server
	usual time.Duration                                 // what a call takes while it is well
	how   atomic.Pointer[func(grpc.ServerStream) error] // nil while it is well
}

// usual is what a call takes at a server that is well, unless the test says something else.
const usual = 5 * time.Millisecond

func startPatient(t testing.TB) *patient {
	p := &patient{usual: usual}
	p.server = startServer(t, "127.0.0.1:0", func(s *server, method, in string, stream grpc.ServerStream) error {
		if how := p.how.Load(); how != nil {
			if err := (*how)(stream); err != nil {
				return err
			}
		} else if err := backoff.Sleep(stream.Context(), p.usual); err != nil {
			return err
		}
		return answerAddr(s, method, in, stream)
	})
	return p
}

func (p *patient) falls(how func(grpc.ServerStream) error) { p.how.Store(&how) }
func (p *patient) heals()                                  { p.how.Store(nil) }

func fails(code codes.Code) func(grpc.ServerStream) error {
	return func(grpc.ServerStream) error { return status.Error(code, "sick") }
}

func takes(d time.Duration) func(grpc.ServerStream) error {
	return func(s grpc.ServerStream) error { return backoff.Sleep(s.Context(), d) }
}

func neverAnswers(s grpc.ServerStream) error { return hang(nil, "", "", s) }

func startPatients(t testing.TB, n int) (all []*patient, r *registry) {
	var addrs []string
	for range n {
		p := startPatient(t)
		all = append(all, p)
		addrs = append(addrs, p.addr)
	}
	return all, newRegistry(addrs...)
}

// quick is an ejection policy that acts within a second, for servers that answer within a few milliseconds.
func quick(p *client.Policy) {
	p.Timeout = time.Second
	p.Ejection.SlowAfter = 200 * time.Millisecond
	p.Ejection.BaseTime = 300 * time.Millisecond
	p.Ejection.MaxTime = time.Second
	p.Ejection.SlowStart = 200 * time.Millisecond
}

// load is callers that make one call after the other until the test ends.
type load struct {
	calls, failed atomic.Int64
}

func startLoad(t testing.TB, c *client.Conn, callers int) *load {
	l := &load{}
	var g loop.Group
	for range callers {
		g.Start(t.Context(), func(ctx context.Context) {
			for ctx.Err() == nil {
				_, err := call(ctx, c, methodPut)
				l.calls.Add(1)
				if err != nil && ctx.Err() == nil {
					l.failed.Add(1)
					_ = backoff.Sleep(ctx, time.Millisecond)
				}
			}
		})
	}
	t.Cleanup(g.Stop)
	return l
}

func ejected(c *client.Conn, addr string) string {
	for _, e := range c.Endpoints() {
		if e.Addr == addr {
			return e.Ejected
		}
	}
	return ""
}

func allIn(c *client.Conn, n int) bool {
	in := 0
	for _, e := range c.Endpoints() {
		if e.Connectivity == "READY" && e.Ejected == "" {
			in++
		}
	}
	return in == n
}

// shares is each server's part of the calls while d passes.
func shares(t testing.TB, all []*patient, d time.Duration) []float64 {
	before := make([]int64, len(all))
	for n, p := range all {
		before[n] = p.runs.Load()
	}
	pause(t, d)
	out, sum := make([]float64, len(all)), 0.0
	for n, p := range all {
		out[n] = float64(p.runs.Load() - before[n])
		sum += out[n]
	}
	for n := range out {
		out[n] /= max(sum, 1)
	}
	return out
}

// within is eventually for what takes long.
func within(t testing.TB, d time.Duration, what string, cond func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	for !cond() {
		if err := backoff.Sleep(ctx, 20*time.Millisecond); err != nil {
			t.Fatalf("waiting until %s: %v", what, err)
		}
	}
}

func TestOneSickInstanceOfFiveIsLeftAndTakenUpAgain(t *testing.T) {
	t.Parallel()
	usual := 20 * time.Millisecond // on a busy machine any call may take 20 ms longer
	for name, how := range map[string]func(grpc.ServerStream) error{
		"hangs": neverAnswers, "UNAVAILABLE": fails(codes.Unavailable), "INTERNAL": fails(codes.Internal), "20 times as slow": takes(20 * usual),
	} {
		t.Run(name, func(t *testing.T) {
			if !*full {
				t.Parallel()
			}
			all, r := startPatients(t, 5)
			for _, p := range all {
				p.usual = usual
			}
			change, sickFor, window, back := func(p *client.Policy) {
				quick(p)
				p.Ejection.BaseTime, p.Ejection.MaxTime = 2*time.Second, 2*time.Second // tries are few calls of few
			}, time.Duration(0), 1500*time.Millisecond, 20*time.Second
			if *full {
				change, sickFor, window, back = nil, 10*time.Second, 20*time.Second, 15*time.Second
			}
			c := connect(t, r, change)
			startLoad(t, c, 16)
			eventually(t, "all take calls", func() bool { return allIn(c, 5) })
			pause(t, 600*time.Millisecond)
			all[0].falls(how)
			if *full {
				pause(t, sickFor)
			} else {
				within(t, 10*time.Second, "it is ejected", func() bool { return ejected(c, all[0].addr) != "" })
			}
			if got := shares(t, all, window); got[0] >= 0.02 {
				t.Errorf("the sick one has %.2f %% of the calls; %s", 100*got[0], ejected(c, all[0].addr))
			} else {
				t.Logf("the sick one has %.2f %% of the calls", 100*got[0])
			}
			healed := time.Now()
			all[0].heals()
			within(t, back, "it has its share again", func() bool { return shares(t, all, 300*time.Millisecond)[0] > 0.1 })
			t.Logf("its share is back after %v", time.Since(healed))
		})
	}
}

func TestNeverAreAllEjected(t *testing.T) {
	t.Parallel()
	all, r := startPatients(t, 5)
	c := connect(t, r, quick)
	l := startLoad(t, c, 16)
	eventually(t, "all take calls", func() bool { return allIn(c, 5) })
	pause(t, 500*time.Millisecond)
	// One after the other, so that those before are no comparison for those after.
	for _, p := range all {
		p.falls(fails(codes.Unavailable))
		until := time.Now().Add(300 * time.Millisecond)
		for time.Now().Before(until) {
			out := 0
			for _, e := range c.Endpoints() {
				if e.Ejected != "" {
					out++
				}
			}
			if out > 2 {
				t.Fatalf("%d of 5 are ejected: %+v", out, c.Endpoints())
			}
			pause(t, 5*time.Millisecond)
		}
	}
	before := l.failed.Load()
	eventually(t, "calls go on and fail", func() bool { return l.failed.Load() > before+10 })
	for _, p := range all {
		p.heals()
	}
	eventually(t, "all take calls again", func() bool { return allIn(c, 5) })
}

func TestTheOnlyInstanceIsNeverEjected(t *testing.T) {
	t.Parallel()
	all, r := startPatients(t, 1)
	c := connect(t, r, quick)
	all[0].falls(fails(codes.Unavailable))
	for range 50 {
		if _, err := call(t.Context(), c, methodPut); status.Convert(err).Message() != "sick" {
			t.Fatalf("the error is %v, not the instance's", err)
		}
	}
}

func TestRefusalsBeforeAHandlerRanEjectNobody(t *testing.T) {
	t.Parallel()
	refused := func(*server, string, string, grpc.ServerStream) error { return notprocessed.Error("busy") }
	a, b := startServer(t, "127.0.0.1:0", nil), startServer(t, "127.0.0.1:0", refused)
	c := connect(t, newRegistry(a.addr, b.addr), quick)
	eventually(t, "both take calls", func() bool { return allIn(c, 2) })
	for range 100 {
		mustCall(t, c)
	}
	if why := ejected(c, b.addr); why != "" {
		t.Errorf("it only refused, and is %s", why)
	}
}

func TestAnInstanceThatIsFarAwayIsNotEjectedForThat(t *testing.T) {
	t.Parallel()
	all, r := startPatients(t, 2)
	const way = 300 * time.Millisecond
	p := client.DefaultPolicy()
	quick(&p)
	f := newFactoryOf(t, client.Params{Caller: "caller", Resolver: r, Default: p, Dialer: func(ctx context.Context, addr string) (net.Conn, error) {
		if addr == all[0].addr {
			if err := backoff.Sleep(ctx, way); err != nil {
				return nil, err
			}
		}
		var d net.Dialer
		return d.DialContext(ctx, "tcp", addr)
	}})
	all[0].falls(takes(way))
	c := mustConn(t, f, "user-service")
	ready(t, c)
	eventually(t, "both take calls", func() bool { return allIn(c, 2) })
	startLoad(t, c, 8)
	pause(t, 1500*time.Millisecond)
	if why := ejected(c, all[0].addr); why != "" {
		t.Fatalf("it is as far away as ever, and %s", why)
	}
	all[0].falls(takes(4 * way))
	eventually(t, "it is ejected since it is slow beside that", func() bool { return ejected(c, all[0].addr) != "" })
}

func TestAnEjectionIsLoggedOnceAndSoIsTheReturn(t *testing.T) {
	t.Parallel()
	all, r := startPatients(t, 2)
	core, logs := observer.New(zap.InfoLevel)
	p := client.DefaultPolicy()
	quick(&p)
	f := newFactoryOf(t, client.Params{Caller: "caller", Resolver: r, Default: p, Log: zap.New(core)})
	c := mustConn(t, f, "user-service")
	ready(t, c)
	eventually(t, "both take calls", func() bool { return allIn(c, 2) })
	all[0].falls(fails(codes.Unavailable))
	startLoad(t, c, 4)
	eventually(t, "it is ejected", func() bool { return ejected(c, all[0].addr) != "" })
	before := all[0].runs.Load()
	eventually(t, "it was tried three times", func() bool { return all[0].runs.Load() >= before+3 })
	if n := f.State()[0].Ejections; n != 1 {
		t.Errorf("%d ejections are counted, want 1", n)
	}
	all[0].heals()
	eventually(t, "it is back", func() bool { return allIn(c, 2) })
	var lines []string
	for _, e := range logs.All() {
		lines = append(lines, fmt.Sprint(e.Message, e.ContextMap()))
	}
	if len(lines) != 2 {
		t.Fatalf("%d lines, want one for the ejection and one for the return: %q", len(lines), lines)
	}
	for n, wants := range [][]string{{"instance ejected", "user-service", all[0].addr, "3 calls in a row failed, the last with Unavailable"}, {"takes calls again", all[0].addr}} {
		for _, want := range wants {
			contains(t, fmt.Errorf("%s", lines[n]), want)
		}
	}
}

func TestEjectionWorksWithEachRule(t *testing.T) {
	t.Parallel()
	for _, rule := range []string{client.WeightedRoundRobin, client.LeastRequest, client.RingHash} {
		t.Run(rule, func(t *testing.T) {
			t.Parallel()
			all, r := startPatients(t, 3)
			c := connect(t, r, func(p *client.Policy) {
				quick(p)
				p.Balancer = rule
			})
			eventually(t, "all take calls", func() bool { return allIn(c, 3) })
			startLoad(t, c, 4) // without a key calls go anywhere
			all[0].falls(fails(codes.Unavailable))
			eventually(t, "it is ejected", func() bool { return ejected(c, all[0].addr) != "" })
			all[0].heals()
			eventually(t, "it is back", func() bool { return allIn(c, 3) })
			before := all[0].runs.Load()
			eventually(t, "it has calls again", func() bool { return all[0].runs.Load() > before+10 })
		})
	}
}
