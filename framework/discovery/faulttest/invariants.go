package faulttest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/newsvc/newsvc/framework/discovery"
	"github.com/newsvc/newsvc/framework/internal/backoff"
)

// settle is called when all faults have healed: it judges what happened during them, waits until everybody has found
// everybody again and takes samples.
func (s *soak) settle(ctx context.Context, healed []*injected) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	if err := s.cluster.WaitHealthy(ctx); err != nil {
		return err
	}
	began := time.Now()
	if err := s.judgeAll(ctx); err != nil {
		return err
	}
	if err := s.load(ctx); err != nil {
		return err
	}
	limit := SoakConverge
	if healed == nil {
		limit = 30 * time.Second // the first time processes have to start
	}
	for _, f := range healed {
		limit = max(limit, f.limit)
	}
	took, err := s.reached(ctx, began, limit)
	if err != nil {
		return err
	}
	for _, f := range healed {
		s.report.Converged[f.kind] = max(s.report.Converged[f.kind], took)
	}
	registered, err := s.registered(ctx, began, max(limit, s.opt.TTL+SoakConverge))
	if err != nil {
		return err
	}
	if healed != nil {
		s.report.Registered = max(s.report.Registered, registered)
	}
	watching, err := s.watching(ctx, began, max(limit, SoakWatch))
	if err != nil {
		return err
	}
	if healed != nil {
		s.report.Watching = max(s.report.Watching, watching)
	}
	s.log("everybody has found everybody after %s, the registry is right after %s, all watch after %s", round(took), round(registered), round(watching))
	if err := errors.Join(s.registry.verdict(), s.noTheft()); err != nil {
		return err
	}
	for _, v := range s.live() {
		if err := s.noForeign(ctx, v); err != nil {
			return err
		}
	}
	if err := s.judgeAll(ctx); err != nil { // the phase without faults
		return err
	}
	if err := s.sample(ctx); err != nil {
		return err
	}
	s.pulse.reset()
	return nil
}

// judgeAll ends a phase of all clients and judges it: I2, I3 and I8.
func (s *soak) judgeAll(ctx context.Context) error {
	all := append(slices.Clone(s.clients), s.lonely)
	reports := make([]Report, len(all))
	s.behind = 0
	for i, c := range all {
		var err error
		if reports[i], err = c.proc.Mark(ctx); err != nil {
			return err
		}
		s.behind = max(s.behind, reports[i].Behind)
	}
	for i, c := range all {
		if err := s.judge(c, reports[i]); err != nil {
			return err
		}
	}
	s.kills = slices.DeleteFunc(s.kills, func(k kill) bool { return time.Since(k.ended) > 30*time.Second })
	return nil
}

func (s *soak) judge(c *soakClient, r Report) error {
	s.report.Calls += r.Total
	s.report.Late = max(s.report.Late, r.LateBy)
	var errs []error
	if r.Misrouted > 0 {
		errs = append(errs, violation("I2", "%s: %d answers came from another service\n%s", c, r.Misrouted, failureLines(r.Failures)))
	}
	if r.LateBy > SoakLate {
		s.log("%s: a call returned %s after its deadline; calls began up to %s late, timers of the suite were %s late", c, round(r.LateBy), round(r.Behind), round(s.pulse.worst()))
	}
	if most, ok := s.punctual(r); ok && r.LateBy > SoakLate+most {
		errs = append(errs, violation("I8", "%s: a call returned %s after its deadline, allowed are %s", c, r.LateBy, SoakLate+most))
	}
	if c == s.lonely {
		if r.Failed != r.Total {
			errs = append(errs, violation("I2", "%s: %d calls of a service without servers were answered", c, r.Total-r.Failed))
		}
		return errors.Join(errs...)
	}
	s.report.Failed += r.Failed
	wrong := slices.DeleteFunc(slices.Concat(r.Failures, r.Streams.Failures), s.inFlight)
	if len(wrong) > 0 {
		errs = append(errs, violation("I3", "%s: %d of %d calls failed and %d streams were lost although servers lived:\n%s", c, r.Failed, r.Total, r.Streams.Lost, failureLines(wrong)))
	}
	errs = append(errs, s.uncounted(c, r))
	s.report.Streams += r.Streams.Opened
	s.report.LostWrites += r.FailedWrites
	return errors.Join(errs...)
}

