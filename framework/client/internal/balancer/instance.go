package balancer

import (
	"sync/atomic"
	"time"

	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/experimental/balancer/weight"
	"google.golang.org/grpc/resolver"

	"github.com/newsvc/newsvc/framework/grpcresolver"
)

// Instance is one process that calls may take, from the moment it is known until it is gone. It stays the same through
// reconnects and through changes of its weight, zone and metadata; a new process on an old address is another one. Its
// methods are safe for concurrent use and do not wait.
type Instance struct {
	addr        string
	incarnation string
	hash        uint64 // of addr
	record      Record // nil without a filter

	facts    atomic.Pointer[facts]
	conn     atomic.Pointer[balancer.SubConn] // the ready one; nil for none
	joined   atomic.Bool                      // others were known before it
	inflight atomic.Int64                     // of the calls that are counted
	since    atomic.Int64                     // when it first took calls, on the policy's clock; 0 for not yet
	over     atomic.Int64                     // the least time that its slow start takes
	called   atomic.Bool                      // its first call has been picked; kept for those that joined only
}

// facts are what an instance says of itself and may say differently later.
type facts struct {
	endpoint resolver.Endpoint
	weight   uint32
	zone     string
}

// standardWeight is that of an instance that does not say: whoever sets one weight says how much more or less that
// instance can take than the usual, in percent.
const standardWeight = 100

func factsOf(e resolver.Endpoint) (f *facts, incarnation string) {
	f = &facts{endpoint: e, weight: weight.FromEndpoint(e).Weight}
	if i, ok := grpcresolver.InstanceOf(e); ok {
		f.zone, incarnation = i.Zone, i.Incarnation
	}
	if f.weight == 0 {
		f.weight = standardWeight
	}
	return f, incarnation
}

func newInstance(addr string, f *facts, incarnation string, joined bool) *Instance {
	i := &Instance{addr: addr, incarnation: incarnation, hash: hash(addr)}
	i.joined.Store(joined)
	i.facts.Store(f)
	return i
}

// Addr is its first host:port, for people.
func (i *Instance) Addr() string { return i.addr }

// Zone is where it runs; empty when it does not say.
func (i *Instance) Zone() string { return i.facts.Load().zone }

// Weight is its share of the calls relative to others; 100 when it does not say.
func (i *Instance) Weight() uint32 { return i.facts.Load().weight }

// Endpoint is what the resolver says of it.
func (i *Instance) Endpoint() resolver.Endpoint { return i.facts.Load().endpoint }

// InFlight is how many calls run on it, of those that were picked while calls were counted.
func (i *Instance) InFlight() int64 { return i.inflight.Load() }

// Warm begins its slow start anew, as for one that has just joined: for a filter that lets it in again. It lasts as long
// as the policy says or over, whichever is longer, and holds from the next table on.
func (i *Instance) Warm(over time.Duration) {
	i.joined.Store(true)
	i.over.Store(int64(over))
	i.since.Store(0)
}

// Conn is its connection while that is READY, for a [balancer.Producer] that wants to ask something of the instance
// itself; nil while there is none.
func (i *Instance) Conn() balancer.SubConn {
	if p := i.conn.Load(); p != nil {
		return *p
	}
	return nil
}

// leave ends what there is of the instance; nothing for none.
func (i *Instance) leave() {
	if i == nil {
		return
	}
	i.conn.Store(nil)
	if i.record != nil {
		i.record.Leave()
	}
}

// Filter narrows the instances that calls may take, and is told how the calls ended. It belongs to one connection to a
// callee, which may have two policies for a moment while one takes over from the other. See [WithFilter].
type Filter interface {
	// Active reports whether calls are to be reported. While it is false calls cost what they do without a filter.
	Active() bool
	// Join is called once for each instance, before it takes calls, and returns who is told of it. changed, which waits
	// for next to nothing, is to be called after each change of what Active or Eligible would say; never while a lock is
	// held that Active, Join, Eligible or a method of Record takes.
	Join(i *Instance, changed func()) Record
	// Eligible returns those of the instances that calls may take. ready holds each one that is connected and serves, in no
	// order; it must not be changed and may be returned. When none is returned calls may take all. It is called after
	// each change of the set, not for each call, and may run for two policies at a time.
	Eligible(ready []*Instance) []*Instance
	// Trial returns an instance that is to have this call, though it is none of the eligible ones perhaps; nil mostly. It
	// is asked for each pick while the filter is active, and is in vain when the instance is not connected.
	Trial(method string) *Instance
}

// Record is what a filter keeps of one instance.
type Record interface {
	// Begin is told of a call that is picked, and Done that it has ended, or a part of it: gRPC's own retries are several.
	// Both are called by the goroutine of the call and must neither wait nor allocate each time: slot is the record's own,
	// is handed to both, and keeps what is put there from one call to another, of other instances too, so that it serves
	// again. trial tells a call that Trial asked for. A call that was picked and not sent after all has an info that is
	// zero.
	Begin(method string, trial bool, slot *any)
	Done(method string, took time.Duration, info balancer.DoneInfo, slot *any)
	// Out is why the filter keeps calls from the instance, for people; nil while it does not.
	Out() error
	// Leave is told once that the instance, or the policy, is gone. It must not wait. Calls that still run are told of
	// even then.
	Leave()
}

type filterKey struct{}

// WithFilter returns the resolver's state with the filter attached, for the policy to find. A policy takes the filter of
// its first state and ignores others.
func WithFilter(s resolver.State, f Filter) resolver.State {
	s.Attributes = s.Attributes.WithValue(filterKey{}, f)
	return s
}

func filterOf(s resolver.State) Filter {
	f, _ := s.Attributes.Value(filterKey{}).(Filter)
	return f
}
