package apptest

import "testing"

// With returns the apps as another test sees them.
func (a *Apps) With(t testing.TB) *Apps {
	a.mu.Lock()
	defer a.mu.Unlock()
	c := &Apps{
		t: t, net: a.net, memory: a.memory, etcd: a.etcd, traces: a.traces, options: a.options, clients: a.clients,
		instances: make(map[string][]*Instance),
	}
	for service, all := range a.instances {
		for _, i := range all {
			j := &Instance{apps: c, service: i.service, addr: i.addr, fx: i.fx, stack: i.stack, log: i.log, spans: i.spans}
			c.instances[service] = append(c.instances[service], j)
		}
	}
	return c
}
