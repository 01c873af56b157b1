package discovery

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Static is a source that never changes, for local work and tests. It is safe for concurrent use.
type Static struct {
	services map[string][]*Instance
	asOf     time.Time
}

var _ Source = (*Static)(nil)

// NewStatic returns a source of the given instances. It copies them; an instance without a state is up. The error names
// the first one whose service or address is wrong, or that names an address of its service a second time.
func NewStatic(instances ...*Instance) (*Static, error) {
	s := &Static{services: make(map[string][]*Instance), asOf: time.Now()}
	for _, i := range instances {
		if err := CheckService(i.Service); err != nil {
			return nil, err
		}
		if err := CheckAddr(i.Addr); err != nil {
			return nil, fmt.Errorf("instance of %q: %w", i.Service, err)
		}
		c := i.Clone()
		if c.State == "" {
			c.State = StateUp
		}
		list := s.services[c.Service]
		at, found := slices.BinarySearchFunc(list, c, ByAddr)
		if found {
			return nil, fmt.Errorf("instance %s of %q is listed twice; remove one", c.Addr, c.Service)
		}
		s.services[c.Service] = slices.Insert(list, at, c)
	}
	return s, nil
}

// Watch yields the instances once and then waits for ctx to end.
func (s *Static) Watch(ctx context.Context, service string, yield func(Update)) error {
	if err := CheckService(service); err != nil {
		return err
	}
	list := s.services[service]
	if list == nil {
		list = []*Instance{}
	}
	yield(Update{Instances: list, Revision: 1, AsOf: s.asOf})
	<-ctx.Done()
	return context.Cause(ctx)
}

// ByAddr orders instances by address, for the sort and search functions of package slices.
func ByAddr(a, b *Instance) int { return strings.Compare(a.Addr, b.Addr) }
