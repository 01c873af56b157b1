// Package balancer is the policy by which a connection picks instances, by one of four rules: see [Config]. Whatever the
// rule, static weights, the caller's zone, a slow start and a [Filter] decide who takes part in it and with what share.
//
// It differs in two more things from what gRPC has. An instance that joins takes calls as soon as it is connected. gRPC's
// policies ask its health service first, one more round trip before it is of use, though instances announce themselves
// only when they serve. Those that are there from the beginning, and those that are connected again, are asked first
// here too. And when nobody else is there, an instance that served and says NOT_SERVING now is used until it is gone:
// most probably it drains.
//
// It has no retries and resolves nothing. Importing it registers [Name] with gRPC, which knows policies by name only.
package balancer

import (
	"sync/atomic"

	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/balancer/endpointsharding"
	"google.golang.org/grpc/balancer/pickfirst"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/resolver"
)

// Name is what service configs call the policy. It is one name for all rules, so that another rule is no other policy:
// that would make new connections.
const Name = "newsvc"

func init() { balancer.Register(builder{}) }

type builder struct{}

// Name implements [balancer.Builder].
func (builder) Name() string { return Name }

// Build implements [balancer.Builder].
func (builder) Build(cc balancer.ClientConn, opts balancer.BuildOptions) balancer.Balancer {
	p := &policy{set: newSet()}
	p.top = &reporter{ClientConn: cc, set: p.set}
	leaf := balancer.Get(pickfirst.Name).Build
	p.Balancer = endpointsharding.NewBalancer(p.top, opts, func(cc balancer.ClientConn, opts balancer.BuildOptions) balancer.Balancer {
		g := &gate{ClientConn: cc, fresh: p.begun}
		return &endpoint{Balancer: leaf(g, opts), gate: g, of: p, joined: p.begun}
	}, endpointsharding.Options{})
	return p
}

// policy is one connection's balancer: a pick-first for each endpoint, which keeps its connection, behind a gate.
type policy struct {
	balancer.Balancer
	top *reporter
	set *set

	// gRPC serializes what reads and writes these.
	begun  bool   // there were endpoints before, so that an unknown one has just joined
	filter Filter // of the first state
}

// UpdateClientConnState implements [balancer.Balancer].
func (p *policy) UpdateClientConnState(s balancer.ClientConnState) error {
	p.top.follow(observerOf(s.ResolverState))
	if !p.begun && p.filter == nil {
		p.filter = filterOf(s.ResolverState)
	}
	p.set.configure(s, p.filter)
	err := p.Balancer.UpdateClientConnState(s)
	p.begun = p.begun || len(s.ResolverState.Endpoints) > 0
	return err
}

// Close implements [balancer.Balancer].
func (p *policy) Close() {
	p.set.pick(nil, false)
	p.Balancer.Close()
	p.top.follow(nil)
}

// endpoint is the pick-first of one endpoint, and who is behind it at present. gRPC serializes its methods.
type endpoint struct {
	balancer.Balancer
	gate   *gate
	of     *policy
	joined bool
}

// UpdateClientConnState implements [balancer.Balancer]. What the instance says of itself may change; the connection stays.
func (e *endpoint) UpdateClientConnState(s balancer.ClientConnState) error {
	ep := s.ResolverState.Endpoints[0]
	// Attributes never change: the same ones are what most endpoints have from one state to the next.
	if was := e.gate.instance.Load(); was == nil || ep.Attributes == nil || was.Endpoint().Attributes != ep.Attributes {
		e.become(ep, was)
	}
	s.BalancerConfig = nil // it is ours
	return e.Balancer.UpdateClientConnState(s)
}

// become takes in what is said of the endpoint, by who was there or by another process.
func (e *endpoint) become(ep resolver.Endpoint, was *Instance) {
	f, incarnation := factsOf(ep)
	if was != nil && was.incarnation == incarnation {
		was.facts.Store(f)
		return
	}
	addr := ""
	if len(ep.Addresses) > 0 {
		addr = ep.Addresses[0].Addr
	}
	i := newInstance(addr, f, incarnation, e.joined || was != nil)
	if e.of.filter != nil {
		i.record = e.of.filter.Join(i, e.of.set.changed)
	}
	e.gate.instance.Store(i)
	was.leave()
}

// Close implements [balancer.Balancer].
func (e *endpoint) Close() {
	e.Balancer.Close()
	e.gate.instance.Load().leave()
}

// reporter sits where states go up to gRPC: it puts our picker in the place of each, and lets the connection's observer
// see them.
type reporter struct {
	balancer.ClientConn
	set      *set
	observer atomic.Pointer[Observer]
}

// follow makes o the observer from now on; nil for none. An observer sees the states of who followed it last: while one
// policy takes over from another both are at work.
func (r *reporter) follow(o *Observer) {
	former := r.observer.Swap(o)
	if former != o {
		former.leave(r)
	}
	o.follow(r)
}

// UpdateState implements [balancer.ClientConn].
func (r *reporter) UpdateState(s balancer.State) {
	children := endpointsharding.ChildStatesFromPicker(s.Picker)
	ready, last := takers(s.ConnectivityState, children)
	p := r.set.pick(ready, last)
	if p != nil {
		s = balancer.State{ConnectivityState: connectivity.Ready, Picker: p}
	}
	r.observer.Load().see(r, children, p)
	r.ClientConn.UpdateState(s)
}

// takers returns the instances that take calls. When none does those that are about to stop do, if there are any: when
// all instances leave at once, and etcd can't tell who comes in their place, they are all there is.
func takers(state connectivity.State, children []endpointsharding.ChildState) (ready []member, last bool) {
	if last = state != connectivity.Ready; !last {
		ready = make([]member, 0, len(children))
	}
	for _, c := range children {
		switch p := c.State.Picker.(type) {
		case inner:
			if !last && c.State.ConnectivityState == connectivity.Ready {
				ready = append(ready, member{Instance: p.instance, leaf: p})
			}
		case leaving:
			if last {
				ready = append(ready, member{Instance: p.last.instance, leaf: p.last})
			}
		}
	}
	return ready, last
}
