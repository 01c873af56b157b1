package etcd

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/newsvc/newsvc/framework/discovery"
	"github.com/newsvc/newsvc/framework/internal/backoff"
	"github.com/newsvc/newsvc/framework/internal/loop"
)

// registration is one announced instance. One goroutine, run, speaks to etcd; everybody else changes what is wanted and
// reads the status, under mu, which is never held across a call.
type registration struct {
	r    *Registrar
	id   owned
	key  string
	log  *zap.Logger
	loop *loop.Loop
	wake chan struct{} // what is wanted has changed

	before    *registration // the one of the same identity whose Close was cut off; nil: none
	announced bool          // run's: the key was ours once, so that whoever holds it now came later

	closing   chan struct{} // closed when Close is called for the first time
	closeOnce sync.Once
	closeTurn chan struct{} // holds one element: Close calls take turns

	updating sync.Mutex // Update calls take turns

	mu        sync.Mutex
	want      *discovery.Instance
	value     []byte        // want, encoded
	version   int           // counts the changes of want
	stored    int           // the version that is in etcd
	settled   chan struct{} // closed when stored changes, and replaced
	lastErr   error         // why the last attempt failed; nil after a success
	lease     clientv3.LeaseID
	leaseEnds time.Time                     // when it ends without another renewal
	leases    map[clientv3.LeaseID]struct{} // every lease that may exist because of us
	status    discovery.RegistrationStatus
	changed   chan struct{}
}

func newRegistration(r *Registrar, id owned, inst *discovery.Instance, value []byte) *registration {
	g := &registration{
		r: r, id: id, key: discovery.Key(r.opt.Prefix, inst.Service, inst.Addr),
		wake: make(chan struct{}, 1), closing: make(chan struct{}), closeTurn: make(chan struct{}, 1),
		want: inst, value: value, version: 1, leases: make(map[clientv3.LeaseID]struct{}),
		status:  discovery.RegistrationStatus{State: discovery.RegistrationPending, Since: time.Now()},
		changed: make(chan struct{}), settled: make(chan struct{}),
	}
	g.log = r.opt.Log.With(zap.String("key", g.key), zap.String("incarnation", inst.Incarnation))
	return g
}

// run gets a lease and holds it, again and again, until ctx ends.
func (g *registration) run(ctx context.Context) {
	if g.before != nil {
		if g.before.loop.Join(ctx) != nil {
			return
		}
		g.before = nil
	}
	bo := backoff.New(min(100*time.Millisecond, g.r.opt.Timing.RetryMax), g.r.opt.Timing.RetryMax)
	id := newLeaseID()
	for ctx.Err() == nil {
		ttl, err := g.grant(ctx, id)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			g.failed(explain(g.r.cli, fmt.Sprintf("announcing %s as %q", g.id.addr, g.id.service), err))
			pause(ctx, g.r.cli, bo, g.r.opt.Timing.Patience, err)
			continue // with the same id: perhaps it was granted and only the answer got lost
		}
		bo.Reset()
		newHold(g, id, ttl).run(ctx)
		id = newLeaseID()
		_ = backoff.Sleep(ctx, backoff.UpTo(min(time.Second, g.r.opt.TTL/10))) // many may have lost theirs at this moment
	}
}

// wanted returns what is to be stored.
func (g *registration) wanted() (value []byte, version int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.value, g.version
}

// up notes that a version is in etcd; anew says that the key was not there before.
func (g *registration) up(version int, anew bool) {
	if !g.announced {
		g.announced = true
		g.r.remember(g.id)
	}
	g.mu.Lock()
	g.lastErr = nil
	if g.stored != version {
		g.stored = version
		close(g.settled)
		g.settled = make(chan struct{})
	}
	if anew {
		g.status.Count++
	}
	count := g.status.Count
	changed := g.setLocked(discovery.RegistrationUp, nil)
	if anew && !changed { // it was gone before anybody could tell, but the count has changed
		g.tellLocked()
	}
	g.mu.Unlock()
	if changed || anew {
		g.log.Info("registered", zap.Int("count", count))
	}
}

// failed notes why an attempt failed; the state stays.
func (g *registration) failed(err error) {
	g.mu.Lock()
	state := g.status.State
	g.mu.Unlock()
	g.set(state, err)
}

// set changes state and reason, tells waiters, and logs when it is a transition.
func (g *registration) set(state discovery.RegistrationState, err error) {
	g.mu.Lock()
	before := g.status
	g.lastErr = err
	if state == discovery.RegistrationUp {
		err = nil // the reason for not being up, and it is
	}
	news := g.setLocked(state, err)
	g.mu.Unlock()
	if !news || (before.State == state && before.Err != nil && err != nil) {
		return
	}
	level := zap.WarnLevel
	if err == nil {
		level = zap.InfoLevel
	}
	g.log.Log(level, "registration is "+string(state), zap.Error(err))
}

