package balancer

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/balancer"
)

// picker picks from a table that may be replaced while gRPC holds the picker: by a filter that changes its mind, and
// while somebody joins slowly.
type picker struct {
	set   *set
	ready []member              // who takes calls, whatever the filter says; not changed
	last  bool                  // they are the last resort
	table atomic.Pointer[table] // nil until the next pick makes it: of the pickers of a storm of changes few are ever used
}

// table is a choice among members; it does not change.
type table struct {
	members []member
	rule    rule
	count   bool          // calls are counted, and records told
	sum     bool          // they are counted together, too
	filter  Filter        // that is asked for each call; nil for none
	debuts  []int         // members that joined and have had no call yet
	until   time.Duration // on the set's clock, when shares are another; 0 for never
}

// Pick implements [balancer.Picker].
func (p *picker) Pick(info balancer.PickInfo) (balancer.PickResult, error) {
	t := p.present()
	had, unknown := triedBy(info.Ctx), context.Context(nil)
	if had == nil {
		if had = p.set.failed.of(info.Ctx); had == nil {
			unknown = info.Ctx
		}
	}
	m, trial := t.trial(p, info.FullMethodName)
	if m == nil {
		m = &t.members[t.next(info.Ctx, had)]
	}
	had.add(m.Instance)
	r, err := m.leaf.Pick(info)
	if err == nil && t.count {
		r.Done = p.set.begin(unknown, t, m.Instance, info.FullMethodName, trial)
	}
	return r, err
}

// present is the table as of now.
func (p *picker) present() *table {
	t := p.table.Load()
	if t == nil || t.until != 0 && p.set.now() > t.until {
		return p.set.renew(p)
	}
	return t
}

// shares tells the part of the calls that each instance is to have, 0 to 1, of those that have any.
func (p *picker) shares() map[*Instance]float64 {
	if p == nil {
		return nil
	}
	members := p.present().members
	sum := 0.0
	for _, m := range members {
		sum += m.share
	}
	parts := make(map[*Instance]float64, len(members))
	for _, m := range members {
		parts[m.Instance] = m.share / sum
	}
	return parts
}

// trial is who the filter wants to have this call; nil mostly.
func (t *table) trial(p *picker, method string) (m *member, trial bool) {
	if t.filter == nil {
		return nil, false
	}
	i := t.filter.Trial(method)
	if i == nil {
		return nil, false
	}
	for n := range p.ready {
		if p.ready[n].Instance == i {
			return &p.ready[n], true
		}
	}
	return nil, false
}

func (t *table) next(ctx context.Context, had *tried) int {
	for _, n := range t.debuts {
		if i := t.members[n].Instance; !i.called.Load() && i.called.CompareAndSwap(false, true) {
			return n
		}
	}
	n := t.rule.choose(ctx, had)
	for range t.members { // once mostly
		if !had.has(t.members[n].Instance) {
			break
		}
		n = (n + 1) % len(t.members)
	}
	return n
}

// call is one call whose end is waited for. They are used again, so that the wait allocates nothing.
type call struct {
	set             *set
	of              *Instance
	ctx             context.Context // of a call that may fail for the first time; nil when it is remembered where it was
	method          string
	began           time.Duration
	summed, watched bool                    // counted in the sum, told to the record
	slot            any                     // the record's, kept
	done            func(balancer.DoneInfo) // end
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
	s, of := c.set, c.of
	of.inflight.Add(-1)
	if c.summed {
		s.inflight.Add(-1)
	}
	if c.watched {
		of.record.Done(c.method, s.now()-c.began, info, &c.slot)
	}
	if c.ctx != nil && info.Err != nil {
		s.failed.note(c.ctx, of, info)
	}
	c.set, c.of, c.ctx, c.method = nil, nil, nil, ""
	s.calls.pool.Put(c)
}
