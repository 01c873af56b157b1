// Package cache is a discovery source over another one, made for a process in which many connections ask for the same
// few services: one watch of the source per service however many watchers there are, kept for a while after the last of
// them has left; a guard that tells instances that leave from a registry that lost them; the last good set on disk when a
// directory is given; and a snapshot that never waits. It does not balance and does not choose a subset.
//
// [New] starts nothing. The first Watch of a service starts its background work; Close ends all of it.
package cache

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/newsvc/newsvc/framework/discovery"
)

var _ discovery.Source = (*Cache)(nil)

// refreshGap is the least time between two hints of one service that are passed on to the source.
const refreshGap = 5 * time.Second

// Options are the cache's settings. The zero value is ready for use.
type Options struct {
	// Linger is how long the watch of a service goes on after its last watcher has left, so that a connection that
	// was idle for a while finds a fresh set at once. 0 means 5 minutes; negative means not at all.
	Linger time.Duration
	// GuardShare is which share of a service has to vanish within GuardWindow, without having drained, for the guard
	// to keep publishing it. 0 means 0.5. Smaller keeps more dead addresses, larger loses more living ones.
	GuardShare float64
	// GuardWindow is the time in which they have to vanish, counted from the first one. 0 means 1 minute.
	GuardWindow time.Duration
	// HoldTTL bounds how long a vanished instance is kept. 0 means 5 minutes; negative switches the guard off.
	HoldTTL time.Duration
	// Dir is where the last good set of each service is kept, one file each; it is made when missing. With it, a process
	// that starts while the source is away still finds its callees. Empty means that nothing is kept.
	Dir string
	// Log gets one line for each alarm of the guard and each trouble with Dir. Nil means no log.
	Log *zap.Logger
}

func (o Options) withDefaults() Options {
	if o.Linger == 0 {
		o.Linger = 5 * time.Minute
	}
	if o.GuardShare == 0 {
		o.GuardShare = 0.5
	}
	if o.GuardWindow == 0 {
		o.GuardWindow = time.Minute
	}
	if o.HoldTTL == 0 {
		o.HoldTTL = 5 * time.Minute
	}
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	return o
}

// Refresher is a source that can be asked to look again. Refresh must not block; it is a hint and may be ignored.
type Refresher interface {
	Refresh(service string)
}

// Cache shares one watch of a source among all watchers of a service. Its methods are safe for concurrent use.
type Cache struct {
	src  discovery.Source
	opt  Options
	done chan struct{} // closed by Close

	// mu guards the fields below and each entry's watchers count. It is taken before entry.mu, and never held while
	// yielding, joining or calling the source.
	mu      sync.Mutex
	closed  bool
	entries map[string]*entry   // those that serve watchers
	running map[*entry]struct{} // those whose goroutines have not ended, also after they left entries
}

// New returns a cache over the source.
func New(src discovery.Source, opt Options) *Cache {
	return &Cache{
		src:     src,
		opt:     opt.withDefaults(),
		done:    make(chan struct{}),
		entries: map[string]*entry{},
		running: map[*entry]struct{}{},
	}
}

// Watch implements [discovery.Source]. What it yields is what should be used: without instances that drain while others
// are up, and with those that the guard holds. After Close it returns [discovery.ErrClosed].
func (c *Cache) Watch(ctx context.Context, service string, yield func(discovery.Update)) error {
	if err := discovery.CheckService(service); err != nil {
		return err
	}
	w := &watcher{wake: make(chan struct{}, 1)}
	e := c.attach(service, w)
	if e == nil {
		return discovery.ErrClosed
	}
	defer c.detach(e, w)
	for {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if u, fresh := e.current(w); fresh {
			yield(u)
		}
		select {
		case <-w.wake:
		case <-ctx.Done():
		case <-c.done:
			return discovery.ErrClosed
		}
	}
}

// attach adds a watcher to the service's entry and starts it when there is none. It returns nil after Close.
func (c *Cache) attach(service string, w *watcher) *entry {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil
	}
	e := c.entries[service]
	if e == nil {
		e = newEntry(c, service)
		for former := range c.running {
			if former.service == service {
				e.before = former.loop // at most one: the next one waits for it
			}
		}
		c.entries[service] = e
		c.running[e] = struct{}{}
		e.start()
	}
	e.watchers++
	e.add(w)
	return e
}

