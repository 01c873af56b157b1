package balancer

import (
	"sync"
	"sync/atomic"

	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/balancer/endpointsharding"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/resolver"
)

// Observer can tell how each endpoint of a connection is doing. It costs calls nothing. The zero value has seen nothing;
// it is safe for concurrent use.
type Observer struct {
	last   atomic.Pointer[sight]
	notify func()

	mu sync.Mutex // guards of, and who changes last
	of *reporter  // whose states are seen
}

// sight is one state that was seen.
type sight struct {
	children []endpointsharding.ChildState
	picker   *picker // nil when nobody takes calls
}

// Notify has f called after each change. It must be called before the observer is used; f must not wait for the
// connection.
func (o *Observer) Notify(f func()) { o.notify = f }

// EndpointState is how one endpoint is doing.
type EndpointState struct {
	Endpoint resolver.Endpoint
	// State is READY for an endpoint that takes calls. One whose health service says that it does not serve counts as
	// TRANSIENT_FAILURE.
	State connectivity.State
	// Err is why State is TRANSIENT_FAILURE.
	Err error
	// LastResort is set while it takes calls in spite of that, since no endpoint is READY.
	LastResort bool
	// Out is why the filter keeps calls from a READY endpoint; nil when it does not.
	Out error
	// Share is the part of the calls that it is to have, 0 to 1.
	Share float64
}

type observerKey struct{}

// With returns the resolver's state with the observer attached, for the policy to find.
func (o *Observer) With(s resolver.State) resolver.State {
	s.Attributes = s.Attributes.WithValue(observerKey{}, o)
	return s
}

func observerOf(s resolver.State) *Observer {
	o, _ := s.Attributes.Value(observerKey{}).(*Observer)
	return o
}

func (o *Observer) follow(r *reporter) {
	if o != nil {
		o.mu.Lock()
		defer o.mu.Unlock()
		o.of = r
	}
}

func (o *Observer) see(r *reporter, children []endpointsharding.ChildState, p *picker) {
	if o != nil {
		o.store(r, r, &sight{children, p})
	}
}

// leave forgets what was seen; another policy, which tells nothing, goes on.
func (o *Observer) leave(r *reporter) {
	if o != nil {
		o.store(r, nil, nil)
	}
}

// store notes what is seen of r, and who is seen next, unless somebody else is seen by now.
func (o *Observer) store(r, next *reporter, s *sight) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.of != r {
		return
	}
	o.of = next
	o.last.Store(s)
	if o.notify != nil {
		o.notify()
	}
}

// Endpoints returns the endpoints as of the last change; none before the first.
func (o *Observer) Endpoints() []EndpointState {
	s := o.last.Load()
	if s == nil {
		return nil
	}
	ready, _ := o.Ready()
	shares := s.picker.shares()
	out := make([]EndpointState, len(s.children))
	for i, c := range s.children {
		out[i] = EndpointState{Endpoint: c.Endpoint, State: c.State.ConnectivityState}
		if p, ok := c.State.Picker.(inner); ok && p.instance != nil {
			out[i].Share = shares[p.instance]
			if p.instance.record != nil {
				out[i].Out = p.instance.record.Out()
			}
		}
		if c.State.ConnectivityState == connectivity.TransientFailure {
			_, out[i].Err = c.State.Picker.Pick(balancer.PickInfo{}) // such a picker does nothing but return its error
			if l, ok := c.State.Picker.(leaving); ok && ready == 0 {
				out[i].LastResort, out[i].Share = true, shares[l.last.instance]
			}
		}
	}
	return out
}

// Ready counts the endpoints that take calls; false when nothing was seen.
func (o *Observer) Ready() (n int, seen bool) {
	s := o.last.Load()
	if s == nil {
		return 0, false
	}
	for _, c := range s.children {
		if c.State.ConnectivityState == connectivity.Ready {
			n++
		}
	}
	return n, true
}
