// Package readiness folds named checks and conditions into one answer: may this process be sent calls now? A [Gate]
// polls the checks, takes pushed conditions, remembers that the process is draining, and tells whoever subscribed of
// every change. It is not liveness: a process that is not ready is healthy and must not be restarted for it.
//
// A Gate does nothing before [Gate.Start] and is never ready before it.
package readiness

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/newsvc/newsvc/framework/internal/loop"
)

// Defaults of [New].
const (
	DefaultInterval = 5 * time.Second
	DefaultTimeout  = 2 * time.Second
)

var (
	errNotChecked = errors.New("not checked yet")
	errUnmet      = errors.New("not met yet")
)

// Check tells whether one thing that calls depend on is usable; nil means yes. It is called from a goroutine of the
// gate, never twice at the same time, and must return soon after its context ends.
type Check func(ctx context.Context) error

// Status is the state of one check or condition.
type Status struct {
	Name string `json:"name"`
	OK   bool   `json:"ok"`
	// Error says why it is not OK; empty when it is.
	Error string `json:"error,omitempty"`
	// Since is when OK changed last, or when the check was added.
	Since time.Time `json:"since"`
}

// Report is the answer of a gate at one moment. It shares nothing with the gate.
type Report struct {
	// Ready is true when the gate was started, is not draining, and every check and condition is OK.
	Ready bool `json:"ready"`
	// Draining is true from [Gate.Drain] on.
	Draining bool `json:"draining"`
	// Checks are the checks and conditions in the order they were added.
	Checks []Status `json:"checks"`
}

// Reasons lists what keeps the report from being ready, one text each; nil when it is ready.
func (r Report) Reasons() []string {
	if r.Ready {
		return nil
	}
	var reasons []string
	if r.Draining {
		reasons = append(reasons, "draining")
	}
	for _, s := range r.Checks {
		if !s.OK {
			reasons = append(reasons, s.Name+": "+s.Error)
		}
	}
	if reasons == nil {
		reasons = []string{"not started"}
	}
	return reasons
}

// Option changes a [Gate].
type Option interface{ apply(*Gate) }

type optionFunc func(*Gate)

func (f optionFunc) apply(g *Gate) { f(g) }

// Interval sets the time from the end of one round of checks to the next. Default 5 s. Less finds trouble sooner and
// costs the checked dependencies more.
func Interval(d time.Duration) Option { return optionFunc(func(g *Gate) { g.interval = d }) }

// Timeout bounds each run of a check. Default 2 s.
func Timeout(d time.Duration) Option { return optionFunc(func(g *Gate) { g.timeout = d }) }

// Log has the gate log when it becomes ready and when it ceases to be. Default: it logs nothing.
func Log(log *zap.Logger) Option { return optionFunc(func(g *Gate) { g.log = log }) }

// Gate is the one place that knows whether the process is ready. All methods may be called from any goroutine.
type Gate struct {
	interval time.Duration
	timeout  time.Duration
	log      *zap.Logger
	kick     chan struct{} // one slot: a check was added, run a round now

	mu       sync.Mutex
	entries  []*entry
	subs     []*subscriber
	loops    *loop.Group // nil until Start
	closed   bool
	draining bool
	version  uint64        // counts changes
	changed  chan struct{} // closed and replaced at each change
	logged   bool          // the readiness that was logged last
}

// entry is one check or condition; its state is guarded by Gate.mu.
type entry struct {
	name  string
	check Check // nil: a condition
	err   error
	since time.Time
}

type subscriber struct {
	fn   func(Report)
	seen uint64 // version delivered last; 0: none yet
}

// New returns a gate without checks. Nothing runs before [Gate.Start].
func New(opts ...Option) *Gate {
	g := &Gate{
		interval: DefaultInterval, timeout: DefaultTimeout, log: zap.NewNop(),
		kick: make(chan struct{}, 1), version: 1, changed: make(chan struct{}),
	}
	for _, o := range opts {
		o.apply(g)
	}
	return g
}

// Add adds a polled check. It counts as failed until its first run, which begins at once when the gate is started.
// Names are for people; two checks of one name are kept apart.
func (g *Gate) Add(name string, check Check) {
	g.add(&entry{name: name, check: check, err: errNotChecked, since: time.Now()})
	select {
	case g.kick <- struct{}{}:
	default:
	}
}

// Condition adds a pushed condition, unmet until [Condition.Set] is called with nil.
func (g *Gate) Condition(name string) *Condition {
	e := &entry{name: name, err: errUnmet, since: time.Now()}
	g.add(e)
	return &Condition{gate: g, entry: e}
}

// Condition is one thing that somebody else watches and reports.
type Condition struct {
	gate  *Gate
	entry *entry
}

// Set says that the condition is met (nil) or why it is not. It never blocks.
func (c *Condition) Set(err error) { c.gate.set(c.entry, err) }

func (g *Gate) add(e *entry) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.entries = append(g.entries, e)
	g.changedLocked()
}

func (g *Gate) set(e *entry, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if (e.err == nil) != (err == nil) {
		e.since = time.Now()
	} else if err == nil || e.err.Error() == err.Error() {
		return
	}
	e.err = err
	g.changedLocked()
}

// Drain makes the gate not ready for good. It may be called at any time, more than once, and never blocks.
func (g *Gate) Drain() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.draining {
		g.draining = true
		g.changedLocked()
	}
}

// changedLocked wakes everybody who waits for a change, and logs when readiness itself changed.
func (g *Gate) changedLocked() {
	g.version++
	close(g.changed)
	g.changed = make(chan struct{})
	r := g.reportLocked()
	if r.Ready == g.logged {
		return
	}
	g.logged = r.Ready
	if r.Ready {
		g.log.Info("ready")
		return
	}
	g.log.Warn("no longer ready", zap.Strings("reasons", r.Reasons()))
}

// Report returns the answer of this moment.
func (g *Gate) Report() Report {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.reportLocked()
}

func (g *Gate) reportLocked() Report {
	r := Report{Ready: g.loops != nil && !g.draining, Draining: g.draining, Checks: make([]Status, 0, len(g.entries))}
	for _, e := range g.entries {
		s := Status{Name: e.name, OK: e.err == nil, Since: e.since}
		if e.err != nil {
			s.Error = e.err.Error()
			r.Ready = false
		}
		r.Checks = append(r.Checks, s)
	}
	return r
}

// Wait returns nil once the gate is ready. When ctx ends first, the error lists what was missing; when the gate
// drains, it never will be ready and Wait says so at once.
func (g *Gate) Wait(ctx context.Context) error {
	for {
		g.mu.Lock()
		r, changed := g.reportLocked(), g.changed
		g.mu.Unlock()
		if r.Ready {
			return nil
		}
		if r.Draining {
			return errors.New("waiting for readiness: the process is draining")
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("waiting for readiness: %w; missing: %s", context.Cause(ctx), strings.Join(r.Reasons(), "; "))
		}
	}
}

// Subscribe has fn called with the present report and then after each change. All calls to all subscribers come from
// one goroutine, in order; states that follow each other faster than that are skipped, the last one never is. Fn must
// not block. Calls begin with [Gate.Start] and end with [Gate.Close]. Cancel ends them, but does not wait for a call
// under way.
func (g *Gate) Subscribe(fn func(Report)) (cancel func()) {
	s := &subscriber{fn: fn}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.subs = append(g.subs, s)
	close(g.changed)
	g.changed = make(chan struct{})
	return func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.subs = slices.DeleteFunc(g.subs, func(o *subscriber) bool { return o == s })
	}
}
