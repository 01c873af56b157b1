package server_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/newsvc/newsvc/framework/internal/notprocessed"
	"github.com/newsvc/newsvc/framework/server"
)

// A resource of known capacity, whatever the machine: so many places, each taken for a fixed time. Who comes when all
// are taken waits, first come first served, and gives up with its context.
const (
	places   = 8
	work     = 50 * time.Millisecond
	capacity = float64(places) / 0.050 // calls per second
	patience = time.Second             // deadline of each call
)

type resource chan struct{}

func (r resource) use(ctx context.Context) error {
	select {
	case r <- struct{}{}:
		defer func() { <-r }()
	case <-ctx.Done():
		return status.FromContextError(ctx.Err()).Err()
	}
	t := time.NewTimer(work)
	defer t.Stop()
	<-t.C // work that was begun is done, whoever still waits for it
	return ctx.Err()
}

// call is one call of a load.
type call struct {
	at, took time.Duration // at: since the load began
	priority string
	err      error
}

// load is what became of calls made at a fixed rate, whatever became of those before.
type load []call

func (l load) count(is func(call) bool) int {
	n := 0
	for _, c := range l {
		if is(c) {
			n++
		}
	}
	return n
}

func good(c call) bool { return c.err == nil }
func refused(c call) bool {
	return notprocessed.Is(c.err) || c.err != nil && strings.Contains(c.err.Error(), "refused without being processed")
}                      // by the client
func late(c call) bool { return status.Code(c.err) == codes.DeadlineExceeded }

func (l load) of(priority string) load {
	return l.filter(func(c call) bool { return c.priority == priority })
}

// after leaves out what was sent before: overload takes a moment to be found, and then to be brought down.
func (l load) after(d time.Duration) load { return l.filter(func(c call) bool { return c.at >= d }) }

func (l load) filter(is func(call) bool) load {
	return slices.DeleteFunc(slices.Clone(l), func(c call) bool { return !is(c) })
}

// p99 is that of the calls that were answered.
func (l load) p99() time.Duration {
	answered := l.filter(good)
	if len(answered) == 0 {
		return 0
	}
	slices.SortFunc(answered, func(a, b call) int { return cmp.Compare(a.took, b.took) })
	return answered[len(answered)*99/100].took
}

// offer makes rate calls per second for some time, at even distances and with the priorities in turn; what the machine was
// too busy to send in time is sent at once afterwards.
func offer(t *testing.T, cc grpc.ClientConnInterface, rate float64, length time.Duration, priorities ...string) load {
	t.Helper()
	if len(priorities) == 0 {
		priorities = []string{""}
	}
	results := make(chan call, int(rate*length.Seconds())+1)
	var calls sync.WaitGroup
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	began := time.Now()
	for sent := 0; time.Since(began) < length; <-tick.C {
		for ; float64(sent) < rate*min(time.Since(began), length).Seconds(); sent++ {
			priority := priorities[sent%len(priorities)]
			calls.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				defer cancel()
				if priority != "" {
					ctx = metadata.AppendToOutgoingContext(ctx, server.PriorityHeader, priority)
				}
				at := time.Now()
				err := cc.Invoke(ctx, unaryMethod, wrapperspb.String("x"), new(wrapperspb.StringValue))
				results <- call{at: at.Sub(began), took: time.Since(at), priority: priority, err: err}
			})
		}
	}
	calls.Wait()
	close(results)
	var l load
	for c := range results {
		l = append(l, c)
	}
	if odd := l.filter(func(c call) bool { return !good(c) && !refused(c) && !late(c) }); len(odd) > 0 {
		t.Fatalf("%d calls failed for other reasons: %v", len(odd), odd[0].err)
	}
	return l
}

// peak is what the server can do on this machine at this moment, in calls per second: its places are never empty, and hardly
// anybody waits.
func peak(t *testing.T, cc grpc.ClientConnInterface) float64 {
	t.Helper()
	const length = time.Second
	var done atomic.Int64
	var callers sync.WaitGroup
	began := time.Now()
	for range places * 3 / 2 {
		callers.Go(func() {
			for time.Since(began) < length {
				if cc.Invoke(t.Context(), unaryMethod, wrapperspb.String("x"), new(wrapperspb.StringValue)) == nil {
					done.Add(1)
				}
			}
		})
	}
	callers.Wait()
	return float64(done.Load()) / time.Since(began).Seconds()
}

// busyServer serves a resource; change adjusts the server.
func busyServer(t *testing.T, change func(*server.Params)) (*server.Server, *grpc.ClientConn) {
	t.Helper()
	r := make(resource, places)
	p := params()
	if change != nil {
		change(&p)
	}
	s := start(t, p, &echo{call: func(ctx context.Context, in *wrapperspb.StringValue) (*wrapperspb.StringValue, error) {
		return in, r.use(ctx)
	}})
	return s, dial(t, s)
}

