package discoverytest

import (
	"slices"

	"github.com/newsvc/newsvc/framework/discovery"
)

// Orphan leaves an instance without its process, as kill -9 does before the lease runs out: the entry stays until [Registry.Drop],
// whatever its registration is told from now on. It reports whether there was such an instance.
func (r *Registry) Orphan(name, addr string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.serviceLocked(name)
	if _, stored := s.find(addr); !stored {
		return false
	}
	for _, reg := range s.owners[addr] {
		reg.dead = true
		r.regs = slices.DeleteFunc(r.regs, func(o *registration) bool { return o == reg })
		reg.setLocked(discovery.RegistrationClosed, nil)
	}
	delete(s.owners, addr)
	return true
}

// Return undoes [Registry.Drop] for an instance whose process lives: its registration announces it anew. It reports whether
// there was one to return.
func (r *Registry) Return(name, addr string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, reg := range slices.Backward(r.regs) { // the newest
		if reg.dead && reg.desired.Service == name && reg.desired.Addr == addr {
			reg.dead = false
			if r.err == nil {
				r.announceLocked(reg)
			}
			return true
		}
	}
	return false
}