func (g *registration) setLocked(state discovery.RegistrationState, err error) bool {
	if g.status.State == state && sameText(g.status.Err, err) {
		return false
	}
	if g.status.State != state {
		g.status.Since = time.Now()
	}
	g.status.State, g.status.Err = state, err
	g.tellLocked()
	return true
}

func (g *registration) tellLocked() {
	close(g.changed)
	g.changed = make(chan struct{})
}

func sameText(a, b error) bool {
	if a == nil || b == nil {
		return a == nil && b == nil
	}
	return a.Error() == b.Error()
}

// Status implements [discovery.Registration].
func (g *registration) Status() discovery.RegistrationStatus {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.status
}

// Changed implements [discovery.Registration].
func (g *registration) Changed() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.changed
}

func (g *registration) info() RegistrationInfo {
	g.mu.Lock()
	defer g.mu.Unlock()
	return RegistrationInfo{
		Service: g.id.service, Addr: g.id.addr, Incarnation: g.id.incarnation,
		Key: g.key, Lease: int64(g.lease), LeaseEnds: g.leaseEnds, Status: g.status,
	}
}

func (g *registration) isClosing() bool {
	select {
	case <-g.closing:
		return true
	default:
		return false
	}
}

// Update implements [discovery.Registration].
func (g *registration) Update(ctx context.Context, change func(*discovery.Instance)) error {
	version, err := g.change(change)
	if err != nil {
		return err
	}
	for {
		g.mu.Lock()
		stored, settled, lastErr := g.stored >= version, g.settled, g.lastErr
		g.mu.Unlock()
		if stored {
			return nil
		}
		select {
		case <-settled:
		case <-g.closing:
			return fmt.Errorf("updating %s of %q: %w", g.id.addr, g.id.service, discovery.ErrClosed)
		case <-ctx.Done():
			return fmt.Errorf("updating %s of %q, which goes on in the background: %w", g.id.addr, g.id.service,
				errors.Join(context.Cause(ctx), lastErr))
		}
	}
}

func (g *registration) change(change func(*discovery.Instance)) (version int, err error) {
	g.updating.Lock()
	defer g.updating.Unlock()
	if g.isClosing() {
		return 0, fmt.Errorf("updating %s of %q: %w", g.id.addr, g.id.service, discovery.ErrClosed)
	}
	g.mu.Lock()
	next := g.want.Clone()
	g.mu.Unlock()
	change(next) // outside of mu: it may call us
	next.Service, next.Addr, next.Incarnation = g.id.service, g.id.addr, g.id.incarnation
	value, err := check(next)
	if err != nil {
		return 0, fmt.Errorf("updating %s of %q: %w", g.id.addr, g.id.service, err)
	}
	g.mu.Lock()
	g.want, g.value = next, value
	g.version++
	version = g.version
	g.mu.Unlock()
	signal(g.wake)
	return version, nil
}

// Close implements [discovery.Registration]. It ends the goroutine, waits for it, and then revokes every lease that may
// exist because of this registration. The key goes with its lease, and only with its own: the key of a process that
// took the address over hangs on another one. It gives up with ctx, and at the latest when the lease has run out by
// itself.
func (g *registration) Close(ctx context.Context) error {
	g.closeOnce.Do(func() { close(g.closing) })
	g.loop.Cancel()
	select {
	case g.closeTurn <- struct{}{}:
		defer func() { <-g.closeTurn }()
	case <-ctx.Done():
		return fmt.Errorf("withdrawing %s of %q: %w", g.id.addr, g.id.service, context.Cause(ctx))
	}
	if err := g.loop.Join(ctx); err != nil {
		return fmt.Errorf("withdrawing %s of %q: waiting for its last call to etcd: %w", g.id.addr, g.id.service, err)
	}
	g.r.forget(g)
	ctx, cancel := context.WithTimeout(ctx, g.r.opt.TTL)
	defer cancel()
	g.mu.Lock()
	leases := slices.Collect(maps.Keys(g.leases))
	g.mu.Unlock()
	var err error
	for _, id := range leases {
		err = errors.Join(err, g.revoke(ctx, id))
	}
	if err != nil {
		err = fmt.Errorf("%w; nobody renews the lease any more, so it ends within %v", err, g.r.opt.TTL)
	}
	g.set(discovery.RegistrationClosed, err)
	return err
}
