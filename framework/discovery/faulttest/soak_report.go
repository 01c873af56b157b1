package faulttest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/newsvc/newsvc/framework/internal/loop"
)

// SoakReport is what a soak has seen.
type SoakReport struct {
	// Seed repeats the run; Members and Auth are what it drew of etcd.
	Seed    uint64
	Members int
	Auth    bool
	// Took is how long it ran.
	Took time.Duration
	// Faults counts them by kind.
	Faults map[string]int
	// Calls counts the calls of all clients, Failed those that failed, of which all were LostWrites, under way when their server was killed.
	// Streams counts streams that were opened.
	Calls, Failed, LostWrites, Streams int64
	// Converged is the longest time from the end of a round with this kind of fault until every client had been
	// answered by every living server; Registered is the longest until etcd held exactly those, Watching the longest until
	// there were as many watches in etcd as before the first fault.
	Converged            map[string]time.Duration
	Registered, Watching time.Duration
	// Late is the most by which a call returned after its deadline, Close the longest end of a client.
	Late, Close time.Duration
	// Phases are the stretches of time of each client that were judged, Unjudged those among them in which the machine was
	// too busy to tell whether calls returned in time.
	Phases, Unjudged int
	// EtcdRate is the most that servers and clients asked of etcd, per second of a round and per process.
	EtcdRate float64
	// Samples were taken when nothing was at fault.
	Samples []SoakSample
}

// SoakSample is what is in use at a moment without faults. Where there are several processes it is the largest value.
type SoakSample struct {
	// After is the time since the run began.
	After time.Duration
	// The rest: goroutines, bytes of heap and open files of clients and servers; those of the suite itself; and what
	// etcd holds.
	ClientGoroutines, ServerGoroutines, SuiteGoroutines int
	ClientHeap, ServerHeap                              int64
	ClientFiles, ServerFiles, SuiteFiles                int
	Watchers, Streams, Leases, Keys                     int
}

// String is the report for people.
func (r *SoakReport) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "seed %d, etcd of %d, passwords %v, %s\n", r.Seed, r.Members, r.Auth, r.Took.Round(time.Second))
	total := 0
	for _, n := range r.Faults {
		total += n
	}
	fmt.Fprintf(&b, "%d calls (%.0f a second), %d failed (writes in flight at a kill), %d streams, %d faults\n", r.Calls, float64(r.Calls)/r.Took.Seconds(), r.Failed, r.Streams, total)
	fmt.Fprintf(&b, "latest return after a deadline %s, longest end of a client %s, registry right after %s and all watching after %s at the latest, etcd asked %.1f times a second by each process at the most\n",
		round(r.Late), round(r.Close), round(r.Registered), round(r.Watching), r.EtcdRate)
	fmt.Fprintf(&b, "whether calls returned in time was judged in %d phases of a client, and not in %d, for the machine was busy\n", r.Phases-r.Unjudged, r.Unjudged)
	b.WriteString("fault                     times  converged within\n")
	for _, kind := range slices.Sorted(maps.Keys(r.Faults)) {
		fmt.Fprintf(&b, "%-25s %5d  %s\n", kind, r.Faults[kind], round(r.Converged[kind]))
	}
	b.WriteString("     after  goroutines c/s/suite  heap MB c/s  files c/s/suite  watches streams leases keys\n")
	step := max(1, len(r.Samples)/12)
	for i := 0; i < len(r.Samples); i += step {
		x := r.Samples[i]
		fmt.Fprintf(&b, "%10s  %6d %5d %6d  %6.1f %5.1f  %4d %4d %4d  %6d %6d %6d %5d\n", x.After.Round(time.Second), x.ClientGoroutines, x.ServerGoroutines, x.SuiteGoroutines,
			mega(x.ClientHeap), mega(x.ServerHeap), x.ClientFiles, x.ServerFiles, x.SuiteFiles, x.Watchers, x.Streams, x.Leases, x.Keys)
	}
	return b.String()
}

func round(d time.Duration) time.Duration { return d.Round(time.Millisecond) }
func mega(n int64) float64                { return float64(n) / (1 << 20) }

// faultLog is the history of the last faults.
func (s *soak) faultLog() string {
	var b strings.Builder
	for _, f := range s.faults[max(0, len(s.faults)-30):] {
		ended := "still active"
		if !f.ended.IsZero() {
			ended = f.ended.Format("15:04:05.000")
		}
		fmt.Fprintf(&b, "  round %d %s to %s: %s: %s\n", f.round, f.began.Format("15:04:05.000"), ended, f.kind, f.detail)
	}
	return b.String()
}