// kill is the end of a server by SIGKILL, from the signal until the process was gone.
type kill struct {
	addr         string
	began, ended time.Time
}

// inFlight tells failures that must be: of what must not be repeated and was under way when its server was killed.
func (s *soak) inFlight(f Failure) bool {
	return f.Kind != KindRead && slices.ContainsFunc(s.kills, func(k kill) bool {
		meant := f.Server == "" || f.Server == k.addr
		return meant && f.Due.Before(k.ended) && f.At.After(k.began.Add(-time.Second)) && f.At.Before(k.ended.Add(time.Second))
	})
}

// uncounted is an error when more failed than a client describes, unless kills explain that many.
func (s *soak) uncounted(c *soakClient, r Report) error {
	more := r.Failed > int64(len(r.Failures)) && (r.Failed > r.FailedWrites || r.Failed > mostInKills(len(s.kills), c.opt.Rate))
	if !more && (r.Streams.Lost <= int64(len(r.Streams.Failures)) || r.Streams.Lost <= int64(len(s.kills)*c.opt.Streams)) {
		return nil
	}
	return violation("I3", "%s: %d of %d calls failed, %d of them writes, and %d streams were lost: more than can be looked at, and more than was under way at %d kills", c, r.Failed, r.Total, r.FailedWrites, r.Streams.Lost, len(s.kills))
}

// underWay is the longest that a call which must not be repeated is taken to be under way at a server that is killed,
// with what the system needs to tell its caller.
const underWay = 100 * time.Millisecond

// mostInKills bounds the calls that can have been under way, of a caller with that rate.
func mostInKills(kills, rate int) int64 {
	perKill := (time.Duration(rate)*underWay + time.Second - 1) / time.Second
	return int64(kills) * int64(perKill)
}

func failureLines(all []Failure) string {
	var b strings.Builder
	for i, f := range all {
		if i == 10 {
			fmt.Fprintf(&b, "and %d more\n", len(all)-i)
			break
		}
		fmt.Fprintf(&b, "%s %s due %s of %q: %s: %s\n", f.At.Format("15:04:05.000"), f.Kind, f.Due.Format("15:04:05.000"), f.Server, f.Code, f.Text)
	}
	return b.String()
}

// allowance is for a busy machine: three times what timers were late by in any process, since each is delayed at moments
// of its own, and 20 ms for each program that waits for a processor on average.
func (s *soak) allowance(r Report) time.Duration {
	return 3*max(r.Behind, s.behind, s.pulse.worst()) + time.Duration(20*s.waiting())*time.Millisecond
}

// punctual is what a busy machine excuses of I8 in a phase, and whether that can be judged at all.
func (s *soak) punctual(r Report) (most time.Duration, ok bool) {
	s.report.Phases++
	if most = s.allowance(r); most > SoakBusy {
		s.report.Unjudged++
		return 0, false
	}
	return most, true
}

// judged is an error when I8 could be judged in less than half of the phases of a long run.
func (s *soak) judged(took time.Duration) error {
	if r := s.report; took >= soakJudgedFrom && 2*(r.Phases-r.Unjudged) < r.Phases {
		return violation("I8", "the machine was too busy to judge %d of %d phases; run it where nothing else runs", r.Unjudged, r.Phases)
	}
	return nil
}

// waiting is how many programs wait for each processor; 0 where the system does not tell.
func waiting() int {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return 0
	}
	one, _, _ := strings.Cut(string(text), " ")
	load, err := strconv.ParseFloat(one, 64)
	if err != nil {
		return 0
	}
	return int(max(load/float64(runtime.NumCPU())-1, 0))
}

// reached waits until every client was answered by every living server since began: I1.
func (s *soak) reached(ctx context.Context, began time.Time, limit time.Duration) (took time.Duration, err error) {
	within, cancel := context.WithDeadline(ctx, began.Add(limit+SoakConverge))
	defer cancel()
	for _, c := range s.clients {
		for _, v := range s.live() {
			if v.service != c.opt.Service {
				continue
			}
			at, err := c.proc.AwaitProcess(within, v.proc)
			if err != nil {
				return 0, violation("I1", "%s was not answered by %s: %w", c, v, err)
			}
			took = max(took, at.Sub(began))
		}
	}
	if most := limit + s.allowance(Report{}); took > most {
		return took, violation("I1", "it took %s until every client was answered by every server, allowed are %s", took, most)
	}
	return took, nil
}