// rounds is how often a test that measures may try: a machine that is busy with other things gets another chance.
const rounds = 4

// TestOverload shows three times the capacity with and without shedding, side by side. Run it with -v for the numbers.
func TestOverload(t *testing.T) {
	if testing.Short() {
		t.Skip("takes more than ten seconds")
	}
	// Not in parallel: the other tests of this package are none of the load.
	for round := 1; ; round++ {
		problems := overload(t)
		if len(problems) == 0 {
			return
		}
		t.Logf("round %d: %s", round, strings.Join(problems, "; "))
		if round == rounds {
			t.Fatal("none of the rounds was as it should be")
		}
	}
}

func overload(t *testing.T) (problems []string) {
	t.Helper()
	const length, found = 4 * time.Second, time.Second
	wrong := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	for _, on := range []bool{false, true} {
		_, cc := busyServer(t, func(p *server.Params) { p.Config.Chain = map[string]bool{server.SlotShedding: on} })
		best := peak(t, cc)
		normal := offer(t, cc, 0.7*best, time.Second)
		over := offer(t, cc, 3*best, length)
		steady := over.after(found)
		share := float64(over.count(good)) / length.Seconds() / best
		t.Logf("shedding %-5v peak %3.0f/s | at 0.7x: p99 %3d ms, refused %d | at 3x: goodput %3.0f %% of the peak, refused %4d, late %4d of %d; "+
			"after the first second: goodput %3.0f %%, late %4d, p99 of answers %3d ms",
			on, best, normal.p99().Milliseconds(), normal.count(refused), share*100, over.count(refused), over.count(late), len(over),
			float64(steady.count(good))/(length-found).Seconds()/best*100, steady.count(late), steady.p99().Milliseconds())
		switch n := normal.count(refused); {
		case n > 0:
			wrong("%d calls were refused at 70 %% of the peak", n)
		case on && share < 0.8:
			wrong("with shedding, goodput is %.0f %% of the peak", share*100)
		case on && steady.p99() > patience/2:
			wrong("with shedding, the p99 of answers is %s", steady.p99())
		case !on && share > 0.5:
			wrong("without shedding goodput is %.0f %% of the peak: the load shows nothing", share*100)
		}
	}
	return problems
}

func TestTheLeastImportantCallsAreShedFirst(t *testing.T) {
	if testing.Short() {
		t.Skip("takes several seconds")
	}
	for round := 1; ; round++ {
		_, cc := busyServer(t, nil)
		best := peak(t, cc)
		// Of three times the capacity, a fifth is critical.
		l := offer(t, cc, 3*best, 3*time.Second, "critical", "", "sheddable", "", "sheddable").after(time.Second)
		share := func(priority string) float64 {
			return float64(l.of(priority).count(good)) / float64(len(l.of(priority)))
		}
		t.Logf("answered: critical %.0f %%, default %.0f %%, sheddable %.0f %%", share("critical")*100, share("")*100, share("sheddable")*100)
		if share("critical") > 0.7 && share("critical") > 1.5*share("") && share("sheddable") < share("")/2 {
			return
		}
		if round == rounds {
			t.Fatal("none of the rounds was as it should be")
		}
	}
}

// overloaded keeps a server in overload until the test ends or the returned function is called.
func overloaded(t *testing.T, s *server.Server, cc grpc.ClientConnInterface) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		var calls sync.WaitGroup
		defer calls.Wait()
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			for range 3 { // 600 a second
				calls.Go(func() { _ = cc.Invoke(ctx, unaryMethod, wrapperspb.String("x"), new(wrapperspb.StringValue)) })
			}
		}
	}()
	stop = sync.OnceFunc(func() { cancel(); <-done })
	t.Cleanup(stop)
	limit, cancelWait := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancelWait()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for bound(s) == 0 {
		select {
		case <-tick.C:
		case <-limit.Done():
			t.Fatal("overload was not found")
		}
	}
	return stop
}

// bound is how many calls in flight shedding admits.
func bound(s *server.Server) int {
	for _, r := range s.Refusals() {
		if r.Method == unaryMethod {
			return r.Bound
		}
	}
	return 0
}

// refusal makes calls until one is shed, and returns its error and trailer.
func refusal(t *testing.T, cc grpc.ClientConnInterface) (trailer metadata.MD, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	ctx = metadata.AppendToOutgoingContext(ctx, server.PriorityHeader, "sheddable")
	for {
		err := cc.Invoke(ctx, unaryMethod, wrapperspb.String("x"), new(wrapperspb.StringValue), grpc.Trailer(&trailer))
		if notprocessed.Is(err) {
			return trailer, err
		}
		if ctx.Err() != nil {
			t.Fatalf("no call was refused; the last one ended with %v", err)
		}
	}
}

