package faulttest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/newsvc/newsvc/framework/internal/backoff"
)

// SoakOptions say how long an implementation is put under random faults, and under which.
type SoakOptions struct {
	// Adapter is the name of the implementation. What it keeps in etcd must be values that discovery.Decode reads.
	Adapter string
	// Seed decides everything that is drawn: the size of etcd, whether it wants passwords, the faults, their times and
	// whom they meet. What processes make of it also depends on the machine.
	Seed uint64
	// For is how long new faults come; the last ones heal after that. Default one minute; with Faults it is no bound.
	For time.Duration
	// Faults are the kinds that come, one after the other and once each. Empty means all of [SoakFaults] at random, up
	// to four at the same time, for ever.
	Faults []string
	// Members is the size of etcd, 1 or 3. 0 draws it.
	Members int
	// Rate is the number of calls a second of each client. Default 20.
	Rate int
	// TTL is that of the registrations. Default 5 s.
	TTL time.Duration
	// Log is told of every fault as it comes. Nil means nobody.
	Log io.Writer
}

// Bounds of the invariants. Times that depend on the speed of the machine get an allowance on top, which is what timers
// were late by in the same phase.
const (
	// SoakConverge is the time after the end of a fault in which every client must be answered by every living server.
	SoakConverge = 3 * time.Second
	// SoakConvergeRestored is that time after etcd lost data.
	SoakConvergeRestored = 40 * time.Second
	// SoakConvergeDenied is that time after etcd refused writes or permission: both are asked again every 30 s.
	SoakConvergeDenied = 40 * time.Second
	// SoakWatch is the time after the end of a fault in which everybody must watch etcd again.
	SoakWatch = 13 * time.Second
	// SoakLate is how much later than its deadline a call may return.
	SoakLate = 50 * time.Millisecond
	// SoakClose is how long the end of a client may take after its last call.
	SoakClose = 100 * time.Millisecond
	// SoakBusy is the most that a busy machine excuses of both. A phase of a client in which the machine would need more
	// is not judged for them.
	SoakBusy = 500 * time.Millisecond
	// soakJudgedFrom is how long a run must take before it fails when most of its phases could not be judged.
	soakJudgedFrom = 10 * time.Minute
)

// Soak runs an implementation under random faults and checks the invariants all the time. It returns at the first
// violation, which is the error; the report is complete up to then in any case.
func (lab *Lab) Soak(ctx context.Context, opt SoakOptions) (*SoakReport, error) {
	s, err := newSoak(lab, opt)
	if err != nil {
		return nil, err
	}
	err = s.run(ctx)
	s.report.Took = time.Since(s.began)
	if err != nil {
		err = fmt.Errorf("soak with seed %d: %w\nfaults until then:\n%s%s", s.opt.Seed, err, s.faultLog(), s.logs())
	}
	return &s.report, err
}

// soak is one run.
type soak struct {
	lab     *Lab
	opt     SoakOptions
	rng     *rand.Rand
	adapter Adapter
	began   time.Time
	report  SoakReport

	cluster  *Cluster
	auth     bool
	servers  []*soakServer
	clients  []*soakClient
	lonely   *soakClient // of a service that nobody serves
	registry *registryWatch
	pulse    *pulse

	faults   []*injected   // all, in order
	watchers int           // in etcd before the first fault
	kills    []kill        // of servers, in the last half minute
	waiting  func() int    // programs for each processor
	behind   time.Duration // the most by which a call of any client began late in the phase
	asked    soakLoad      // what etcd was asked up to the end of the last phase
	script   []string
}

func newSoak(lab *Lab, opt SoakOptions) (*soak, error) {
	adapter, err := lab.Adapter(opt.Adapter)
	if err != nil {
		return nil, err
	}
	for _, kind := range opt.Faults {
		if !slices.ContainsFunc(soakKinds(), func(k soakKind) bool { return k.name == kind }) {
			return nil, fmt.Errorf("no fault of a soak is called %q; write one of %q", kind, SoakFaults())
		}
	}
	if opt.For == 0 {
		opt.For = time.Minute
	}
	if opt.Rate == 0 {
		opt.Rate = 20
	}
	if opt.TTL == 0 {
		opt.TTL = 5 * time.Second
	}
	s := &soak{lab: lab, opt: opt, adapter: adapter, rng: rand.New(rand.NewPCG(opt.Seed, 1)), script: opt.Faults, waiting: waiting}
	s.report = SoakReport{Seed: opt.Seed, Faults: map[string]int{}, Converged: map[string]time.Duration{}}
	s.report.Members = []int{1, 3, 3}[s.rng.IntN(3)]
	if opt.Members > 0 {
		s.report.Members = opt.Members
	}
	s.auth = s.rng.IntN(2) == 0
	s.report.Auth = s.auth
	return s, nil
}

func (s *soak) run(ctx context.Context) error {
	s.began = time.Now()
	if err := s.build(ctx); err != nil {
		return fmt.Errorf("before any fault: %w", err)
	}
	defer s.registry.stop()
	defer s.pulse.stop()
	if err := s.settle(ctx, nil); err != nil {
		return fmt.Errorf("before any fault: %w", err)
	}
	for round := 1; s.more(); round++ {
		if err := s.round(ctx, round); err != nil {
			return err
		}
	}
	return s.finish(ctx)
}