func (c *Cache) detach(e *entry, w *watcher) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e.remove(w)
	e.watchers--
	if e.watchers == 0 {
		e.idleSince = time.Now()
		e.poke()
	}
}

// idleEnd returns when the entry's time is up; false while it has watchers.
func (c *Cache) idleEnd(e *entry) (time.Time, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e.watchers > 0 || e.idleSince.IsZero() {
		return time.Time{}, false
	}
	return e.idleSince.Add(max(c.opt.Linger, 0)), true
}

// retire takes the entry out of service when its time is up, and reports whether it did.
func (c *Cache) retire(e *entry, now time.Time) bool {
	end, idle := c.idleEnd(e)
	if !idle || now.Before(end) {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if e.watchers > 0 { // one came back in between
		return false
	}
	delete(c.entries, e.service)
	return true
}

// ended forgets an entry whose goroutines are about to end.
func (c *Cache) ended(e *entry) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.running, e)
}

func (c *Cache) entry(service string) *entry {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.entries[service]
}

// Snapshot returns the set of a service that is being watched, or was a short while ago. It never waits and starts
// nothing; false means that nothing is known.
func (c *Cache) Snapshot(service string) (discovery.Update, bool) {
	e := c.entry(service)
	if e == nil {
		return discovery.Update{}, false
	}
	u := e.update()
	return u, u.Known()
}

// Refresh hints that the service's set may be out of date. It never waits; the hint goes to the source when that is a
// [Refresher], at most once in 5 seconds for each service.
func (c *Cache) Refresh(service string) {
	r, ok := c.src.(Refresher)
	if !ok {
		return
	}
	if e := c.entry(service); e != nil && e.mayRefresh(time.Now()) {
		r.Refresh(service)
	}
}

// Close ends all background work and waits for it. Watches that are still open return [discovery.ErrClosed]. It is safe
// to call more than once.
func (c *Cache) Close() {
	c.mu.Lock()
	if !c.closed {
		c.closed = true
		close(c.done)
	}
	running := make([]*entry, 0, len(c.running))
	for e := range c.running {
		running = append(running, e)
	}
	c.mu.Unlock()
	for _, e := range running {
		e.loop.Cancel()
	}
	for _, e := range running {
		e.loop.Stop()
	}
}

// ServiceState is what the cache knows of one service, for people.
type ServiceState struct {
	// Service is its name.
	Service string
	// Update is what watchers have been told. When Err is nil the source is being followed and AsOf is the time of the
	// last change it told of; otherwise AsOf is when the set was last known to be right.
	Update discovery.Update
	// Held are instances that vanished without having drained, sorted by address. They are part of Update only when
	// Guarding, or when nothing else is left.
	Held []Held
	// Guarding is set while so many have vanished at once that the held ones stay published.
	Guarding bool
	// Draining is how many instances are about to leave, Leaving which. They are part of Update only when nothing is up.
	Draining int
	Leaving  []*discovery.Instance
	// Began is when watching the service began, Changed when the instances of Update last changed, and Failing since when
	// Update.Err is set; zero while it is not.
	Began, Changed, Failing time.Time
	// Watchers is how many watches share the service's one watch of the source. 0 means that it lingers.
	Watchers int
}

// Held is one instance that vanished.
type Held struct {
	Instance *discovery.Instance
	// Since is when it vanished, Until when it is given up.
	Since, Until time.Time
}

// Lookup returns the state of one service; false when it is not being watched. It never waits and starts nothing.
func (c *Cache) Lookup(service string) (ServiceState, bool) {
	c.mu.Lock()
	e := c.entries[service]
	if e == nil {
		c.mu.Unlock()
		return ServiceState{Service: service}, false
	}
	s := ServiceState{Service: service, Watchers: e.watchers}
	c.mu.Unlock()
	e.describe(&s)
	return s, true
}

// State returns all services that are being watched, sorted by name.
func (c *Cache) State() []ServiceState {
	c.mu.Lock()
	out := make([]ServiceState, 0, len(c.entries))
	entries := make([]*entry, 0, len(c.entries))
	for _, e := range c.entries {
		entries = append(entries, e)
		out = append(out, ServiceState{Service: e.service, Watchers: e.watchers})
	}
	c.mu.Unlock()
	for n, e := range entries {
		e.describe(&out[n])
	}
	slices.SortFunc(out, func(a, b ServiceState) int { return strings.Compare(a.Service, b.Service) })
	return out
}