func TestWhoIsShedIsToldWhenToComeBack(t *testing.T) {
	t.Parallel()
	s, cc := busyServer(t, nil)
	overloaded(t, s, cc)
	trailer, err := refusal(t, cc)
	if text := status.Convert(err).Message(); text != "this instance is overloaded; other instances take the call" {
		t.Errorf("the refusal says %q", text)
	}
	if wait := notprocessed.Wait(err); wait < 25*time.Millisecond || wait > 75*time.Millisecond {
		t.Errorf("the status says to wait %s, want 25 to 75 ms", wait)
	}
	if got := trailer.Get("grpc-retry-pushback-ms"); len(got) != 1 || got[0] == "0" {
		t.Errorf("the trailer for gRPC's retries says %q, want milliseconds", got)
	}
}

func TestHealthAndOtherMethodsAreNotShed(t *testing.T) {
	t.Parallel()
	r := make(resource, places)
	use := func(ctx context.Context, in *wrapperspb.StringValue) (*wrapperspb.StringValue, error) {
		return in, r.use(ctx)
	}
	s := start(t, params(), &echo{call: use, chat: echoAll})
	s.SetServing(true)
	cc := dial(t, s)
	open(t, cc, bidiMethod)
	overloaded(t, s, cc)
	for range 20 {
		res, err := healthpb.NewHealthClient(cc).Check(t.Context(), &healthpb.HealthCheckRequest{})
		if err != nil || res.GetStatus() != healthpb.HealthCheckResponse_SERVING {
			t.Fatalf("health answers %v, %v; it is never shed", res, err)
		}
	}
	open(t, cc, bidiMethod) // another method has nothing to do with it
	for _, got := range s.Refusals() {
		switch {
		case got.Method == unaryMethod && (got.Bound == 0 || got.InFlight == 0):
			t.Errorf("%+v, want calls in flight and a bound", got)
		case got.Method != unaryMethod && (got.Shed > 0 || got.Bound > 0):
			t.Errorf("%+v, want nothing shed of other methods", got)
		}
	}
}

func TestSheddingTarget(t *testing.T) {
	t.Parallel()
	s, cc := busyServer(t, func(p *server.Params) { p.Config.Shedding.Target = time.Minute })
	l := offer(t, cc, 3*capacity, time.Second)
	if n := l.count(refused); n > 0 || bound(s) > 0 {
		t.Errorf("%d of %d calls were refused though a minute's wait is fine", n, len(l))
	}
}

func TestSheddingMinInFlight(t *testing.T) {
	t.Parallel()
	s, cc := busyServer(t, func(p *server.Params) { p.Config.Shedding.MinInFlight = 100 })
	overloaded(t, s, cc)
	if b := bound(s); b < 100 {
		t.Errorf("%d calls in flight are admitted, want 100 at least", b)
	}
}

func TestPriorityTravelsToCallees(t *testing.T) {
	t.Parallel()
	for sent, want := range map[string][]string{"critical": {"critical"}, "4": {"4"}, "urgent": nil, "": nil} {
		told := make(chan []string, 2)
		next := func(ctx context.Context) {
			md, _ := metadata.FromOutgoingContext(ctx)
			told <- md.Get(server.PriorityHeader)
		}
		s := start(t, params(), &echo{
			call: func(ctx context.Context, in *wrapperspb.StringValue) (*wrapperspb.StringValue, error) {
				next(ctx)
				return in, nil
			},
			watch: func(ss grpc.ServerStream) error {
				next(ss.Context())
				return ss.SendMsg(wrapperspb.String("x"))
			},
		})
		ctx := t.Context()
		if sent != "" {
			ctx = metadata.AppendToOutgoingContext(ctx, server.PriorityHeader, sent)
		}
		cc := dial(t, s)
		if err := cc.Invoke(ctx, unaryMethod, wrapperspb.String("x"), new(wrapperspb.StringValue)); err != nil {
			t.Fatal(err)
		}
		cs, err := cc.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, watchMethod)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(cs.SendMsg(wrapperspb.String("x")), cs.CloseSend(), cs.RecvMsg(new(wrapperspb.StringValue))); err != nil {
			t.Fatal(err)
		}
		for _, kind := range []string{"unary call", "stream"} {
			if got := <-told; !slices.Equal(got, want) {
				t.Errorf("the handler of a %s with priority %q passes on %q, want %q", kind, sent, got, want)
			}
		}
	}
}
