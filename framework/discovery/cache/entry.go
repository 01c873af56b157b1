package cache

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/newsvc/newsvc/framework/discovery"
	"github.com/newsvc/newsvc/framework/internal/backoff"
	"github.com/newsvc/newsvc/framework/internal/loop"
)

// watcher is one caller of Watch. seen is its own goroutine's; wake holds at most one wake-up, so a slow watcher costs
// nobody anything and then reads the newest state.
type watcher struct {
	seen uint64
	wake chan struct{}
}

// entry is one service. Two goroutines serve it: one sits in the source's Watch and folds what it is told, the other
// (loop) keeps the times: it lets held instances go, writes the file, and ends the entry once nobody wants it.
type entry struct {
	cache   *Cache
	service string
	loop    *loop.Loop
	before  *loop.Loop    // of the service's former entry, when that has not ended yet
	nudge   chan struct{} // 1 slot: the times have changed

	// Guarded by Cache.mu.
	watchers  int
	idleSince time.Time

	// mu guards the fields below. Nothing that can wait is called under it.
	mu        sync.Mutex
	all       map[*watcher]struct{}
	guard     guard
	published discovery.Update
	version   uint64 // counts what watchers were told; 0: nothing yet
	began     time.Time
	failing   time.Time // since when published has an error
	changed   time.Time // when its instances last changed
	refreshed time.Time
	unsaved   bool // published has not been written to disk
	savedAt   time.Time
	saveErr   error
}

func newEntry(c *Cache, service string) *entry {
	return &entry{
		cache:   c,
		service: service,
		nudge:   make(chan struct{}, 1),
		all:     map[*watcher]struct{}{},
		began:   time.Now(),
		guard: guard{
			share: c.opt.GuardShare, window: c.opt.GuardWindow, ttl: c.opt.HoldTTL,
			held: map[string]held{},
		},
	}
}

func (e *entry) start() { e.loop = loop.Start(context.Background(), e.run) }

// run is the entry's life.
func (e *entry) run(ctx context.Context) {
	defer e.cache.ended(e)
	if e.before == nil {
		e.restore()
	}
	up := loop.Start(ctx, e.follow)
	defer func() {
		up.Stop()
		e.save(time.Now(), true)
	}()
	if e.before != nil {
		if e.before.Join(ctx) != nil { // its last word to the disk must not come after ours
			return
		}
		e.restore()
	}
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		var due <-chan time.Time
		if at := e.nextTime(); !at.IsZero() {
			timer.Reset(max(time.Until(at), 0))
			due = timer.C
		}
		select {
		case <-due:
		case <-e.nudge:
		case <-ctx.Done():
			return
		}
		now := time.Now()
		e.expire(now)
		e.save(now, false)
		if e.cache.retire(e, now) {
			return
		}
	}
}

// nextTime is when run has work; zero: only when nudged.
func (e *entry) nextTime() time.Time {
	next, _ := e.cache.idleEnd(e)
	e.mu.Lock()
	defer e.mu.Unlock()
	at := []time.Time{e.guard.deadline()}
	if e.unsaved {
		at = append(at, e.savedAt.Add(saveGap))
	}
	for _, t := range at {
		if !t.IsZero() && (next.IsZero() || t.Before(next)) {
			next = t
		}
	}
	return next
}

// follow watches the source. A source returns early only against its contract; then it is asked again for ever.
func (e *entry) follow(ctx context.Context) {
	wait := backoff.New(100*time.Millisecond, 10*time.Second)
	for {
		err := e.cache.src.Watch(ctx, e.service, func(u discovery.Update) {
			wait.Reset()
			e.fold(u)
		})
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			err = errors.New("the source ended the watch without a reason")
		}
		e.fail(err)
		if wait.Wait(ctx) != nil {
			return
		}
	}
}

