package discoverytest

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/newsvc/newsvc/framework/discovery"
)

// registration is one announced instance. Its fields are guarded by the registry's lock.
type registration struct {
	registry *Registry
	desired  *discovery.Instance
	dirty    bool // desired is not what is stored
	dead     bool // dropped for good: the process behind it is thought to be gone
	status   discovery.RegistrationStatus
	changed  chan struct{}
}

// Register implements [discovery.Registrar]. Unless the registry is broken the instance is announced when it returns.
func (r *Registry) Register(ctx context.Context, instance discovery.Instance) (discovery.Registration, error) {
	if err := discovery.CheckService(instance.Service); err != nil {
		return nil, err
	}
	if err := discovery.CheckAddr(instance.Addr); err != nil {
		return nil, err
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	reg := &registration{registry: r, desired: normal(&instance), dirty: true, changed: make(chan struct{})}
	r.mu.Lock()
	defer r.mu.Unlock()
	reg.status = discovery.RegistrationStatus{State: discovery.RegistrationPending, Err: r.err, Since: time.Now()}
	r.regs = append(r.regs, reg)
	if r.err == nil {
		r.announceLocked(reg)
	}
	return reg, nil
}

// announceLocked stores what the registration wants to be stored. One that announces its address for the first time
// takes it over from whoever had it.
func (r *Registry) announceLocked(reg *registration) {
	addr := reg.desired.Addr
	s := r.serviceLocked(reg.desired.Service)
	owners := s.owners[addr]
	if !slices.Contains(owners, reg) {
		if n := len(owners); n > 0 {
			owners[n-1].setLocked(discovery.RegistrationConflict,
				fmt.Errorf("address %q was announced by incarnation %q after us; it is theirs until they leave", addr, reg.desired.Incarnation))
		}
		s.owners[addr] = append(owners, reg)
	}
	_, stored := s.find(addr)
	if again := !stored || reg.status.State != discovery.RegistrationSuspect; again {
		reg.status.Count++
		reg.dirty = true
	}
	if reg.dirty {
		r.storeLocked(s, reg)
	}
	reg.setLocked(discovery.RegistrationUp, nil)
}

func (r *Registry) storeLocked(s *service, reg *registration) {
	s.instances = slices.Clone(s.instances)
	s.insert(reg.desired)
	reg.dirty = false
	r.bumpLocked(s)
}

// Update implements [discovery.Registration].
func (g *registration) Update(ctx context.Context, change func(*discovery.Instance)) error {
	if !g.apply(change) {
		return discovery.ErrClosed
	}
	for {
		done, changed := g.settled()
		if done {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (g *registration) apply(change func(*discovery.Instance)) bool {
	g.registry.mu.Lock()
	defer g.registry.mu.Unlock()
	if g.status.State == discovery.RegistrationClosed {
		return false
	}
	next := g.desired.Clone()
	change(next)
	next.Service, next.Addr, next.Incarnation = g.desired.Service, g.desired.Addr, g.desired.Incarnation
	g.desired, g.dirty = normal(next), true
	if g.status.State == discovery.RegistrationUp {
		g.registry.storeLocked(g.registry.serviceLocked(next.Service), g)
	}
	return true
}

func (g *registration) settled() (bool, <-chan struct{}) {
	g.registry.mu.Lock()
	defer g.registry.mu.Unlock()
	return !g.dirty || g.status.State == discovery.RegistrationClosed, g.changed
}

// Status implements [discovery.Registration].
func (g *registration) Status() discovery.RegistrationStatus {
	g.registry.mu.Lock()
	defer g.registry.mu.Unlock()
	return g.status
}

// Changed implements [discovery.Registration].
func (g *registration) Changed() <-chan struct{} {
	g.registry.mu.Lock()
	defer g.registry.mu.Unlock()
	return g.changed
}

// Close implements [discovery.Registration]. In a broken registry the entry goes as if its lease ran out, and the error says so.
func (g *registration) Close(context.Context) error {
	r := g.registry
	r.mu.Lock()
	defer r.mu.Unlock()
	if g.status.State == discovery.RegistrationClosed {
		return nil
	}
	g.setLocked(discovery.RegistrationClosed, nil)
	r.regs = slices.DeleteFunc(r.regs, func(o *registration) bool { return o == g })
	s := r.serviceLocked(g.desired.Service)
	addr := g.desired.Addr
	if owners := s.owners[addr]; slices.Contains(owners, g) {
		owned := owners[len(owners)-1] == g
		owners = slices.DeleteFunc(owners, func(o *registration) bool { return o == g })
		s.owners[addr] = owners
		if owned {
			s.remove(addr)
			r.bumpLocked(s)
			r.succeedLocked(owners)
		}
	}
	if r.err != nil {
		return fmt.Errorf("could not confirm that %q of service %q is withdrawn; it ends with its lease: %w", addr, g.desired.Service, r.err)
	}
	return nil
}

// succeedLocked gives an address that has become free to the one that yielded last.
func (r *Registry) succeedLocked(owners []*registration) {
	if len(owners) == 0 {
		return
	}
	next := owners[len(owners)-1]
	if r.err != nil {
		next.setLocked(discovery.RegistrationLost, r.err)
		return
	}
	r.announceLocked(next)
}

// setLocked enters a state and tells those who wait for it.
func (g *registration) setLocked(state discovery.RegistrationState, err error) {
	if g.status.State == state && text(g.status.Err) == text(err) {
		return
	}
	if g.status.State != state {
		g.status.Since = time.Now()
	}
	g.status.State, g.status.Err = state, err
	close(g.changed)
	g.changed = make(chan struct{})
}