// registered waits until etcd holds exactly the living servers: the other half of I1.
func (s *soak) registered(ctx context.Context, began time.Time, limit time.Duration) (time.Duration, error) {
	want := map[string]bool{}
	for _, v := range s.live() {
		want[s.keyOf(v)] = true
	}
	within, cancel := context.WithDeadline(ctx, began.Add(limit+s.allowance(Report{})))
	defer cancel()
	for {
		have, err := s.registrations(within)
		if err == nil && maps.Equal(have, want) {
			return time.Since(began), nil
		}
		if stopped := backoff.Sleep(within, 5*probePause); stopped != nil {
			return 0, violation("I1", "etcd holds %q, want %q: %w", slices.Sorted(maps.Keys(have)), slices.Sorted(maps.Keys(want)), errors.Join(stopped, err))
		}
	}
}

// watching waits until there are as many watches in etcd as at first: who does not watch learns nothing of what comes
// next, and would be found out only by the next fault.
func (s *soak) watching(ctx context.Context, began time.Time, limit time.Duration) (time.Duration, error) {
	within, cancel := context.WithDeadline(ctx, began.Add(limit+s.allowance(Report{})))
	defer cancel()
	since := time.Now()
	for last := 0; ; {
		n, err := s.cluster.watchers(within)
		switch {
		case err != nil:
		case s.watchers == 0 && n != last: // the first time: as many as there are when no more come
			last, since = n, time.Now()
		case s.watchers == 0 && time.Since(since) > time.Second:
			s.watchers = n
			return time.Since(began), nil
		case s.watchers > 0 && n >= s.watchers:
			return time.Since(began), nil
		}
		if stopped := backoff.Sleep(within, 5*probePause); stopped != nil {
			return 0, violation("I1", "there are %d watches in etcd, there were %d before the first fault: %w", n, s.watchers, errors.Join(stopped, err))
		}
	}
}

// registrations are the keys in etcd; what cannot be read or does not say that it is up is false.
func (s *soak) registrations(ctx context.Context) (map[string]bool, error) {
	res, err := s.cluster.Admin().Get(ctx, s.territory(), clientv3.WithPrefix())
	if err != nil {
		return nil, err
	}
	have := map[string]bool{}
	for _, kv := range res.Kvs {
		service, addr, _ := strings.Cut(strings.TrimPrefix(string(kv.Key), s.territory()), "/")
		inst, err := discovery.Decode(service, kv.Value)
		have[string(kv.Key)] = err == nil && inst.Addr == addr && inst.State == discovery.StateUp
	}
	return have, nil
}

// noForeign is I2 from the servers' side.
func (s *soak) noForeign(ctx context.Context, v *soakServer) error {
	st, err := v.proc.Stats(ctx)
	if err != nil {
		return err
	}
	if st.Foreign > 0 {
		return violation("I2", "%s executed %d calls that were meant for others, of %d", v, st.Foreign, st.Executed)
	}
	return nil
}

// noTheft is I5: in a round in which nothing explains it, no key of a server that lived all the time went away.
func (s *soak) noTheft() error {
	gone := s.registry.removals()
	if len(s.faults) == 0 {
		return nil
	}
	var errs []error
	for _, g := range gone {
		if s.explained(g) {
			continue
		}
		for _, v := range s.live() {
			if s.keyOf(v) == g.key {
				errs = append(errs, violation("I5", "the key of %s (incarnation %s) was removed at %s, and no fault explains it", v, g.incarnation, g.at.Format("15:04:05.000")))
			}
		}
	}
	return errors.Join(errs...)
}

// explained tells whether a fault of the last lifetime of a lease can have removed the key: any but those that compact,
// that stop servers elsewhere or that concern clients.
func (s *soak) explained(g removal) bool {
	_, addr, _ := strings.Cut(strings.TrimPrefix(g.key, s.territory()), "/")
	for _, f := range s.faults {
		if !f.ended.IsZero() && g.at.Sub(f.ended) > s.opt.TTL+SoakConverge {
			continue
		}
		harmless := f.class == classServer || f.class == classClient || f.kind == "history compacted"
		if !harmless || strings.Contains(f.detail, addr) {
			return true
		}
	}
	return false
}
