package client

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/newsvc/newsvc/framework/internal/confined"
)

// BreakerPolicy holds calls back in this process: when most calls to the callee fail anyway, whichever instance they go
// to, and when too many run already. Single instances are the business of [EjectionPolicy].
//
// It is the client-side throttling of Google's "Site Reliability Engineering", chapter "Handling Overload": of the calls
// of the last Window, as many are let through as Ratio times those that succeeded; the rest is refused at once, at
// random, with UNAVAILABLE. There is no open and closed state: with the share of successful calls grows the share of
// those that are let through, and one call a second is let through in any case, to find that out.
type BreakerPolicy struct {
	// Enabled switches the breaker on. Default: false. It spares a callee that is overloaded and callers that would wait
	// for their timeout; but while it acts it refuses calls that would have succeeded, and of a callee that comes back it
	// learns a moment later.
	Enabled bool `config:"enabled" reload:"live"`
	// Ratio is how many calls are let through for each that succeeds, 1 or more. Default: 2: nothing is refused until half of
	// the calls fail. Lower refuses sooner.
	Ratio float64 `config:"ratio" reload:"live"`
	// Window is how far back calls count. Default: 10s. Longer is calmer, and slower to see that the callee is back.
	Window time.Duration `config:"window" reload:"live"`
	// MinCalls is how many calls above what Ratio allows are let through in any case, so that a few failed calls of a
	// callee that is seldom called refuse none. Default: 20.
	MinCalls int `config:"min_calls" reload:"live"`
	// MaxInFlight is how many calls and streams may run at a time, from this process; what is more is refused with
	// UNAVAILABLE. It keeps a callee that hangs from taking up all memory of its callers. Default: 0, no bound.
	MaxInFlight int `config:"max_in_flight" reload:"live"`
}

func defaultBreaker() BreakerPolicy {
	return BreakerPolicy{Ratio: 2, Window: 10 * time.Second, MinCalls: 20}
}

func (b BreakerPolicy) validate() error {
	var errs []error
	if b.Enabled {
		switch {
		case !(b.Ratio >= 1):
			errs = append(errs, fmt.Errorf("ratio: %v would refuse calls to a callee that is well; write 1 or more, for example 2", b.Ratio))
		case b.Window < 10*time.Millisecond:
			errs = append(errs, fmt.Errorf("window: %q is too short; write for example 10s", b.Window))
		case b.MinCalls < 1:
			errs = append(errs, fmt.Errorf("min_calls: %d would refuse after a single failure; write 1 or more, for example 20", b.MinCalls))
		}
	}
	return errors.Join(append(errs, atLeast("max_in_flight", b.MaxInFlight, 0))...)
}

// active returns the policy when it has anything to say, else nil.
func (b BreakerPolicy) active() *BreakerPolicy {
	if b.Enabled || b.MaxInFlight > 0 {
		return &b
	}
	return nil
}

const (
	breakerParts = 10          // of the window; the oldest is dropped as a whole
	breakerProbe = time.Second // between calls that are let through in any case
)

// breaker counts what becomes of the calls to one callee. The zero value is ready for use.
type breaker struct {
	inFlight atomic.Int64

	mu     sync.Mutex // guards what follows
	parts  [breakerParts]breakerPart
	window time.Duration
	began  time.Time // of parts[0], which is the present one
	passed time.Time // the last call that was let through by chance or for a look
}

// breakerPart counts calls: all that were asked for, those of them that failed and those that were refused here.
type breakerPart struct{ asked, failed, refused int64 }

// sumLocked moves the window on to now and adds it up.
func (b *breaker) sumLocked(p *BreakerPolicy, now time.Time) (s breakerPart) {
	length := p.Window / breakerParts
	if past := now.Sub(b.began); p.Window != b.window || past >= p.Window {
		b.window, b.parts, b.began = p.Window, [breakerParts]breakerPart{}, now
	} else if n := int(past / length); n > 0 {
		copy(b.parts[n:], b.parts[:])
		clear(b.parts[:n])
		b.began = b.began.Add(time.Duration(n) * length)
	}
	for _, part := range b.parts {
		s.asked += part.asked
		s.failed += part.failed
		s.refused += part.refused
	}
	return s
}

