// Package ejection decides which instances of a callee are taken out of use because they are sick: their calls fail, get
// no answer, or take much longer than the same calls take elsewhere. It is a state machine over what it is told, call by
// call, with the time as an argument: it makes no connection, starts no goroutine and knows no clock.
//
// An instance is judged by its calls and by those of the others, so that what ails all of them, or the caller itself,
// ejects none. There are four rules:
//
//   - row: several calls in a row failed with UNAVAILABLE or DEADLINE_EXCEEDED, or have had no answer for long, as in
//     Envoy's consecutive gateway failures and Finagle's failure accrual.
//   - errors: its share of failed calls is higher than that of the others together, as in Envoy's failure percentage.
//   - slow: most of its calls take a multiple of what the same method takes at the median instance. Calls count as soon
//     as they have taken too long, so that an instance that hangs is seen before deadlines end.
//   - trial: it has just returned and the first calls went wrong again.
//
// What was ejected comes back in steps. When its sentence is over somebody has to ask it ([Machine.Due], [Machine.Probed]);
// if it answers well it is on trial, where it gets a single call at a time ([Machine.Canary]); if those go well it takes
// calls again, and is watched more closely for a while. So a sick instance that passes its health check costs one call
// per sentence, whatever the rate of calls is. Sentences grow with each return that failed.
//
// At no time are more instances ejected than [Config.MaxShare] of those that are connected; when others go, the ejected
// are pardoned.
package ejection