// restore publishes the last good set on disk until the source has answered.
func (e *entry) restore() {
	if e.cache.opt.Dir == "" {
		return
	}
	u, err := load(e.cache.opt.Dir, e.service)
	if err != nil {
		e.cache.opt.Log.Warn("cannot use the last good set on disk; waiting for the source", zap.String("callee", e.service), zap.Error(err))
		return
	}
	if !u.Known() {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.published.Known() {
		return // the source was faster
	}
	e.guard.fold(time.Now(), u.Instances)
	e.tellLocked(u)
}

// fold takes an update of the source.
func (e *entry) fold(u discovery.Update) {
	if !u.Known() {
		if u.Err != nil {
			e.fail(u.Err)
		}
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.guardedLocked(func() bool { e.guard.fold(time.Now(), u.Instances); return true })
	if e.tellLocked(u) && e.cache.opt.Dir != "" {
		e.unsaved = true
		e.poke()
	}
}

// fail says why the source has no answer; what was published stays.
func (e *entry) fail(err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	u := e.published
	u.Err = err
	e.tellLocked(u)
}

// expire lets go of what was held for too long.
func (e *entry) expire(now time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.guardedLocked(func() bool { return e.guard.expire(now) }) {
		if e.tellLocked(e.published) && e.cache.opt.Dir != "" {
			e.unsaved = true
		}
	}
}

// guardedLocked runs a change of the guard, logs an alarm that begins or ends with it, and nudges run when there is a
// new time to keep. It returns what change returns.
func (e *entry) guardedLocked(change func() bool) bool {
	alarm, kept := e.guard.alarm, len(e.guard.held)
	changed := change()
	if e.guard.alarm != alarm {
		e.logAlarmLocked()
	}
	if len(e.guard.held) != kept {
		e.poke()
	}
	return changed
}

// mostNamed is how many of the held instances a line of the log names.
const mostNamed = 5

// logAlarmLocked says what happened. After the last instance left in order there is nothing to be alarmed about; what
// vanished earlier may have lost only its way to etcd, and is tried because nobody else is left.
func (e *entry) logAlarmLocked() {
	g := &e.guard
	fields := []zap.Field{zap.String("callee", e.service), zap.Int("up", len(g.up)), zap.Int("held", len(g.held))}
	if !g.alarm {
		e.cache.opt.Log.Info("instances that had vanished are no longer held in use", fields...)
		return
	}
	level, text := zap.WarnLevel, "many instances vanished at once without draining"
	switch {
	case g.orderly:
		level, text = zap.InfoLevel, "the last instance left; those that vanished earlier without draining are tried again"
	case len(g.up) == 0:
		text = "no instance is left, and the last vanished without draining"
	}
	e.cache.opt.Log.Log(level, text+"; they stay in use until they return or their time is up",
		append(fields, zap.Strings("vanished", g.vanished(time.Now())), zap.Duration("at_most", g.ttl))...)
}

// tellLocked publishes the guard's set with the update's other fields and wakes the watchers when that is a change. It
// reports whether the set itself changed.
func (e *entry) tellLocked(u discovery.Update) bool {
	if u.Known() {
		u.Instances = e.guard.publish()
	}
	old := e.published
	e.published = u
	if u.Err == nil {
		e.failing = time.Time{}
	} else if old.Err == nil {
		e.failing = time.Now()
	}
	changed := u.Known() != old.Known() || !slices.Equal(u.Instances, old.Instances)
	if changed {
		e.changed = time.Now()
	}
	if e.version > 0 && !changed && sameText(u.Err, old.Err) {
		return false
	}
	e.version++
	for w := range e.all {
		select {
		case w.wake <- struct{}{}:
		default:
		}
	}
	return changed
}

func sameText(a, b error) bool {
	return a == nil && b == nil || a != nil && b != nil && a.Error() == b.Error()
}

// save writes the published set when that is due, or at the end. Only run calls it.
func (e *entry) save(now time.Time, end bool) {
	e.mu.Lock()
	u, before := e.published, e.saveErr
	due := e.unsaved && (end || now.Sub(e.savedAt) >= saveGap)
	if due {
		e.unsaved, e.savedAt = false, now
	}
	e.mu.Unlock()
	if !due {
		return
	}
	err := save(e.cache.opt.Dir, e.service, u)
	if err != nil && before == nil {
		e.cache.opt.Log.Warn("cannot keep the last good set; a start while the source is away will not find it", zap.String("callee", e.service), zap.Error(err))
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.saveErr = err
	e.unsaved = e.unsaved || err != nil // and is tried again
}

// poke makes run look at its times again.
func (e *entry) poke() {
	select {
	case e.nudge <- struct{}{}:
	default:
	}
}

func (e *entry) add(w *watcher) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.all[w] = struct{}{}
}

func (e *entry) remove(w *watcher) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.all, w)
}

// current returns the newest update, and whether the watcher has not seen it.
func (e *entry) current(w *watcher) (discovery.Update, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	fresh := w.seen != e.version
	w.seen = e.version
	return e.published, fresh
}

func (e *entry) update() discovery.Update {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.published
}

func (e *entry) mayRefresh(now time.Time) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if now.Sub(e.refreshed) < refreshGap {
		return false
	}
	e.refreshed = now
	return true
}

func (e *entry) describe(s *ServiceState) {
	e.mu.Lock()
	defer e.mu.Unlock()
	s.Update, s.Guarding, s.Draining, s.Leaving = e.published, e.guard.alarm, len(e.guard.draining), e.guard.draining
	s.Began, s.Changed, s.Failing = e.began, e.changed, e.failing
	for _, h := range e.guard.held {
		s.Held = append(s.Held, Held{Instance: h.instance, Since: h.since, Until: h.since.Add(e.guard.ttl)})
	}
	slices.SortFunc(s.Held, func(a, b Held) int { return strings.Compare(a.Instance.Addr, b.Instance.Addr) })
}
