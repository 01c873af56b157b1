// Package shed decides which calls an overloaded server refuses, so that it goes on answering as many as it can. It
// knows nothing of gRPC. There is one [Limiter] for each method; it needs no goroutine and nothing to start or close.
//
// The algorithm is made of two that are published. Overload is found as CoDel finds a bad queue (Nichols and Jacobson,
// "Controlling Queue Delay", 2012): not by a high latency, which bursts cause too, but by the lowest latency in an interval
// staying above what is usual. What is then admitted is bounded as BBR bounds what is in flight (Cardwell et al.,
// "BBR: Congestion-Based Congestion Control", 2016; for servers in Alibaba Sentinel and go-zero): by twice the rate of
// answers times the latency without a queue, corrected by what comes of it. Until overload is found there is no bound.
//
// Latency can rise for other reasons than a queue here, for example because a database is slow. Two things tell it
// apart: with a queue more calls come than are answered, and with fewer calls in flight the rate of answers stays what it is.
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
	// enough calls make an interval worth a judgement; fewer than few never do.
	enough = 20
	few    = 5
	// persistent is how many intervals in a row a queue must stand to be overload.
	persistent = 2
	// memory is how fast what is usual follows what is.
	memory = 30 * time.Second
	// surplus is by how much arrivals must exceed answers to be more than chance.
	surplus = 1.05
	// headroom is the share of the calls in flight that may wait, as a factor.
	headroom = 2
	// decrease and increase correct the bound after an interval with and without a queue.
	decrease, increase = 0.9, 1.02
	// resistance is the share of the rate of answers that must be left under a lower bound; with less, latency is not for
	// a queue of ours.
	resistance = 0.7
	// forget is what is left of the best rate of answers after each interval.
	forget = 0.99
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
	samples   atomic.Int64 // successes that began in this epoch, with their latencies:
	sum       atomic.Int64
	least     atomic.Int64

	mu    sync.Mutex
	began int64 // of the interval
	usual usual
	queue int     // intervals in a row in which a queue stood; under a bound, those in which that made no sense
	limit float64 // bound, before rounding
	peak  float64 // the best rate of answers under this bound
	calm  int64   // for how long nobody was refused
}

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
	if bound := l.bound.Load(); bound > 0 && n > p.share(bound) {
		l.inFlight.Add(-1)
		l.refused.Add(1)
		return 0, false
	}
	return now, true
}

// Full reports whether a call of this priority would be refused now. It is for those that are not counted: streams.
func (l *Limiter) Full(p Priority) bool {
	bound := l.bound.Load()
	return bound > 0 && l.inFlight.Load() >= p.share(bound)
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

// seen is what happened in an interval.
type seen struct {
	length           float64 // seconds
	arrived, refused int64
	succeeded        int64
	samples          int64
	least, mean      float64
}

// judge ends the interval.
func (l *Limiter) judge(now int64) {
	l.due.Store(now + int64(interval))
	s := seen{
		length:  time.Duration(now - l.began).Seconds(),
		arrived: l.arrived.Swap(0), refused: l.refused.Swap(0), succeeded: l.succeeded.Swap(0), samples: l.samples.Swap(0),
		least: float64(l.least.Swap(math.MaxInt64)),
	}
	l.ended.Store(0)
	length := now - l.began
	l.began = now
	if s.samples > 0 {
		s.mean = float64(l.sum.Swap(0)) / float64(s.samples)
	}
	if l.bound.Load() == 0 {
		l.watch(now, length, s)
		return
	}
	l.correct(now, length, s)
}

// stands reports whether a queue stood all through the interval.
func (l *Limiter) stands(s seen) bool {
	return s.samples >= few && l.usual.intervals > 0 && s.least-l.usual.least > max(float64(l.opt.Target), l.usual.least)
}

// watch judges an interval without a bound.
func (l *Limiter) watch(now, length int64, s seen) {
	if !l.stands(s) {
		l.queue = 0
		l.learn(length, s)
		return
	}
	if float64(s.arrived) <= surplus*float64(s.succeeded) || l.inFlight.Load() < int64(l.opt.MinInFlight) {
		l.queue = 0
		l.learn(length, s) // slower, but it keeps up
		return
	}
	if l.queue++; l.queue < persistent {
		return
	}
	l.queue, l.calm = 0, 0
	rate := float64(s.succeeded) / s.length
	l.peak = rate
	l.setBound(now, headroom*rate*l.usual.mean/float64(time.Second))
}

// learn has what is usual follow what is seen.
func (l *Limiter) learn(length int64, s seen) {
	if s.samples < few {
		return
	}
	u := &l.usual
	u.intervals++
	share := max(1/float64(u.intervals), min(1, float64(length)/float64(memory)))
	u.least += share * (s.least - u.least)
	u.mean += share * (s.mean - u.mean)
}

// correct judges an interval under a bound.
func (l *Limiter) correct(now, length int64, s seen) {
	if s.refused == 0 {
		if l.calm += length; l.calm >= int64(calmAfter) {
			l.lift()
		}
		return
	}
	l.calm = 0
	if s.samples < few {
		return // those that began before the bound are still being answered
	}
	rate := float64(s.succeeded) / s.length
	l.peak = max(l.peak*forget, rate)
	if !l.stands(s) {
		l.queue = 0
		l.setBound(l.epoch.Load(), l.limit*increase)
		return
	}
	if rate >= resistance*l.peak {
		l.queue = 0
	} else if l.queue++; l.queue >= persistent {
		l.usual = usual{least: s.least, mean: s.mean, intervals: 1}
		l.lift()
		return
	}
	l.setBound(now, l.limit*decrease)
}

func (l *Limiter) setBound(epoch int64, limit float64) {
	l.limit = max(limit, float64(l.opt.MinInFlight))
	l.bound.Store(int64(math.Ceil(l.limit)))
	l.epoch.Store(epoch)
}

func (l *Limiter) lift() {
	l.bound.Store(0)
	l.queue, l.calm = 0, 0
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