import (
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Config says when instances are ejected and for how long. It is comparable.
type Config struct {
	Consecutive int           // calls that fail in a row
	ErrorShare  float64       // how much higher the share of failed calls is than that of the others; 0 switches the rule off
	MinCalls    int           // that the rule about shares needs, of the last 10 to 20 seconds
	SlowFactor  float64       // times the usual time that a slow call takes; 0 switches the rule off
	SlowMargin  time.Duration // that a slow call takes longer than usual, at least
	SlowAfter   time.Duration // how long an instance may be slow, or silent
	BaseTime    time.Duration // the first sentence
	MaxTime     time.Duration // the longest
	MaxShare    float64       // of the connected instances, that may be ejected at once; less than 1
}

const (
	trialCalls  = 3                // that must go well
	trialErrors = 8                // and after an ejection for a share of errors, which may be luck
	trialTime   = 5 * time.Second  // in which they come, or the instance returns without
	closeTime   = 10 * time.Second // how long an instance is watched closely after its return
	beginTime   = time.Second      // in which a call that tries it begins
	calmTime    = time.Minute      // after which an ejection counts as the first again
	probeEvery  = time.Second      // between questions to an ejected instance that does not answer well
)

// Phase is where an instance stands.
type Phase int32

// The phases, in the order in which an instance goes through them.
const (
	In      Phase = iota // takes calls
	Out                  // ejected; serves its sentence, or waits for a good answer
	Probing              // ejected; is being asked
	Trial                // ejected but for one call at a time
)

// Kinds of reasons.
const (
	Row    = "row"
	Errors = "errors"
	Slow   = "slow"
	Silent = "silent"
)

// Reason is why an instance was ejected.
type Reason struct {
	Kind string // Row, Errors, Slow or Silent
	Text string // one line for people
}

// Change is an instance that was ejected or has returned. What happens in between, asking and trying, is none.
type Change struct {
	Instance *Instance
	Ejected  bool
	Reason   Reason        // of the ejection; of a return: why it had been ejected
	For      time.Duration // of an ejection: until it is asked; of a return: how long it was out
	Pardoned bool          // it returned for want of others
}

// Machine holds the instances of one connection. Safe for concurrent use.
type Machine struct {
	epoch   time.Time
	jitter  func() float64 // 0 to 1
	cfg     atomic.Pointer[Config]
	methods sync.Map     // name to *method
	trials  atomic.Int32 // instances on trial
	active  atomic.Bool  // something began since the last tick
	woken   atomic.Int64 // when that was first

	mu        sync.Mutex // guards what follows and the phases of instances; taken before an instance's own lock
	instances []*Instance
	outs      int           // instances that are ejected, connected or not
	seen      int           // counts calls of Connected
	learned   time.Duration // when the methods' limits were set last
	ticked    time.Duration // when the last tick was
	stood     bool          // nothing was judged then, for this process had stood still
	changes   []Change      // not handed out yet
}

// New returns a machine without instances. Its clock starts at now.
func New(cfg Config, now time.Time) *Machine {
	m := &Machine{epoch: now, jitter: rand.Float64}
	m.cfg.Store(&cfg)
	return m
}

// Configure sets the rules that hold from now on. Sentences that run are not changed.
func (m *Machine) Configure(cfg Config) { m.cfg.Store(&cfg) }

// Add makes an instance known. It counts for others, and can be ejected, while it is connected; see [Machine.Connected].
func (m *Machine) Add(name string) *Instance {
	i := &Instance{m: m, name: name, averages: map[*method]*average{}}
	i.well.Store(true)
	m.mu.Lock()
	defer m.mu.Unlock()
	i.index = len(m.instances)
	m.instances = append(m.instances, i)
	return i
}

// Remove forgets an instance. Its running calls may go on and end. The caller is told of those that are pardoned since
// fewer are left.
func (m *Machine) Remove(i *Instance, now time.Time) []Change {
	m.mu.Lock()
	defer m.mu.Unlock()
	last := m.instances[len(m.instances)-1]
	m.instances[i.index], last.index = last, i.index
	m.instances = m.instances[:len(m.instances)-1]
	if i.out() {
		m.inLocked(i)
	}
	i.connected = false // a call that still runs ejects it no more
	m.pardonLocked(m.at(now))
	if len(m.instances) == 1 && m.instances[0].out() { // one of one is never ejected, connected or not
		m.returnLocked(m.instances[0], m.at(now), true)
	}
	return m.takeLocked()
}

// Release lets every instance take calls again, as when ejection is switched off.
func (m *Machine) Release(now time.Time) []Change {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, i := range m.instances {
		if i.out() {
			m.returnLocked(i, m.at(now), true)
		}
	}
	return m.takeLocked()
}

// Active reports whether the machine needs ticks: calls run or ran since the last tick, or somebody is ejected.
func (m *Machine) Active() bool {
	if m.active.Load() {
		return true
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.outs > 0 || slices.ContainsFunc(m.instances, (*Instance).busy)
}

// Connected tells which instances calls could be sent to, ejected ones included; the others are not connected. Ejected
// ones are pardoned when too few are left.
func (m *Machine) Connected(list []*Instance, now time.Time) []Change {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.seen++
	for _, i := range list {
		i.seen = m.seen
	}
	for _, i := range m.instances {
		i.connectLocked(i.seen == m.seen, m.cfg.Load().Consecutive)
	}
	m.pardonLocked(m.at(now))
	return m.takeLocked()
}

// Canary returns an instance on trial that is to get the next call, or nil. Only unary calls try, since streams may never
// end. A call that does not begin soon after all is not waited for.
func (m *Machine) Canary(unary bool, now time.Time) *Instance {
	if !unary || m.trials.Load() == 0 {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, i := range m.instances {
		if Phase(i.phase.Load()) == Trial && i.connected && !i.canary {
			i.canary, i.promised = true, m.at(now)
			i.trying.Store(false)
			return i
		}
	}
	return nil
}

// Due returns the instances that are to be asked now how they are. Each must be answered for with [Machine.Probed].
func (m *Machine) Due(now time.Time) []*Instance {
	m.mu.Lock()
	defer m.mu.Unlock()
	var due []*Instance
	for _, i := range m.instances {
		if Phase(i.phase.Load()) == Out && i.connected && m.at(now) >= i.until {
			i.phase.Store(int32(Probing))
			due = append(due, i)
		}
	}
	return due
}

// Probed takes in how an instance that was due has answered: nil means within the usual time and that it serves, an error
// why that is not so.
func (m *Machine) Probed(i *Instance, failure error, now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if Phase(i.phase.Load()) != Probing {
		return // removed or pardoned meanwhile
	}
	if failure != nil {
		i.probed = failure.Error()
		i.phase.Store(int32(Out))
		i.until = m.at(now) + m.spread(min(probeEvery, m.cfg.Load().BaseTime))
		return
	}
	i.phase.Store(int32(Trial))
	i.until = m.at(now) + trialTime
	i.goods, i.slows, i.canary = 0, 0, false
	i.reset()
	m.trials.Add(1)
}

// at is a moment as time since the epoch.
func (m *Machine) at(now time.Time) time.Duration { return now.Sub(m.epoch) }

// spread jitters a wait by a tenth, so that callers do not all come back at once.
func (m *Machine) spread(d time.Duration) time.Duration {
	return time.Duration(float64(d) * (0.9 + 0.2*m.jitter()))
}

func (m *Machine) takeLocked() []Change {
	c := m.changes
	m.changes = nil
	return c
}

// ejectLocked ejects an instance that is in, or ends its trial, unless that may not be.
func (m *Machine) ejectLocked(i *Instance, r Reason, now time.Duration) {
	cfg := m.cfg.Load()
	fresh := !i.out()
	if fresh && !m.mayEjectLocked(i, cfg.MaxShare) {
		return
	}
	if fresh && (!i.returned || now-i.since > calmTime) {
		i.times = 0
	}
	if Phase(i.phase.Load()) == Trial {
		m.trials.Add(-1)
	}
	d := cfg.MaxTime
	if i.times < 30 {
		d = min(d, cfg.BaseTime<<i.times)
	}
	d = m.spread(d)
	i.times++
	i.until = now + d
	i.reason, i.probed = r, ""
	i.canary = false
	i.phase.Store(int32(Out))
	i.reset()
	if fresh {
		m.outs++
		i.since = now
		m.changes = append(m.changes, Change{Instance: i, Ejected: true, Reason: r, For: d})
	}
}

// returnLocked lets an ejected instance take calls again.
func (m *Machine) returnLocked(i *Instance, now time.Duration, pardoned bool) {
	m.inLocked(i)
	i.reset()
	m.changes = append(m.changes, Change{Instance: i, Reason: i.reason, For: now - i.since, Pardoned: pardoned})
	i.since, i.returned, i.canary = now, true, false
}

func (m *Machine) inLocked(i *Instance) {
	m.outs--
	if Phase(i.phase.Load()) == Trial {
		m.trials.Add(-1)
	}
	i.phase.Store(int32(In))
}

// mayEjectLocked reports whether one more may go, and that the others are not in the same trouble: at least half of
// those in use are well.
func (m *Machine) mayEjectLocked(i *Instance, share float64) bool {
	if !i.connected {
		return false // gRPC knows already, and uses others
	}
	connected, out, others, well := 0, 0, 0, 0
	for _, o := range m.instances {
		switch {
		case !o.connected:
		case o.out():
			connected, out = connected+1, out+1
		default:
			connected++
			if o != i {
				others++
				if o.well.Load() {
					well++
				}
			}
		}
	}
	return out+1 <= allowed(connected, share) && others > 0 && 2*well >= others
}

// allowed is how many of the connected instances may be ejected.
func allowed(connected int, share float64) int {
	return max(0, min(connected-1, int(math.Floor(share*float64(connected)+1e-9))))
}

// pardonLocked lets ejected instances return until no more are out than may be: first those that were out least often,
// and of them those that are due first.
func (m *Machine) pardonLocked(now time.Duration) {
	for m.outs > 0 {
		connected, out := 0, 0
		var first *Instance
		for _, i := range m.instances {
			if !i.connected {
				continue
			}
			connected++
			if !i.out() {
				continue
			}
			out++
			if first == nil || i.times < first.times || i.times == first.times && i.until < first.until {
				first = i
			}
		}
		if out <= allowed(connected, m.cfg.Load().MaxShare) {
			return
		}
		m.returnLocked(first, now, true)
	}
}

// Trying reports whether an instance is on trial. It costs one read.
func (m *Machine) Trying() bool { return m.trials.Load() > 0 }
