package newsvc_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/newsvc/newsvc/framework/discovery/faulttest"
	"github.com/newsvc/newsvc/framework/discovery/faulttest/newsvc"
	"github.com/newsvc/newsvc/framework/internal/backoff"
)

// The full size takes minutes and a machine of its own:
//
//	go test ./framework/discovery/faulttest/newsvc -run 'Roll|Kills' -roll.full -roll.for 5m -timeout 30m -v
var (
	rollFull = flag.Bool("roll.full", false, "roll 5 servers under 20 clients and 3,000 calls a second, and kill them")
	rollFor  = flag.Duration("roll.for", 3*time.Minute, "with -roll.full: how long servers are rolled, in complete rounds")
	rollRate = flag.Int("roll.rate", 3000, "with -roll.full: the calls a second of all clients together")
)

// troublePause is how long etcd is left alone, and away, at a time.
const troublePause = 2500 * time.Millisecond

// starved is how long a server may have to wait for a processor before what happened meanwhile says nothing of it.
const starved = time.Second

// fleet is a number of servers under load.
type fleet struct {
	*field
	service string
	proxy   *faulttest.Proxy // between half of the clients and etcd
	clients []*faulttest.ClientProc

	mu      sync.Mutex
	servers []*faulttest.ServerProc
	foreign int64
	stalled time.Duration // the longest that a server had to wait for the machine
	story   []string      // what was done, and when
}

// tell writes down what is done.
func (f *fleet) tell(format string, args ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.story = append(f.story, time.Now().Format("15:04:05.000 ")+fmt.Sprintf(format, args...))
}

// count takes in what a server says of itself.
func (f *fleet) count(s *faulttest.ServerProc) error {
	st, err := s.Stats(f.ctx)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.foreign += st.Foreign
	f.stalled = max(f.stalled, st.Stalled)
	return err
}

// size is how large a fleet is and how long it is rolled.
type size struct {
	servers, clients, rate, streams int
	batches                         [][]int       // the servers that are replaced, one batch after the other
	duration                        time.Duration // 0: all batches once
}

func sizeOf() size {
	if *rollFull {
		return size{
			servers: 5, clients: 20, rate: *rollRate, streams: 200, duration: *rollFor,
			batches: [][]int{{0}, {1}, {2}, {3}, {4}, {0, 1}, {2, 3}, {4, 0}},
		}
	}
	return size{servers: 4, clients: 4, rate: 400, streams: 12, batches: [][]int{{0}, {1, 2}}}
}

// newFleet starts servers, and clients that know them all. Half of the clients reach etcd through the proxy only, and
// half of each half have no health checks.
func newFleet(t *testing.T, z size, work time.Duration) *fleet {
	t.Helper()
	f := &fleet{field: newField(t, 1), service: "rolled-service"}
	f.extend(z.duration + 10*patience)
	proxy, err := faulttest.NewProxy(f.etcd.Endpoints[0])
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := proxy.Close(); err != nil {
			t.Error(err)
		}
	})
	f.proxy = proxy
	for range z.servers {
		f.servers = append(f.servers, f.server(newsvc.Name, f.service))
	}
	for i := range z.clients {
		opt := faulttest.ClientOptions{
			Adapter: newsvc.Name, Service: f.service, Etcd: f.etcd,
			Rate: z.rate / z.clients, Writes: 0.3, Work: work, Streams: z.streams / z.clients,
			Deadline: 5 * time.Second, // as clients.defaults.timeout; others may be at work on this machine
		}
		if i%2 == 1 {
			opt.Etcd.Endpoints = []string{proxy.Addr()}
		}
		if i/2%2 == 1 {
			opt.Adapter = newsvc.NoHealthChecks
		}
		c, err := f.StartClient(f.ctx, opt)
		if err != nil {
			t.Fatal(err)
		}
		f.clients = append(f.clients, c)
	}
	for _, c := range f.clients {
		f.meets(c, f.servers...)
	}
	return f
}

// extend gives the field more time.
func (f *field) extend(d time.Duration) {
	ctx, cancel := context.WithTimeout(f.t.Context(), d)
	f.t.Cleanup(cancel)
	f.ctx = ctx
}

