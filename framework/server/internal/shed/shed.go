// Package shed decides which calls an overloaded server refuses, so that it goes on answering as many as it can. It
// knows nothing of gRPC. There is one [Limiter] for each unary method; it needs no goroutine and nothing to start or close.
//
// The algorithm is made of two that are published. Overload is found as CoDel finds a bad queue (Nichols and Jacobson,
// "Controlling Queue Delay", 2012): not by a high latency, which bursts cause too, but by the lowest latency in an interval
// staying above what is usual. What is then admitted is bounded as BBR bounds what is in flight (Cardwell et al.,
// "BBR: Congestion-Based Congestion Control", 2016; for servers in Alibaba Sentinel and go-zero): by twice the rate of
// answers times the latency without a queue, corrected by what comes of it. Until overload is found there is no bound.
//
// Latency can rise for other reasons than a queue here, for example because a database is slow. Two things tell it
// apart: with a queue more calls come than are answered, and it shrinks with the calls in flight.
package shed

import (
	"math"
	"sync"
	"sync/atomic"
	"time"
)

// Options of a [Limiter].
type Options struct {
	// Target is by how much the lowest latency of an interval may exceed the usual one.
	Target time.Duration
	// MinInFlight is the number of calls of a method that are always admitted.
	MinInFlight int
}

const (
	// interval is what is looked at as a whole; with few calls it is longer, up to maxInterval.
	interval    = 100 * time.Millisecond
	maxInterval = time.Second
	// slowest is how long a method that hardly answers is looked at as a whole.
	slowest = 10 * time.Second
	// enough calls make an interval worth a look; fewer than few never do. Many make a mean that can be relied on.
	enough, few, many = 20, 5, 100
	// persistent is how many intervals in a row a queue must stand to be overload.
	persistent = 2
	// patience is after how many intervals it is none, if the server keeps up.
	patience = 10
	// memory is how fast what is usual follows what is.
	memory = 30 * time.Second
	// headroom is the share of the calls in flight that may wait, as a factor, to begin with.
	headroom = 1.5
	// decrease and increase correct the bound after an interval with and without a queue.
	decrease, increase = 0.9, 1.02
	// Under half of the calls in flight a latency that is for a queue falls; resistance is the share of it that must be
	// gone not to be found resistant, twice in a row or once after a cut as deep as deep.
	cut, deep, resistance = 0.5, 0.3, 0.1
	// probing is by how much latency must grow with twice the calls in flight to be for a queue.
	probing = 1.25
	// pause is how many intervals there are between probes.
	pause = 50
	// calmAfter is how long nobody must have been refused for the bound to be lifted.
	calmAfter = time.Second
)

// Limiter admits calls of one method. Its methods may be called from any goroutine.
type Limiter struct {
	opt  Options
	born time.Time

	inFlight atomic.Int64
	bound    atomic.Int64 // 0: none

	// What happened in the interval under way.
	due       atomic.Int64 // when it may be judged
	epoch     atomic.Int64 // calls that began before say nothing of the bound in force
	arrived   atomic.Int64
	refused   atomic.Int64
	ended     atomic.Int64
	succeeded atomic.Int64
	mistaken  atomic.Int64 // answered, too
	samples   atomic.Int64 // successes that began in this epoch, with their latencies:
	sum       atomic.Int64
	least     atomic.Int64

	mu    sync.Mutex
	began int64 // of the interval
	usual usual

	// Without a bound: the intervals in a row in which a queue stood, and what came and was answered since the second.
	queue, came, answered int64

	// Under a bound:
	limit     float64 // before rounding
	ref       reference
	resistant bool // latency did not follow the cut, at the first look
	probe     bool // the bound is twice the least one, to see what comes of it
	rest      int  // intervals until the next probe
	calm      int64
}

// reference is a latency and the calls in flight that it came with.
type reference struct{ inFlight, mean float64 }

// usual is the latency without overload.
type usual struct {
	least, mean float64 // in nanoseconds
	intervals   int
}

