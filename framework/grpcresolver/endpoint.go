package grpcresolver

import (
	"math"

	"google.golang.org/grpc/attributes"
	"google.golang.org/grpc/experimental/balancer/weight"
	"google.golang.org/grpc/resolver"

	"github.com/newsvc/newsvc/framework/discovery"
)

// incarnationKey is the key in an address's attributes, which are part of what tells connections apart: a new process on
// an old address gets a new connection, without the old one's backoff. Nothing that may change while a process lives
// belongs there.
type incarnationKey struct{}

// String and that of the value are what gRPC's log lines show of an address.
func (incarnationKey) String() string { return "incarnation" }

type incarnation string

func (i incarnation) String() string { return string(i) }

// Equal makes gRPC's comparison one of values.
func (i incarnation) Equal(o any) bool {
	other, ok := o.(incarnation)
	return ok && i == other
}

// instanceKey is the key in an endpoint's attributes, which balancers read and which reconnect nothing when they change.
type instanceKey struct{}

type instanceValue struct{ *discovery.Instance }

// Equal makes gRPC's comparison one of what the instances say.
func (v instanceValue) Equal(o any) bool {
	other, ok := o.(instanceValue)
	return ok && same(v.Instance, other.Instance)
}

// InstanceOf returns the instance behind an endpoint, for balancers that want its zone, weight or metadata. It must not
// be changed. It reports false for endpoints that other resolvers made.
func InstanceOf(e resolver.Endpoint) (*discovery.Instance, bool) {
	v, ok := e.Attributes.Value(instanceKey{}).(instanceValue)
	return v.Instance, ok
}

// addressOf and attributesOf are what is made of one instance.
func addressOf(i *discovery.Instance) resolver.Address {
	a := resolver.Address{Addr: i.Addr}
	if i.Incarnation != "" {
		a.Attributes = attributes.New(incarnationKey{}, incarnation(i.Incarnation))
	}
	return a
}

func attributesOf(i *discovery.Instance) *attributes.Attributes {
	e := resolver.Endpoint{Attributes: attributes.New(instanceKey{}, instanceValue{i})}
	if i.Weight > 0 {
		e = weight.Set(e, weight.EndpointInfo{Weight: uint32(min(int64(i.Weight), math.MaxUint32))})
	}
	return e.Attributes
}

// told is a set of instances as gRPC is told of it. Both forms of a state are filled, since some balancers still read
// only addresses.
type told struct {
	instances []*discovery.Instance // sorted by address
	addresses []resolver.Address
	endpoints []resolver.Endpoint
}

// tell makes a set of instances, taking over what has not changed since before, run by run: with ten thousand of them
// the copying is all that one change costs. The slices are new ones, because gRPC keeps what it was given.
func tell(instances []*discovery.Instance, before told) told {
	next := told{
		instances: instances,
		addresses: make([]resolver.Address, len(instances)),
		endpoints: make([]resolver.Endpoint, len(instances)),
	}
	old := before.instances
	for n, b := 0, 0; n < len(instances); {
		for b < len(old) && old[b] != instances[n] && old[b].Addr < instances[n].Addr {
			b++
		}
		run := 0
		for b+run < len(old) && n+run < len(instances) && old[b+run] == instances[n+run] {
			run++
		}
		if run == 0 {
			next.make(n)
			n++
			continue
		}
		copy(next.addresses[n:], before.addresses[b:b+run])
		copy(next.endpoints[n:], before.endpoints[b:b+run])
		n, b = n+run, b+run
	}
	return next
}

// make fills in what is made of one instance.
func (t told) make(n int) {
	i := t.instances[n]
	t.addresses[n] = addressOf(i)
	t.endpoints[n] = resolver.Endpoint{Addresses: []resolver.Address{t.addresses[n]}, Attributes: attributesOf(i)}
}

func (t told) state() resolver.State {
	return resolver.State{Endpoints: t.endpoints, Addresses: t.addresses}
}