// ask reports whether a call may pass, and what the window holds. Calls that still run are taken to succeed.
func (b *breaker) ask(p *BreakerPolicy, now time.Time) (s breakerPart, pass bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s = b.sumLocked(p, now)
	b.parts[0].asked++
	succeeded := s.asked - s.failed - s.refused
	excess := float64(s.asked) - float64(p.MinCalls) - p.Ratio*float64(succeeded)
	if excess <= 0 {
		return s, true
	}
	if now.Sub(b.passed) >= breakerProbe || rand.Float64() >= excess/float64(s.asked+1) {
		b.passed = now
		return s, true
	}
	b.parts[0].refused++
	return s, false
}

// holds says why calls are held back at present; empty when none is.
func (b *breaker) holds(p *BreakerPolicy, now time.Time) string {
	if n := b.inFlight.Load(); p.MaxInFlight > 0 && n >= int64(p.MaxInFlight) {
		return fmt.Sprintf("full: %d calls run, which is the most there may be (breaker.max_in_flight)", n)
	}
	if !p.Enabled {
		return ""
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.sumLocked(p, now)
	if float64(s.asked) <= float64(p.MinCalls)+p.Ratio*float64(s.asked-s.failed-s.refused) {
		return ""
	}
	return fmt.Sprintf("open: %d of %d calls failed in the last %v, and %d were refused for that (breaker.enabled)", s.failed, s.asked-s.refused, p.Window, s.refused)
}

func (b *breaker) fail(p *BreakerPolicy, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.sumLocked(p, now)
	b.parts[0].failed++
}

// enter lets a call in, which is to leave then, or says why not.
func (c *Conn) enter(p *BreakerPolicy) error {
	if n := c.breaker.inFlight.Add(1); p.MaxInFlight > 0 && n > int64(p.MaxInFlight) {
		c.breaker.inFlight.Add(-1)
		return c.heldBack(fmt.Sprintf("%d calls run already, which is the most there may be (%s; raise it there or call less at a time)",
			p.MaxInFlight, c.origin("breaker.max_in_flight")))
	}
	if !p.Enabled {
		return nil
	}
	if s, pass := c.breaker.ask(p, time.Now()); !pass {
		c.breaker.inFlight.Add(-1)
		return c.heldBack(fmt.Sprintf("the breaker of clients.%s let it not pass, since %d of %d calls failed in the last %v and %d were refused for that (%s)",
			c.callee, s.failed, s.asked-s.refused, p.Window, s.refused, c.origin("breaker.enabled")))
	}
	return nil
}

// heldBack is the error of a call that was refused in this process. What it says of settings stays here.
func (c *Conn) heldBack(why string) error {
	return confined.New(codes.Unavailable, fmt.Sprintf("too many calls to %q at present", c.callee), fmt.Sprintf("calling %q: %s", c.callee, why))
}

// judge counts how a call ended: only codes that speak of a callee in trouble count.
func (c *Conn) judge(p *BreakerPolicy, err error) {
	if code := status.Code(err); p.Enabled && (code == codes.Unavailable || code == codes.DeadlineExceeded) {
		c.breaker.fail(p, time.Now())
	}
}

// invokeWithin is [Conn.invoke] within the bounds of the breaker.
func (c *Conn) invokeWithin(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, opts ...grpc.CallOption) error {
	p := c.live.Load().breaker
	if p == nil {
		return c.invoke(ctx, method, req, reply, cc, opts...)
	}
	if err := c.enter(p); err != nil {
		return err
	}
	defer c.breaker.inFlight.Add(-1)
	err := c.invoke(ctx, method, req, reply, cc, opts...)
	c.judge(p, err)
	return err
}

// openWithin is [Conn.open] within the bounds of the breaker. A stream that was opened has succeeded, as far as that goes,
// and is in flight until it ends.
func (c *Conn) openWithin(ctx context.Context, desc *grpc.StreamDesc, _ *grpc.ClientConn, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	p := c.live.Load().breaker
	if p == nil {
		return c.open(ctx, desc, method, nil, opts)
	}
	if err := c.enter(p); err != nil {
		return nil, err
	}
	place := &place{inFlight: &c.breaker.inFlight}
	place.users.Store(1) // until this returns
	defer place.leave()
	s, err := c.open(ctx, desc, method, place, opts)
	c.judge(p, err)
	return s, err
}

// place is the place in flight of one stream, which has it while one of its attempts runs. A nil place is none.
type place struct {
	inFlight *atomic.Int64
	users    atomic.Int32
}

func (p *place) enter() {
	if p != nil && p.users.Add(1) == 1 {
		p.inFlight.Add(1)
	}
}

func (p *place) leave() {
	if p != nil && p.users.Add(-1) == 0 {
		p.inFlight.Add(-1)
	}
}
