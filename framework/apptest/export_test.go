package apptest

import "testing"

// With returns the apps as another test sees them.
func (a *Apps) With(t testing.TB) *Apps {
	c := *a
	c.t = t
	c.instances = make(map[string][]*Instance)
	for service, all := range a.instances {
		for _, i := range all {
			j := &Instance{apps: &c, service: i.service, addr: i.addr, fx: i.fx, stack: i.stack, log: i.log, spans: i.spans}
			c.instances[service] = append(c.instances[service], j)
		}
	}
	return &c
}