// replace stops server i in good order and starts another process in its place.
func (f *fleet) replace(i int) error {
	f.mu.Lock()
	s := f.servers[i]
	f.mu.Unlock()
	if err := f.count(s); err != nil {
		return err
	}
	f.tell("server %d at %s stops", i, s.Addr())
	if err := s.Stop(f.ctx); err != nil {
		return err
	}
	next, err := s.Again(f.ctx)
	if err != nil {
		return err
	}
	f.tell("server %d serves again", i)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.servers[i] = next
	return nil
}

// roll replaces servers, those of each batch at once.
func (f *fleet) roll(batches ...[]int) error {
	for _, batch := range batches {
		var wg sync.WaitGroup
		errs := make([]error, len(batch))
		for j, i := range batch {
			wg.Go(func() { errs[j] = f.replace(i) })
		}
		wg.Wait()
		if err := errors.Join(errs...); err != nil {
			return err
		}
	}
	return nil
}

// trouble freezes etcd, thaws it, kills it and starts it again, until ctx ends; it leaves it healthy. Every other time it
// stays frozen for longer than leases live, so that all registrations end when it goes on. The number of freezes and
// kills that took place is returned: etcd has not answered in any of them.
func (f *fleet) trouble(ctx context.Context, long time.Duration) (n int, err error) {
	m := f.cluster.Member(0)
	for ; ctx.Err() == nil && err == nil; n += 2 {
		frozen := troublePause
		if n%4 == 2 {
			frozen = long
		}
		f.tell("etcd is frozen")
		err = errors.Join(m.Freeze(f.ctx), f.away(ctx, frozen), m.Thaw(), m.WaitHealthy(f.ctx))
		f.tell("etcd answers again")
		_ = backoff.Sleep(ctx, troublePause) // the end is looked at above
		f.tell("etcd is killed")
		err = errors.Join(err, m.Kill(f.ctx), f.away(ctx, troublePause), m.Start(f.ctx))
		f.tell("etcd answers again")
		_ = backoff.Sleep(ctx, troublePause)
	}
	return n, err
}

// away waits and makes sure that etcd does not answer. A signal to stop takes a moment.
func (f *fleet) away(ctx context.Context, d time.Duration) error {
	_ = backoff.Sleep(ctx, d)
	for range 50 {
		if !f.answers() {
			return nil
		}
		_ = backoff.Sleep(f.ctx, 20*time.Millisecond)
	}
	return errors.New("etcd answers although it should not")
}

// answers reports whether etcd does.
func (f *fleet) answers() bool { return f.cluster.Member(0).Read(f.ctx) == nil }

// judge reports what clients have seen and fails the test at anything that should not be. mayFail says which failures
// are in order.
func (f *fleet) judge(mayFail func(faulttest.Failure) bool, mayLoseStreams bool) {
	f.t.Helper()
	var sum faulttest.Report
	var bad []string
	var rate float64
	var failed int64
	for i, c := range f.clients {
		r := must(f.t)(c.Stop(f.ctx))
		rate += r.Rate()
		sum.Total += r.Total
		sum.Skipped += r.Skipped
		sum.Misrouted += r.Misrouted
		sum.Slowest, sum.LateBy = max(sum.Slowest, r.Slowest), max(sum.LateBy, r.LateBy)
		sum.Behind, sum.WorstGap = max(sum.Behind, r.Behind), max(sum.WorstGap, r.WorstGap)
		sum.CloseTook = max(sum.CloseTook, r.CloseTook)
		sum.Streams.Opened += r.Streams.Opened
		sum.Streams.Drained += r.Streams.Drained
		sum.Streams.Lost += r.Streams.Lost
		sum.Streams.OpenFailed += r.Streams.OpenFailed
		sum.Streams.Messages += r.Streams.Messages
		failed += r.Failed
		var wrong []faulttest.Failure
		for _, x := range r.Failures {
			if !mayFail(x) {
				wrong = append(wrong, x)
			}
		}
		if !mayLoseStreams {
			wrong = append(wrong, r.Streams.Failures...)
		}
		if len(wrong) > 0 || r.Failed > int64(len(r.Failures)) || r.Misrouted > 0 {
			bad = append(bad, fmt.Sprintf("client %d (%s, etcd at %v): %d failed, %d streams lost, %d misrouted\n%s",
				i, c.Options().Adapter, c.Options().Etcd.Endpoints, r.Failed, r.Streams.Lost, r.Misrouted, failures(wrong)))
		}
	}
	f.t.Logf("%d calls, %.0f a second, %d failed; slowest %v, after the deadline by %v at the most, longest gap of a client %v",
		sum.Total, rate, failed, sum.Slowest, sum.LateBy, sum.WorstGap)
	f.t.Logf("%d streams opened, %d ended with a word, %d lost, %d had to be opened again, %d messages; closing took up to %v; calls were made up to %v late, %d not at all",
		sum.Streams.Opened, sum.Streams.Drained, sum.Streams.Lost, sum.Streams.OpenFailed, sum.Streams.Messages, sum.CloseTook, sum.Behind, sum.Skipped)
	for _, s := range f.servers {
		if err := f.count(s); err != nil {
			f.t.Error(err)
		}
	}
	f.t.Logf("servers waited up to %v for their turn on this machine", f.stalled)
	if want := float64(len(f.clients) * f.clients[0].Options().Rate); rate < 0.8*want {
		f.t.Errorf("%.0f calls a second were made, of %.0f: this machine is too slow to say anything", rate, want)
	}
	if len(bad) > 0 && (sum.Skipped > 0 || f.stalled > starved) {
		// Calls come at their rate whether they are answered or not: where they need more of the processors than they get,
		// they pile up until all of them are late.
		f.t.Error("this machine was too busy for its calls; what follows says nothing else")
	}
	if len(bad) > 0 {
		f.t.Errorf("what should not have been:\n%s\nwhat was done:\n%s", strings.Join(bad, "\n"), strings.Join(f.story, "\n"))
	}
	if f.foreign > 0 {
		f.t.Errorf("servers executed %d calls that were meant for others", f.foreign)
	}
}

