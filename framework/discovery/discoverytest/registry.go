// Package discoverytest is service discovery for tests: a [Registry] that keeps everything in memory and can be broken on
// purpose, and the conformance suites [TestSource] and [TestRegistrar] that every implementation of the discovery
// interfaces passes. It is no mock: the Registry behaves like a real one that is always near, and a test that passes
// with it needs no etcd. Nothing has to be started or closed; a Registry lives as long as it is referred to.
package discoverytest

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/newsvc/newsvc/framework/discovery"
)

var (
	_ discovery.Source    = (*Registry)(nil)
	_ discovery.Registrar = (*Registry)(nil)
)

// Registry is an in-memory [discovery.Source] and [discovery.Registrar]. All methods are safe for concurrent use, and
// every change is seen by all watches that were open before it. Time is only read, so it works within testing/synctest.
type Registry struct {
	mu       sync.Mutex
	services map[string]*service
	regs     []*registration // the open ones, oldest first
	revision int64
	err      error
}

// service is what a Registry knows of one name. It is guarded by Registry.mu.
type service struct {
	instances []*discovery.Instance // sorted by Addr; replaced at each change, never altered
	revision  int64
	owners    map[string][]*registration // by address; the last one owns the entry, those before it yield
	changed   chan struct{}              // closed and replaced at each change
	watches   int
	leaves    []leave // the last ones
}

// leave is the state of a service in which an instance was marked as draining. Watches that are behind are told of it before
// they are told that the instance is gone, as the events of a real registry do: without it its leave would look like a loss.
type leave struct {
	instances []*discovery.Instance
	revision  int64
}

// keptLeaves is how many of them are kept for watches that are behind.
const keptLeaves = 64

// NewRegistry returns an empty registry.
func NewRegistry() *Registry { return &Registry{services: map[string]*service{}} }

// Watch implements [discovery.Source].
func (r *Registry) Watch(ctx context.Context, name string, yield func(discovery.Update)) error {
	if err := discovery.CheckService(name); err != nil {
		return err
	}
	r.countWatch(name, 1)
	defer r.countWatch(name, -1)
	var last discovery.Update
	for first := true; ; first = false {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		next, changed := r.read(name, last)
		if first || next.Revision != last.Revision || next.Known() != last.Known() || text(next.Err) != text(last.Err) {
			yield(next)
			last = next
		}
		select {
		case <-changed:
		case <-ctx.Done():
		}
	}
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// read returns the present state of a service for a watch that was last told the given one, and a channel that is
// closed at the next change. While the registry is broken the watch keeps what it had.
func (r *Registry) read(name string, last discovery.Update) (discovery.Update, <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.serviceLocked(name)
	if r.err != nil {
		last.Err = r.err
		return last, s.changed
	}
	if last.Known() {
		for _, l := range s.leaves {
			if l.revision > last.Revision && l.revision < s.revision {
				more := make(chan struct{})
				close(more)
				return discovery.Update{Instances: l.instances, Revision: l.revision, AsOf: time.Now()}, more
			}
		}
	}
	return discovery.Update{Instances: s.instances, Revision: s.revision, AsOf: time.Now()}, s.changed
}

// Put writes instances as a foreign process would: they stay until Drop, and belong to no Registration. An instance
// without State is up. The registry keeps copies.
func (r *Registry) Put(instances ...*discovery.Instance) {
	r.mu.Lock()
	defer r.mu.Unlock()
	touched := map[*service]bool{}
	for _, i := range instances {
		i = normal(i)
		s := r.serviceLocked(i.Service)
		if !touched[s] { // one copy of the list per call, however many instances are put
			touched[s] = true
			s.instances = slices.Clone(s.instances)
		}
		s.insert(i)
	}
	for s := range touched {
		r.bumpLocked(s)
	}
}

// Drop removes an instance without a draining mark, as the death of its process does once its lease has run out: its
// registration is lost and does not come back. It reports whether there was such an instance.
func (r *Registry) Drop(name, addr string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.dropLocked(name, addr)
}

// DropAll drops every instance of the service at one moment, as the deletion of its prefix does, and returns how many there were.
func (r *Registry) DropAll(name string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.serviceLocked(name)
	n := len(s.instances)
	for _, i := range s.instances {
		r.loseLocked(s, i.Addr)
	}
	s.instances = []*discovery.Instance{}
	r.bumpLocked(s)
	return n
}

func (r *Registry) dropLocked(name, addr string) bool {
	s := r.serviceLocked(name)
	found := s.remove(addr)
	if found {
		r.loseLocked(s, addr)
		r.bumpLocked(s)
	}
	return found
}

// loseLocked ends every registration of an address.
func (r *Registry) loseLocked(s *service, addr string) {
	for _, reg := range s.owners[addr] {
		reg.setLocked(discovery.RegistrationLost, nil)
		reg.dead = true
	}
	delete(s.owners, addr)
}

// Lose removes an instance behind its registration's back, as an operator's delete does: the registration is lost and
// is announced anew at once. It reports whether there was such an instance.
func (r *Registry) Lose(name, addr string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.serviceLocked(name)
	if !s.remove(addr) {
		return false
	}
	r.bumpLocked(s)
	if regs := s.owners[addr]; len(regs) > 0 {
		owner := regs[len(regs)-1]
		owner.setLocked(discovery.RegistrationLost, nil)
		if r.err == nil {
			r.announceLocked(owner)
		}
	}
	return true
}

// SetErr breaks the registry, or heals it when err is nil. While it is broken, watches keep their last set and are told
// err, new watches know nothing, and registrations are pending or suspect.
func (r *Registry) SetErr(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.err = err
	for _, reg := range r.regs {
		switch {
		case reg.dead:
		case err == nil && reg.status.State != discovery.RegistrationConflict:
			r.announceLocked(reg)
		case err != nil && reg.status.State == discovery.RegistrationUp:
			reg.setLocked(discovery.RegistrationSuspect, err)
		case err != nil && reg.status.State != discovery.RegistrationConflict:
			reg.setLocked(reg.status.State, err)
		}
	}
	for _, s := range r.services {
		s.wake()
	}
}

// Instances returns what is stored for the service at present, broken or not, sorted by Addr. It must not be changed.
func (r *Registry) Instances(name string) []*discovery.Instance {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.serviceLocked(name).instances
}

// Revision counts the changes of all services since the registry was made.
func (r *Registry) Revision() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.revision
}

