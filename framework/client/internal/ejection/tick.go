package ejection

import (
	"cmp"
	"fmt"
	"slices"
	"sync/atomic"
	"time"
)

// learnEvery is how often the usual times are computed anew.
const learnEvery = 250 * time.Millisecond

// standstill is how long nothing ticked although it should have, when this process stood still or had no processor; where
// instances have less time than that to answer, it is that time.
const standstill = 500 * time.Millisecond

// leastCalls is how many calls of a method an instance must have had to be compared.
const leastCalls = 3

// silentFactor is how many times the usual time passes before a call counts as hanging, where slowness does not count.
const silentFactor = 5

// method is one unary method of the callee.
type method struct {
	name     string
	usual    atomic.Int64 // what it takes at the median instance, ns; 0 while that is not known
	limit    atomic.Int64 // what takes longer is slow; 0 while that is not known
	learning atomic.Bool  // there were calls since usual was computed
}

func (m *method) known() bool { return m.limit.Load() > 0 }

func (m *method) slow(took time.Duration) bool {
	limit := m.limit.Load()
	return limit > 0 && int64(took) > limit
}

func (m *Machine) method(name string) *method {
	if known, ok := m.methods.Load(name); ok {
		return known.(*method) //nolint:forcetypeassert // nothing else is stored
	}
	known, _ := m.methods.LoadOrStore(name, &method{name: name})
	return known.(*method) //nolint:forcetypeassert // nothing else is stored
}

// Tick does what time brings: calls become slow, limits are learned, instances are judged. It is to be called about ten
// times a second while [Machine.Active], and at least four times in Config.SlowAfter.
func (m *Machine) Tick(now time.Time) []Change {
	m.active.Store(false)
	at := m.at(now)
	cfg := m.cfg.Load()
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.stoodLocked(cfg, at) {
		m.active.Store(true) // another tick is wanted
		return m.takeLocked()
	}
	if at-m.learned >= learnEvery {
		m.learned = at
		m.learnLocked(cfg)
	}
	for _, i := range m.instances { // all of them before one is compared with them
		if canary := i.overdue(at); i.out() {
			m.trialLocked(i, canary, at)
		}
	}
	for _, i := range m.instances {
		m.judgeLocked(i, cfg, at)
	}
	m.judgeSharesLocked(cfg, at)
	return m.takeLocked()
}

// stoodLocked reports whether this process stood still until now. Then answers that came meanwhile were not read yet, and
// calls are not late but unheard: nobody is judged before the next tick.
func (m *Machine) stoodLocked(cfg *Config, now time.Duration) bool {
	m.stood = !m.stood && now-max(m.ticked, time.Duration(m.woken.Load())) > min(standstill, cfg.SlowAfter)
	m.ticked = now
	return m.stood
}

// overdue counts the calls that have taken too long by now, and reports whether one of them is a canary.
func (i *Instance) overdue(now time.Duration) (canary bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for c := i.running.first; c != nil; {
		next := c.next
		if c.late(now - c.start) {
			i.running.remove(c)
			i.hanging.add(c)
			i.slowLocked(c.method, now)
			c.slow = true
			canary = canary || c.canary
		}
		c = next
	}
	i.wellLocked()
	return canary
}

// trialLocked goes on with a trial: while a call hangs the next one may try, and if too few come in time they are not
// waited for.
func (m *Machine) trialLocked(i *Instance, hangs bool, now time.Duration) {
	if Phase(i.phase.Load()) != Trial {
		return
	}
	switch {
	case hangs:
		i.canary = false
		m.slowTrialLocked(i, now)
	case now >= i.until && i.slows == 0 || now >= i.until+trialTime:
		m.returnLocked(i, now, false)
	case i.canary && !i.trying.Load() && now-i.promised > beginTime:
		i.canary = false
	}
}

// judgeSharesLocked applies the rule about shares: each instance against the mean of the others.
func (m *Machine) judgeSharesLocked(cfg *Config, now time.Duration) {
	if cfg.ErrorShare == 0 {
		return
	}
	sum, instances := 0.0, 0
	for _, i := range m.instances {
		if share, ok := i.share(1); ok && i.connected && !i.out() {
			sum, instances = sum+share, instances+1
		}
	}
	if sum < cfg.ErrorShare || instances < 2 {
		return
	}
	for _, i := range m.instances {
		least := cfg.MinCalls
		if i.closely(now) {
			least = min(least, trialErrors)
		}
		share, ok := i.share(least)
		if others := (sum - share) / float64(instances-1); ok && i.connected && !i.out() && share-others >= cfg.ErrorShare {
			m.ejectLocked(i, Reason{Errors, fmt.Sprintf("%.0f %% of its last calls failed, of those to others %.0f %%", 100*share, 100*others)}, now)
			return // the others are compared without it
		}
	}
}

// share is the share of failed calls, if there were enough of them.
func (i *Instance) share(least int) (float64, bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.failing, i.judged >= max(1, least)
}

// learnLocked computes what each method usually takes: the median, over instances, of what it takes with each of them.
// Of two in the middle it is the faster, so that of two instances the slow one is slow and not the other one fast.
func (m *Machine) learnLocked(cfg *Config) {
	times := map[*method][]float64{}
	m.methods.Range(func(_, v any) bool {
		if known := v.(*method); known.learning.Swap(false) { //nolint:forcetypeassert // nothing else is stored
			times[known] = nil
		}
		return true
	})
	if len(times) == 0 {
		return
	}
	for _, i := range m.instances {
		i.mu.Lock()
		for known := range times {
			if a := i.averages[known]; a != nil && a.n >= leastCalls {
				times[known] = append(times[known], a.mean)
			}
		}
		i.mu.Unlock()
	}
	for known, list := range times {
		if len(list) == 0 || len(list) < 2 && !known.known() {
			continue // nobody to compare with
		}
		slices.SortFunc(list, cmp.Compare[float64])
		usual := list[(len(list)-1)/2]
		known.usual.Store(int64(max(usual, 1)))
		factor := cfg.SlowFactor
		if factor == 0 {
			factor = silentFactor
		}
		known.limit.Store(int64(max(usual*factor, usual+float64(cfg.SlowMargin))))
	}
}
