package balancer

import (
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/balancer"
)

// set is what the pickers of one policy have in common.
type set struct {
	begun    time.Time
	turn     atomic.Int64 // picks, from one table to the next
	inflight atomic.Int64 // calls on all instances, while a table wants the sum
	calls    calls
	failed   failures

	mu     sync.Mutex // guards what follows; taken after gRPC's locks and the filter's are not held
	config *Config
	filter Filter
	known  float64 // weight of the instances in the caller's zone, whether they take calls or not
	picker *picker // the present one; nil for none
}

func newSet() *set {
	s := &set{begun: time.Now(), config: &Config{Rule: RoundRobin}}
	s.turn.Store(rand.Int64N(1 << 32))
	return s
}

// configure takes in a state before it is acted upon. What it changes holds from the next table on, which that makes.
func (s *set) configure(state balancer.ClientConnState, f Filter) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c, ok := state.BalancerConfig.(*Config); ok {
		s.config = c
	}
	s.filter, s.known = f, 0
	if s.config.Zone == "" {
		return
	}
	for _, e := range state.ResolverState.Endpoints {
		if f, _ := factsOf(e); f.zone == s.config.Zone {
			s.known += float64(f.weight)
		}
	}
}

// now is the set's clock; it is never 0.
func (s *set) now() time.Duration { return time.Since(s.begun) + 1 }

// begin counts a call in and returns what counts it out. ctx is nil for a call that remembers itself where it was.
func (s *set) begin(ctx context.Context, t *table, i *Instance, method string, trial bool) func(balancer.DoneInfo) {
	c := s.calls.get()
	c.set, c.of, c.ctx, c.method = s, i, ctx, method
	i.inflight.Add(1)
	if c.summed = t.sum; c.summed {
		s.inflight.Add(1)
	}
	if c.watched = t.filter != nil && i.record != nil; c.watched {
		c.began = s.now()
		i.record.Begin(method, trial, &c.slot)
	}
	return c.done
}

// pick makes the picker for those that take calls; nil for nobody.
func (s *set) pick(ready []member, last bool) *picker {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.picker = nil
	if len(ready) > 0 {
		s.picker = &picker{set: s, ready: ready, last: last}
	}
	return s.picker
}

// changed has the next pick make its table anew.
func (s *set) changed() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.picker != nil {
		s.picker.table.Store(nil)
	}
}

// renew makes the table of a picker anew, because there is none or time has passed, and returns it.
func (s *set) renew(p *picker) *table {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := p.table.Load()
	if t != nil && (t.until == 0 || s.now() <= t.until) { // another call has done it
		return t
	}
	t = s.tableLocked(p)
	p.table.Store(t)
	return t
}

func (s *set) tableLocked(p *picker) *table {
	now := s.now()
	for _, m := range p.ready {
		m.since.CompareAndSwap(0, int64(now))
	}
	t := &table{members: p.ready, sum: s.config.Rule == RingHash && s.config.HashMaxLoad > 0}
	t.count = t.sum || s.config.Rule == LeastRequest
	if s.filter != nil && !p.last {
		if s.filter.Active() {
			t.count, t.filter = true, s.filter
		}
		t.members = s.eligible(p.ready)
	}
	t.members = s.shares(t.members, p.last)
	t.until = s.warm(t, now)
	t.rule = newRule(s.config, t.members, &s.turn, &s.inflight)
	return t
}

// eligible asks the filter.
func (s *set) eligible(ready []member) []member {
	all := make([]*Instance, len(ready))
	for n, m := range ready {
		all[n] = m.Instance
	}
	some := s.filter.Eligible(all)
	if len(some) == 0 || len(some) == len(all) {
		return ready
	}
	in := make(map[*Instance]bool, len(some))
	for _, i := range some {
		in[i] = true
	}
	left := make([]member, 0, len(some))
	for _, m := range ready {
		if in[m.Instance] {
			left = append(left, m)
		}
	}
	if len(left) == 0 {
		return ready
	}
	return left
}

// shares returns the members with their shares: by weight, and by zone when the caller prefers its own. While enough of
// that zone's instances take calls it has all of them. Below that it keeps what the rest of it can carry, the missing
// part of what is enough going to all others: the way of Envoy's priority levels with their overprovisioning factor.
func (s *set) shares(members []member, last bool) []member {
	out := make([]member, len(members))
	own, ownWeight, otherWeight := 0, 0.0, 0.0
	for n, m := range members {
		f := m.facts.Load()
		m.share = float64(f.weight)
		out[n] = m
		if s.config.Zone != "" && f.zone == s.config.Zone {
			own++
			ownWeight += m.share
		} else {
			otherWeight += m.share
		}
	}
	if last || own == 0 || own == len(out) {
		return out
	}
	keep := s.keeps(own, ownWeight)
	left := out[:0]
	for _, m := range out {
		switch mine := m.Zone() == s.config.Zone; {
		case mine:
			m.share *= keep / ownWeight
		case keep < 1:
			m.share *= (1 - keep) / otherWeight
		default:
			continue
		}
		left = append(left, m)
	}
	return left
}

// keeps is the part of the calls that stays in the caller's zone.
func (s *set) keeps(own int, ownWeight float64) float64 {
	keep := 1.0
	if c := s.config; c.ZoneMinShare > 0 && s.known > 0 {
		keep = min(keep, ownWeight/s.known/c.ZoneMinShare)
	}
	if c := s.config; c.ZoneMinInstances > 0 {
		keep = min(keep, float64(own)/float64(c.ZoneMinInstances))
	}
	return keep
}

const (
	warmLeast = 0.1 // of its share is what an instance that has just joined takes
	warmSteps = 50  // in which that grows to the whole

	// Up to so many members a newcomer is called next also when it does not start slowly. Everybody who follows the service
	// does that at the same moment, so with more of them it would get too many times its share at once.
	debutMembers = 8
	// debutAge is how long it is a newcomer then.
	debutAge = time.Second
)

// warm takes from the shares of those that joined a short while ago, notes those that wait for their first call, and
// returns when that is to be done again. The first call of a newcomer is not kept waiting: it connects, and shows whether
// the newcomer is of any use. A key is not sent elsewhere for that.
func (s *set) warm(t *table, now time.Duration) (until time.Duration) {
	for n, m := range t.members {
		age := now - time.Duration(m.since.Load())
		over := max(s.config.SlowStart, time.Duration(m.over.Load()))
		slow := age < over
		if !m.joined.Load() || !slow && (age >= debutAge || len(t.members) > debutMembers) {
			continue
		}
		if !m.called.Load() && s.config.Rule != RingHash {
			t.debuts = append(t.debuts, n)
		}
		if !slow {
			continue
		}
		t.members[n].share *= max(float64(age)/float64(over), warmLeast)
		if next := now + max(over/warmSteps, time.Millisecond); until == 0 || next < until {
			until = next
		}
	}
	return until
}