// more tells whether another round comes.
func (s *soak) more() bool {
	if len(s.opt.Faults) > 0 {
		return len(s.script) > 0
	}
	return time.Since(s.began) < s.opt.For
}

// round injects some faults, heals them and waits until everybody has found everybody again.
func (s *soak) round(ctx context.Context, round int) error {
	if round%4 == 1 { // the older copy that a later round may bring back
		if err := s.cluster.Backup(ctx); err != nil {
			return err
		}
		if err := s.cluster.WaitHealthy(ctx); err != nil {
			return err
		}
	}
	var active []*injected
	for _, kind := range s.choose() {
		f, err := s.inject(ctx, round, kind)
		if f != nil {
			active = append(active, f)
		}
		if err != nil {
			return err
		}
		if len(s.opt.Faults) > 0 {
			break
		}
		if err := s.pause(ctx, 0, time.Second); err != nil {
			return err
		}
	}
	if err := s.hold(ctx); err != nil {
		return err
	}
	// What needs etcd heals after etcd.
	slices.SortStableFunc(active, func(a, b *injected) int { return healRank(a.class) - healRank(b.class) })
	for _, f := range active {
		if err := f.end(ctx); err != nil {
			return fmt.Errorf("heal %q: %w", f.kind, err)
		}
		s.log("%s ended", f.kind)
	}
	return s.settle(ctx, active)
}

// hold lets the faults last: mostly for a moment, sometimes longer than a lease.
func (s *soak) hold(ctx context.Context) error {
	switch {
	case len(s.opt.Faults) > 0:
		return s.pause(ctx, 300*time.Millisecond, time.Second)
	case s.rng.IntN(4) == 0:
		return s.pause(ctx, s.opt.TTL, 2*s.opt.TTL+SoakConverge)
	}
	return s.pause(ctx, 300*time.Millisecond, 3*time.Second)
}

// choose draws the kinds of a round, at most one of each class: more would leave nothing that must work.
func (s *soak) choose() []soakKind {
	kinds := soakKinds()
	if len(s.script) > 0 {
		name := s.script[0]
		s.script = s.script[1:]
		return []soakKind{kinds[slices.IndexFunc(kinds, func(k soakKind) bool { return k.name == name })]}
	}
	s.rng.Shuffle(len(kinds), func(i, j int) { kinds[i], kinds[j] = kinds[j], kinds[i] })
	want := 1 + s.rng.IntN(4)
	var out []soakKind
	for _, k := range kinds {
		switch {
		case k.usable != nil && !k.usable(s):
		case k.class == classAlone && len(out) == 0:
			return []soakKind{k}
		case k.class == classAlone:
		case slices.ContainsFunc(out, func(o soakKind) bool { return o.class == k.class }):
		default:
			if out = append(out, k); len(out) == want {
				return order(out)
			}
		}
	}
	return order(out)
}

// order puts what needs a working etcd first, and last what changes while etcd is away.
func order(kinds []soakKind) []soakKind {
	ranks := []string{classData, classEtcd, classLink, classServer, classClient}
	slices.SortStableFunc(kinds, func(a, b soakKind) int { return slices.Index(ranks, a.class) - slices.Index(ranks, b.class) })
	return kinds
}

// inject begins one fault.
func (s *soak) inject(ctx context.Context, round int, k soakKind) (*injected, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	f := &injected{round: round, kind: k.name, class: k.class, limit: k.limit, began: time.Now()}
	s.faults = append(s.faults, f)
	s.report.Faults[k.name]++
	if err := k.begin(ctx, s, f); err != nil {
		return f, fmt.Errorf("inject %q: %w", k.name, err)
	}
	s.log("round %d: %s: %s", round, f.kind, f.detail)
	return f, nil
}

// pause lets a time pass that is drawn.
func (s *soak) pause(ctx context.Context, least, most time.Duration) error {
	return backoff.Sleep(ctx, s.between(least, most))
}

func (s *soak) between(least, most time.Duration) time.Duration {
	return least + time.Duration(s.rng.Int64N(int64(most-least)))
}

func (s *soak) log(format string, args ...any) {
	if s.opt.Log != nil {
		fmt.Fprintf(s.opt.Log, "%s %s\n", time.Now().Format("15:04:05.000"), fmt.Sprintf(format, args...))
	}
}

// finish ends the clients and servers and judges the whole.
func (s *soak) finish(ctx context.Context) error {
	var errs []error
	for _, c := range append(slices.Clone(s.clients), s.lonely) {
		errs = append(errs, s.endClient(ctx, c))
	}
	for _, srv := range s.servers {
		errs = append(errs, s.stopServer(ctx, srv))
	}
	errs = append(errs, s.registry.verdict(), s.flat(), s.judged(time.Since(s.began)))
	return errors.Join(errs...)
}

// logs are the ends of what the subjects wrote.
func (s *soak) logs() string {
	var text strings.Builder
	for _, srv := range s.servers {
		if srv.proc != nil {
			text.WriteString("\n" + srv.String() + srv.proc.lastWords())
		}
	}
	for _, c := range append(slices.Clone(s.clients), s.lonely) {
		if c != nil && c.proc != nil {
			text.WriteString("\n" + c.String() + c.proc.lastWords())
		}
	}
	return text.String()
}

// ownFiles counts the open files of this process; 0 where the system does not tell.
func ownFiles() int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return 0
	}
	return len(entries)
}