// sample takes down what is in use.
func (s *soak) sample(ctx context.Context) error {
	x := SoakSample{After: time.Since(s.began), SuiteGoroutines: runtime.NumGoroutine(), SuiteFiles: ownFiles()}
	for _, c := range append(slices.Clone(s.clients), s.lonely) {
		st, err := c.proc.Stats(ctx)
		if err != nil {
			return err
		}
		x.ClientGoroutines, x.ClientHeap, x.ClientFiles = max(x.ClientGoroutines, st.Goroutines), max(x.ClientHeap, st.HeapBytes), max(x.ClientFiles, int(st.FDs))
	}
	for _, v := range s.live() {
		st, err := v.proc.Stats(ctx)
		if err != nil {
			return err
		}
		x.ServerGoroutines, x.ServerHeap, x.ServerFiles = max(x.ServerGoroutines, st.Goroutines), max(x.ServerHeap, st.HeapBytes), max(x.ServerFiles, int(st.FDs))
	}
	var e EtcdStats
	err := persist(ctx, func(ctx context.Context) (err error) {
		e, err = s.cluster.Stats(ctx)
		return err
	})
	if err != nil {
		return err
	}
	x.Watchers, x.Streams, x.Leases, x.Keys = e.Watchers, e.Streams, e.Leases, int(e.Keys)
	s.report.Samples = append(s.report.Samples, x)
	return nil
}

// soakFlatFrom is the number of samples from which growth is judged.
const soakFlatFrom = 9

// flat is I7: the last third of the samples is like the first.
func (s *soak) flat() error {
	all := s.report.Samples
	if len(all) < soakFlatFrom {
		return nil
	}
	third := len(all) / 3
	var errs []error
	for _, m := range []struct {
		what  string
		value func(SoakSample) int
		slack int // on top of a quarter
	}{
		{"goroutines of a client", func(x SoakSample) int { return x.ClientGoroutines }, 15},
		{"goroutines of a server", func(x SoakSample) int { return x.ServerGoroutines }, 15},
		{"heap bytes of a client", func(x SoakSample) int { return int(x.ClientHeap) }, 3 << 20},
		{"heap bytes of a server", func(x SoakSample) int { return int(x.ServerHeap) }, 3 << 20},
		{"open files of a client", func(x SoakSample) int { return x.ClientFiles }, 8},
		{"open files of a server", func(x SoakSample) int { return x.ServerFiles }, 8},
		{"watches in etcd", func(x SoakSample) int { return x.Watchers }, 4},
		{"watch streams in etcd", func(x SoakSample) int { return x.Streams }, 4},
		{"leases in etcd", func(x SoakSample) int { return x.Leases }, 4},
	} {
		first, last := middle(all[:third], m.value), middle(all[len(all)-third:], m.value)
		if last > first+first/4+m.slack {
			errs = append(errs, violation("I7", "%s grew from %d in the first third of the run to %d in the last", m.what, first, last))
		}
	}
	return errors.Join(errs...)
}

// middle is the median.
func middle(all []SoakSample, value func(SoakSample) int) int {
	var values []int
	for _, x := range all {
		values = append(values, value(x))
	}
	slices.Sort(values)
	return values[len(values)/2]
}

// soakLoad is how much etcd has been asked.
type soakLoad struct {
	at      time.Time
	members map[int]int64 // by process id
	own     int64
}

// soakEtcdRate is how often a server or client may ask etcd, per second over a round: I6. It includes renewals.
const soakEtcdRate = 10

// load is I6. A member that was started again counts from zero.
func (s *soak) load(ctx context.Context) error {
	last := s.asked
	s.asked = soakLoad{at: time.Now(), members: map[int]int64{}, own: s.cluster.own.Load()}
	var grown int64
	for _, m := range s.cluster.members {
		var stats EtcdStats
		pid := m.PID()
		err := persist(ctx, func(ctx context.Context) error {
			stats = EtcdStats{Requests: map[string]int64{}}
			return m.addMetrics(ctx, &stats)
		})
		if err != nil {
			return err
		}
		for _, n := range stats.Requests {
			s.asked.members[pid] += n
		}
		grown += s.asked.members[pid] - last.members[pid]
	}
	if last.at.IsZero() {
		return nil
	}
	took := max(s.asked.at.Sub(last.at).Seconds(), 1)
	processes := len(s.live()) + len(s.clients) + 1
	rate := float64(max(grown-(s.asked.own-last.own), 0)) / took / float64(processes)
	s.report.EtcdRate = max(s.report.EtcdRate, rate)
	if rate > soakEtcdRate {
		return violation("I6", "each of %d processes asked etcd %.1f times a second for %.0f s, allowed are %d", processes, rate, took, soakEtcdRate)
	}
	return nil
}

// pulse measures how late timers are on this machine.
type pulse struct {
	beat *loop.Loop
	mu   sync.Mutex
	late time.Duration
}

const pulseEvery = 20 * time.Millisecond

func startPulse() *pulse {
	p := &pulse{}
	p.beat = loop.Start(context.Background(), func(ctx context.Context) {
		timer := time.NewTimer(pulseEvery)
		defer timer.Stop()
		due := time.Now().Add(pulseEvery)
		for {
			select {
			case <-ctx.Done():
				return
			case <-timer.C:
			}
			p.mu.Lock()
			p.late = max(p.late, time.Since(due))
			p.mu.Unlock()
			due = time.Now().Add(pulseEvery)
			timer.Reset(pulseEvery)
		}
	})
	return p
}

func (p *pulse) stop() { p.beat.Stop() }

func (p *pulse) worst() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.late
}

func (p *pulse) reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.late = 0
}