// New makes a limiter that admits everything until it finds overload.
func New(opt Options) *Limiter {
	l := &Limiter{opt: opt, born: time.Now()}
	l.due.Store(int64(interval))
	l.least.Store(math.MaxInt64)
	return l
}

// Admit reports whether a call may begin. One that may is to be ended by [Limiter.Done], with the begin returned here.
func (l *Limiter) Admit(p Priority) (began int64, ok bool) {
	now := int64(time.Since(l.born))
	l.arrived.Add(1)
	n := l.inFlight.Add(1)
	bound := l.bound.Load()
	if bound > 0 && n == 1 && now >= l.due.Load()+2*int64(calmAfter) && l.mu.TryLock() {
		l.wake(now)
		l.mu.Unlock()
		bound = l.bound.Load()
	}
	if bound > 0 && n > p.share(bound) {
		l.inFlight.Add(-1)
		l.refused.Add(1)
		return 0, false
	}
	return now, true
}

// Done ends a call that was admitted. A call that failed says nothing of the server's speed: mistakes are found fast.
func (l *Limiter) Done(began int64, success bool) {
	now := int64(time.Since(l.born))
	l.inFlight.Add(-1)
	ended := l.ended.Add(1)
	if success {
		l.succeeded.Add(1)
		if began >= l.epoch.Load() {
			took := now - began
			l.samples.Add(1)
			l.sum.Add(took)
			for least := l.least.Load(); took < least && !l.least.CompareAndSwap(least, took); least = l.least.Load() {
			}
		}
	}
	if due := l.due.Load(); now >= due && (ended >= enough || now >= due+int64(maxInterval-interval)) && l.mu.TryLock() {
		defer l.mu.Unlock()
		if now >= l.due.Load() { // nobody was faster
			l.judge(now)
		}
	}
}

// wake lifts a bound that nobody has judged for so long, with nothing in flight, that nothing can have happened since.
func (l *Limiter) wake(now int64) {
	if l.bound.Load() > 0 && now >= l.due.Load()+2*int64(calmAfter) {
		l.lift(now)
	}
}

// Mistake tells, before [Limiter.Done], that a call which failed was answered all the same: with what its caller did wrong.
func (l *Limiter) Mistake() { l.mistaken.Add(1) }

// seen is what happened in an interval.
type seen struct {
	now, length                 int64
	arrived, refused, succeeded int64
	mistaken                    int64
	samples                     int64
	least, mean                 float64
}

// judge ends the interval. Samples are kept under a bound until there are many.
func (l *Limiter) judge(now int64) {
	l.due.Store(now + int64(interval))
	if l.bound.Load() == 0 && l.samples.Load() < few && now-l.began < int64(slowest) {
		return // goes on
	}
	s := seen{now: now, length: now - l.began, arrived: l.arrived.Swap(0), refused: l.refused.Swap(0), succeeded: l.succeeded.Swap(0), mistaken: l.mistaken.Swap(0)}
	l.began = now
	l.ended.Store(0)
	bounded := l.bound.Load() > 0
	if s.samples = l.samples.Load(); s.samples > 0 {
		s.least, s.mean = float64(l.least.Load()), float64(l.sum.Load())/float64(s.samples)
	}
	if !bounded {
		l.newEpoch(l.epoch.Load())
		l.watch(s)
		return
	}
	if s.refused == 0 {
		if l.calm += s.length; l.calm >= int64(calmAfter) {
			l.lift(now)
		}
		return
	}
	l.calm = 0
	if s.samples >= many || s.samples >= few && now-l.epoch.Load() >= int64(maxInterval) {
		l.correct(s)
	}
}

// newEpoch forgets the samples, and those to come of calls that began before.
func (l *Limiter) newEpoch(epoch int64) {
	l.epoch.Store(epoch)
	l.samples.Store(0)
	l.sum.Store(0)
	l.least.Store(math.MaxInt64)
}