// Watches returns how many watches of the service are open at present.
func (r *Registry) Watches(name string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.serviceLocked(name).watches
}

func (r *Registry) countWatch(name string, by int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.serviceLocked(name).watches += by
}

func (r *Registry) serviceLocked(name string) *service {
	s := r.services[name]
	if s == nil {
		s = &service{
			instances: []*discovery.Instance{},
			owners:    map[string][]*registration{},
			changed:   make(chan struct{}),
		}
		r.services[name] = s
	}
	return s
}

// bumpLocked makes a change of the service visible.
func (r *Registry) bumpLocked(s *service) {
	r.revision++
	s.revision = r.revision
	if slices.ContainsFunc(s.instances, func(i *discovery.Instance) bool { return i.State == discovery.StateDraining }) {
		s.leaves = append(s.leaves, leave{s.instances, s.revision})
		s.leaves = s.leaves[max(0, len(s.leaves)-keptLeaves):]
	}
	s.wake()
}

func (s *service) wake() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// insert writes into the present list, which the caller has just copied.
func (s *service) insert(i *discovery.Instance) {
	at, found := s.find(i.Addr)
	if found {
		s.instances[at] = i
		return
	}
	s.instances = slices.Insert(s.instances, at, i)
}

// remove replaces the list by one without the address.
func (s *service) remove(addr string) bool {
	at, found := s.find(addr)
	if found {
		s.instances = slices.Delete(slices.Clone(s.instances), at, at+1)
	}
	return found
}

func (s *service) find(addr string) (int, bool) {
	return slices.BinarySearchFunc(s.instances, addr, func(i *discovery.Instance, addr string) int {
		return strings.Compare(i.Addr, addr)
	})
}

// normal returns a copy with the defaults of a real registry filled in.
func normal(i *discovery.Instance) *discovery.Instance {
	c := i.Clone()
	if c.State == "" {
		c.State = discovery.StateUp
	}
	return c
}
