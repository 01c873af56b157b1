package balancer

import (
	"fmt"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/balancer/base"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/resolver"
)

// gate stands between the pick-first of one endpoint and the rest, and lets through that a connection is ready when the
// health service at its other end says so. The first connection to an endpoint that has just been announced passes at
// once, until the health service says otherwise.
//
// mu is taken while the leaf's lock is held, and the parent's lock while mu is: the order in which states travel up.
type gate struct {
	balancer.ClientConn
	instance atomic.Pointer[Instance] // who is behind it

	mu    sync.Mutex
	fresh bool             // the first connection passes
	leaf  balancer.State   // what the leaf said last
	conn  balancer.SubConn // the ready one, whose health is followed; nil for none
	open  bool             // whether it takes calls
	shut  error            // why it does not; nil while that is not known yet
	once  bool             // it was open before it was shut
}

// NewSubConn implements [balancer.ClientConn]: it follows the health of the connection whenever it is ready, and keeps the
// connection for a moment after its use.
func (g *gate) NewSubConn(addrs []resolver.Address, opts balancer.NewSubConnOptions) (balancer.SubConn, error) {
	l := &lingering{gate: g}
	leaf := opts.StateListener
	opts.StateListener = func(s balancer.SubConnState) {
		followed := g.changed(l, s.ConnectivityState == connectivity.Ready)
		leaf(s)
		if followed {
			l.SubConn.RegisterHealthListener(func(h balancer.SubConnState) { g.health(l.SubConn, h) })
		}
	}
	var err error
	l.SubConn, err = g.ClientConn.NewSubConn(addrs, opts) //nolint:staticcheck // what is deprecated is more than one address, which is the leaf's choice
	if err != nil {
		return nil, err
	}
	return l, nil
}

// UpdateState implements [balancer.ClientConn].
func (g *gate) UpdateState(s balancer.State) {
	g.mu.Lock()
	defer g.mu.Unlock()
	s.Picker = inner{s.Picker, g.instance.Load()}
	g.leaf = s
	g.ClientConn.UpdateState(g.stateLocked())
}

// changed notes that a connection became ready, or is no longer, and reports whether its health matters. The leaf's state,
// which follows, tells the rest. Of two that become ready at once, to two addresses of the endpoint, the leaf keeps the
// first. One that the leaf has given up while it was on its way may become ready before it is closed: it is nobody's.
func (g *gate) changed(l *lingering, ready bool) (followed bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	sc := l.SubConn
	if ready && g.conn == nil && !l.left {
		g.instance.Load().conn.Store(&sc)
		g.conn, g.open, g.shut, g.once = sc, g.fresh, nil, false
		g.fresh = false
	} else if !ready && g.conn == sc {
		g.instance.Load().conn.Store(nil)
		g.conn, g.open, g.shut, g.once = nil, false, nil, false
	}
	return ready && !l.left
}

// giveUp notes that the leaf uses a connection no more.
func (g *gate) giveUp(l *lingering) {
	g.mu.Lock()
	l.left = true
	g.mu.Unlock()
	g.changed(l, false)
}

// health takes in what the health service of a ready connection says. While it is being asked again, what it said last
// goes on to count.
func (g *gate) health(sc balancer.SubConn, s balancer.SubConnState) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.conn != sc {
		return
	}
	switch s.ConnectivityState {
	case connectivity.Ready:
		if g.open {
			return
		}
		g.open, g.shut = true, nil
	case connectivity.TransientFailure:
		g.once = g.once || g.open
		g.open, g.shut = false, fmt.Errorf("the instance does not serve at present: %v", s.ConnectionError)
	default:
		return
	}
	g.ClientConn.UpdateState(g.stateLocked())
}

func (g *gate) stateLocked() balancer.State {
	switch {
	case g.leaf.ConnectivityState != connectivity.Ready || g.open:
		return g.leaf
	case g.shut != nil && g.once:
		return balancer.State{ConnectivityState: connectivity.TransientFailure, Picker: leaving{base.NewErrPicker(g.shut), g.leaf.Picker.(inner)}}
	case g.shut != nil:
		return balancer.State{ConnectivityState: connectivity.TransientFailure, Picker: base.NewErrPicker(g.shut)}
	}
	return balancer.State{ConnectivityState: connectivity.Connecting, Picker: base.NewErrPicker(balancer.ErrNoSubConnAvailable)}
}

// leaving is the picker of an instance that served and says that it does not any more. Most probably it is about to
// stop, and answers until it does: it is the last resort.
type leaving struct {
	balancer.Picker // says why it is not used
	last            inner
}