// stands reports whether a queue stood all through the interval.
func (l *Limiter) stands(s seen) bool {
	return s.samples >= few && l.usual.intervals > 0 && s.least-l.usual.least > max(float64(l.opt.Target), l.usual.least)
}

// watch judges an interval without a bound.
func (l *Limiter) watch(s seen) {
	if !l.stands(s) {
		l.queue = 0
		l.learn(s)
		return
	}
	if l.queue++; l.queue < persistent {
		l.came, l.answered = 0, 0
		return
	}
	l.came += s.arrived
	l.answered += s.succeeded + s.mistaken
	bound := max(headroom*float64(s.succeeded)/float64(s.length)*l.usual.mean, float64(l.opt.MinInFlight))
	inFlight := float64(l.inFlight.Load())
	// Twice the standard deviation of the number of arrivals is more than chance.
	if growth := float64(l.came - l.answered); growth > 2*math.Sqrt(float64(l.came)) && inFlight > bound {
		l.queue = 0
		l.ref = reference{inFlight: inFlight, mean: s.mean}
		l.resistant, l.probe, l.rest, l.calm = false, false, 0, 0
		l.setBound(s.now, bound)
		return
	}
	if l.queue >= patience {
		l.queue = 0
		l.learn(s) // slower, but it keeps up
	}
}

// learn has what is usual follow what is seen.
func (l *Limiter) learn(s seen) {
	if s.samples < few {
		return
	}
	u := &l.usual
	u.intervals++
	share := max(1/float64(u.intervals), min(1, float64(s.length)/float64(memory)))
	u.least += share * (s.least - u.least)
	u.mean += share * (s.mean - u.mean)
}

// correct judges what came of the bound.
func (l *Limiter) correct(s seen) {
	least := float64(l.opt.MinInFlight)
	switch {
	case l.probe:
		l.probe, l.rest = false, pause
		if s.mean < probing*l.ref.mean {
			l.adopt(s)
			return
		}
		l.setBound(s.now, least)
	case !l.stands(s):
		l.ref, l.resistant = reference{inFlight: l.limit, mean: s.mean}, false
		l.setBound(s.now, l.limit*increase)
	case l.limit <= cut*l.ref.inFlight:
		resists := s.mean > (1-resistance)*l.ref.mean
		switch {
		case resists && (l.resistant || l.limit <= deep*l.ref.inFlight):
			l.adopt(s)
		case resists:
			l.resistant = true
			l.newEpoch(s.now) // looked at once more
		default:
			l.ref, l.resistant = reference{inFlight: l.limit, mean: s.mean}, false
			l.setBound(s.now, l.limit*decrease)
		}
	case l.limit > least:
		l.setBound(s.now, l.limit*decrease)
	case l.rest > 0:
		l.rest--
		l.newEpoch(s.now)
	default:
		l.ref, l.probe = reference{inFlight: l.limit, mean: s.mean}, true
		l.setBound(s.now, 2*least)
	}
}

// adopt takes the latency for what it is: not for a queue of ours.
func (l *Limiter) adopt(s seen) {
	l.usual = usual{least: s.least, mean: s.mean, intervals: 1}
	l.lift(s.now)
}

func (l *Limiter) setBound(now int64, limit float64) {
	l.limit = max(limit, float64(l.opt.MinInFlight))
	l.bound.Store(int64(math.Ceil(l.limit)))
	l.newEpoch(now)
}

func (l *Limiter) lift(now int64) {
	l.bound.Store(0)
	l.queue = 0
	l.newEpoch(now)
}

// State is what a limiter knows, for metrics.
type State struct {
	// InFlight is the number of calls admitted and not ended.
	InFlight int
	// Bound is the number of calls admitted at once; 0 while there is no overload.
	Bound int
}

// State returns the state of the moment.
func (l *Limiter) State() State {
	return State{InFlight: int(l.inFlight.Load()), Bound: int(l.bound.Load())}
}