func none(faulttest.Failure) bool { return false }

func TestRolledServersLoseNoCallWhileEtcdIsInTrouble(t *testing.T) {
	t.Parallel()
	z := sizeOf()
	f := newFleet(t, z, 10*time.Millisecond)
	if f.proxy.Connections() == 0 {
		t.Error("no client reaches etcd through the proxy")
	}
	f.proxy.Cut()
	ctx, cancel := context.WithCancel(f.ctx)
	var wg sync.WaitGroup
	var troubles int
	var trouble error
	wg.Go(func() { troubles, trouble = f.trouble(ctx, 12*time.Second) })
	began := time.Now()
	rolls := 0
	for ; rolls == 0 || time.Since(began) < z.duration; rolls++ {
		if err := f.roll(z.batches...); err != nil {
			t.Error(err)
		}
	}
	cancel()
	wg.Wait()
	if trouble != nil {
		t.Fatal(trouble)
	}
	if n := f.proxy.Connections(); n > 0 || f.proxy.Accepted() == 0 {
		t.Errorf("%d connections pass the proxy that is cut", n)
	}
	f.proxy.Heal()
	for _, c := range f.clients { // all are found again, by those who were cut off too
		for _, s := range f.servers {
			if _, err := c.AwaitProcess(f.ctx, s); err != nil {
				t.Error(err)
			}
		}
	}
	t.Logf("%d servers rolled %d times in %v; etcd was frozen or killed %d times", len(f.servers), rolls, time.Since(began).Round(time.Second), troubles)
	f.judge(none, false)
}

func TestKillsUnderLoadLoseOnlyWritesInFlight(t *testing.T) {
	t.Parallel()
	z := sizeOf()
	f := newFleet(t, z, 5*time.Millisecond)
	var kills []time.Time
	for i, s := range f.servers {
		if err := s.Kill(f.ctx); err != nil {
			t.Fatal(err)
		}
		kills = append(kills, time.Now())
		f.tell("server %d at %s is dead", i, s.Addr())
		next, err := s.Again(f.ctx)
		if err != nil {
			t.Fatal(err)
		}
		f.servers[i] = next
		for _, c := range f.clients {
			if _, err := c.AwaitProcess(f.ctx, next); err != nil {
				t.Error(err)
			}
		}
	}
	f.judge(func(x faulttest.Failure) bool {
		for _, at := range kills { // in flight: begun before the server was gone, and failed because of it
			if x.Kind == faulttest.KindWrite && x.Due.Before(at) && x.At.Sub(at).Abs() < time.Second {
				return true
			}
		}
		return false
	}, true)
}
