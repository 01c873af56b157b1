package ejection

import (
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
)

// Call is one call on one instance, from its pick to its end. The zero value is ready for [Instance.Begin]; whoever
// makes it may use it anew after [Call.End].
type Call struct {
	i      *Instance
	method *method // nil for a call whose time says nothing
	start  time.Duration
	stay   int
	canary bool
	slow   bool // it counts as slow already

	in         *calls // the list that it is in; nil for none
	prev, next *Call
}

// calls is a list of calls, in the order in which they were added.
type calls struct{ first, last *Call }

func (l *calls) add(c *Call) {
	c.in, c.prev, c.next = l, l.last, nil
	if l.last == nil {
		l.first = c
	} else {
		l.last.next = c
	}
	l.last = c
}

func (l *calls) remove(c *Call) {
	if c.prev == nil {
		l.first = c.next
	} else {
		c.prev.next = c.next
	}
	if c.next == nil {
		l.last = c.prev
	} else {
		c.next.prev = c.prev
	}
	c.in, c.prev, c.next = nil, nil, nil
}

// Begin notes that a call was sent to the instance. Only unary calls have a time to compare. A canary is a call that
// [Machine.Canary] chose the instance for.
func (i *Instance) Begin(c *Call, name string, unary, canary bool, now time.Time) {
	if !i.m.active.Load() {
		i.m.woken.Store(int64(i.m.at(now)))
		i.m.active.Store(true)
	}
	if canary {
		i.trying.Store(true)
	}
	*c = Call{i: i, start: i.m.at(now), canary: canary}
	if unary {
		c.method = i.m.method(name)
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	c.stay = i.stay
	if unary {
		i.running.add(c)
	}
}

// End notes how a call ended, and how long it took. The code is for people only; what counts is the outcome. It returns
// the instances whose state this has changed.
func (c *Call) End(o Outcome, code codes.Code, took time.Duration) []Change {
	i := c.i
	at := c.start + took
	i.mu.Lock()
	if c.in != nil {
		if c.in == &i.running && c.late(took) { // and no tick has seen it
			i.slowLocked(c.method, at)
		}
		c.in.remove(c)
	}
	if c.stay != i.stay {
		i.mu.Unlock()
		return nil
	}
	suspect := i.endLocked(c, o, code, took, at)
	i.mu.Unlock()
	if c.canary {
		return i.m.tried(c, o, code, took, at)
	}
	if !suspect || i.out() {
		return nil
	}
	return i.m.suspected(i, at)
}

// endLocked counts a call that ended, and reports whether the instance may have to go at once.
func (i *Instance) endLocked(c *Call, o Outcome, code codes.Code, took, now time.Duration) (suspect bool) {
	if o == Ignored {
		return false
	}
	stream := c.method == nil
	if stream && o == TimedOut {
		return false // a deadline is the natural end of a stream
	}
	i.countLocked(o != Answered)
	if !stream && (o == Answered || o == TimedOut) {
		i.average(c.method).add(took)
		if !c.method.learning.Load() {
			c.method.learning.Store(true)
		}
	}
	switch o {
	case Answered, Broken:
		i.answered = now
		if c.start >= i.rowFrom {
			i.row = 0
		}
		if fastest := i.fastest.Load(); o == Answered && !stream && (fastest == 0 || int64(took) < fastest) {
			i.fastest.Store(int64(took))
		}
		if o == Answered && !stream && c.method.known() && !c.late(took) {
			i.fastLocked()
		}
	case TimedOut:
		if c.short(took) {
			break
		}
		fallthrough
	case Failed:
		if i.row == 0 {
			i.rowFrom = now
		}
		i.row, i.last = i.row+1, code
		suspect = true
	case Ignored:
	}
	i.wellLocked()
	return suspect
}

// late reports whether a call has taken too long by now, the way to the instance not counted. An answer came all that way:
// what took longer when the connection was made was something else.
func (c *Call) late(took time.Duration) bool {
	way := c.i.way.Load()
	if fastest := c.i.fastest.Load(); fastest > 0 {
		way = min(way, fastest)
	}
	return c.method.slow(took - time.Duration(way))
}

// short reports whether the call's deadline was short for its method, which says nothing of who did not meet it.
func (c *Call) short(took time.Duration) bool { return took < 2*time.Duration(c.method.usual.Load()) }

func (i *Instance) average(m *method) *average {
	a := i.averages[m]
	if a == nil {
		a = &average{}
		i.averages[m] = a
	}
	return a
}

// suspected judges an instance whose last call failed.
func (m *Machine) suspected(i *Instance, now time.Duration) []Change {
	cfg := m.cfg.Load()
	i.mu.Lock()
	few := i.row < min(cfg.Consecutive, 2)
	i.mu.Unlock()
	if few {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.judgeLocked(i, cfg, now)
	return m.takeLocked()
}

func (m *Machine) judgeLocked(i *Instance, cfg *Config, now time.Duration) {
	if i.out() || !i.connected {
		return
	}
	i.mu.Lock()
	r, guilty := i.verdictLocked(cfg, i.closely(now), now)
	i.mu.Unlock()
	if guilty {
		m.ejectLocked(i, r, now)
	}
}

// closely reports whether the instance has just returned.
func (i *Instance) closely(now time.Duration) bool { return i.returned && now-i.since < closeTime }

// tried takes in how a canary ended.
func (m *Machine) tried(c *Call, o Outcome, code codes.Code, took, now time.Duration) []Change {
	i := c.i
	m.mu.Lock()
	defer m.mu.Unlock()
	if Phase(i.phase.Load()) != Trial {
		return nil
	}
	if !c.slow {
		i.canary = false
	}
	switch {
	case o == Ignored || o == TimedOut && c.short(took):
	case o == Failed || o == TimedOut || o == Broken && i.reason.Kind == Errors: // elsewhere the application's errors are answers
		m.ejectLocked(i, Reason{i.reason.Kind, fmt.Sprintf("a call that tried it failed with %v; before that: %s", code, i.before())}, now)
	case c.slow:
	case m.cfg.Load().SlowFactor > 0 && c.late(took):
		m.slowTrialLocked(i, now)
	default:
		i.goods++
		if i.goods >= trialCalls && (i.reason.Kind != Errors || i.goods >= trialErrors) {
			m.returnLocked(i, now, false)
		}
	}
	return m.takeLocked()
}

// slowTrialLocked counts a slow call of a trial. One may be chance, and so may two of many.
func (m *Machine) slowTrialLocked(i *Instance, now time.Duration) {
	if i.slows++; i.slows > 1+i.goods/trialCalls {
		m.ejectLocked(i, Reason{i.reason.Kind, "calls that tried it took too long; before that: " + i.before()}, now)
	}
}
