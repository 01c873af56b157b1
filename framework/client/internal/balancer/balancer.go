// Package balancer is the policy by which a connection picks instances: each ready one in turn. It differs from gRPC's
// round_robin in two things. An instance that joins takes calls as soon as it is connected. round_robin asks its health
// service first, one more round trip before it is of use, though instances announce themselves only when they serve.
// Those that are there from the beginning, and those that are connected again, are asked first here too. And when nobody
// else is there, an instance that served and says NOT_SERVING now is used until it is gone: most probably it drains.
//
// It has no retries and resolves nothing. Importing it registers [Name] with gRPC, which knows policies by name only.
package balancer

import (
	"sync/atomic"

	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/balancer/endpointsharding"
	"google.golang.org/grpc/balancer/pickfirst"
	"google.golang.org/grpc/connectivity"
)

// Name is what service configs call the policy.
const Name = "newsvc_round_robin"

func init() { balancer.Register(builder{}) }

type builder struct{}

// Name implements [balancer.Builder].
func (builder) Name() string { return Name }

// Build implements [balancer.Builder].
func (builder) Build(cc balancer.ClientConn, opts balancer.BuildOptions) balancer.Balancer {
	b := &roundRobin{top: &reporter{ClientConn: cc}}
	leaf := balancer.Get(pickfirst.Name).Build
	b.Balancer = endpointsharding.NewBalancer(b.top, opts, func(cc balancer.ClientConn, opts balancer.BuildOptions) balancer.Balancer {
		return leaf(&gate{ClientConn: cc, fresh: b.begun}, opts)
	}, endpointsharding.Options{})
	return b
}

// roundRobin is one connection's balancer: a pick-first for each endpoint, which keeps its connection, behind a gate.
type roundRobin struct {
	balancer.Balancer
	top   *reporter
	begun bool // there were endpoints before, so that an unknown one has just joined; gRPC serializes what reads and writes it
}

// UpdateClientConnState implements [balancer.Balancer].
func (b *roundRobin) UpdateClientConnState(s balancer.ClientConnState) error {
	b.top.follow(observerOf(s.ResolverState))
	err := b.Balancer.UpdateClientConnState(s)
	b.begun = b.begun || len(s.ResolverState.Endpoints) > 0
	return err
}

// Close implements [balancer.Balancer].
func (b *roundRobin) Close() {
	b.Balancer.Close()
	b.top.follow(nil)
}

// reporter lets the connection's observer see each state that goes up to gRPC.
type reporter struct {
	balancer.ClientConn
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
	r.observer.Load().see(r, s.Picker)
	if s.ConnectivityState != connectivity.Ready {
		s = lastResort(s)
	}
	r.ClientConn.UpdateState(s)
}

// lastResort is the state when no instance takes calls: those that are about to stop take them, if there are any. When
// all instances leave at once, and etcd can't tell who comes in their place, they are all there is.
func lastResort(s balancer.State) balancer.State {
	var p pickers
	for _, c := range endpointsharding.ChildStatesFromPicker(s.Picker) {
		if l, ok := c.State.Picker.(leaving); ok {
			p.all = append(p.all, l.last)
		}
	}
	if len(p.all) == 0 {
		return s
	}
	return balancer.State{ConnectivityState: connectivity.Ready, Picker: &p}
}

// pickers takes each of its pickers in turn.
type pickers struct {
	all  []balancer.Picker
	next atomic.Uint32
}

// Pick implements [balancer.Picker].
func (p *pickers) Pick(info balancer.PickInfo) (balancer.PickResult, error) {
	return p.all[p.next.Add(1)%uint32(len(p.all))].Pick(info)
}
