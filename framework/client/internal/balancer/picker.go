package balancer

import (
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/balancer"
)

// picker picks from a table that may be replaced while gRPC holds the picker: by a filter that changes its mind, and
// while somebody joins slowly.
type picker struct {
	set   *set
	ready []member // who takes calls, whatever the filter says; not changed
	last  bool     // they are the last resort
	table atomic.Pointer[table] // nil until the next pick makes it: of the pickers of a storm of changes few are ever used
}

// table is a choice among members; it does not change.
type table struct {
	members []member
	rule    rule
	count   bool          // calls are counted, and records told
	debuts  []int         // members that joined and have had no call yet
	until   time.Duration // on the set's clock, when shares are another; 0 for never
}

// Pick implements [balancer.Picker].
func (p *picker) Pick(info balancer.PickInfo) (balancer.PickResult, error) {
	t := p.table.Load()
	if t == nil || t.until != 0 && p.set.now() > t.until {
		t = p.set.renew(p)
	}
	m := &t.members[t.next(info)]
	r, err := m.leaf.Pick(info)
	if err == nil && t.count {
		r.Done = p.set.begin(m.Instance, info.FullMethodName)
	}
	return r, err
}

func (t *table) next(info balancer.PickInfo) int {
	for _, n := range t.debuts {
		if i := t.members[n].Instance; !i.called.Load() && i.called.CompareAndSwap(false, true) {
			return n
		}
	}
	return t.rule.choose(info.Ctx)
}

// call is one call whose end is waited for. They are used again, so that the wait allocates nothing.
type call struct {
	set    *set
	of     *Instance
	method string
	began  time.Duration
	done   func(balancer.DoneInfo) // end
}

// calls are those that are free.
type calls struct{ pool sync.Pool }

func (c *calls) get() *call {
	if free, ok := c.pool.Get().(*call); ok {
		return free
	}
	made := &call{}
	made.done = made.end
	return made
}

// end counts the call out. gRPC calls it once for each pick.
func (c *call) end(info balancer.DoneInfo) {
	s, of, method, began := c.set, c.of, c.method, c.began
	c.set, c.of, c.method = nil, nil, ""
	s.calls.pool.Put(c)
	of.inflight.Add(-1)
	s.inflight.Add(-1)
	if of.record != nil && (info.BytesSent || info.Err != nil) {
		of.record.Done(method, s.now()-began, info)
	}
}
