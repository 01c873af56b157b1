package fakeetcd

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"
)

var errRefused = errors.New("connection refused")

// Network is the link between an etcd and its clients. Its methods are safe for concurrent use.
type Network struct {
	mu       sync.Mutex
	links    map[*link]struct{}
	refusing bool
	up, down bool // held: to etcd, to the client
	delay    time.Duration
	healed   chan struct{} // closed when connecting is possible again, and replaced
	accepted chan net.Conn
	done     chan struct{}
	dials    int
}

// link is one connection.
type link struct{ up, down *pipe }

func newNetwork() *Network {
	return &Network{links: make(map[*link]struct{}), healed: make(chan struct{}), accepted: make(chan net.Conn), done: make(chan struct{})}
}

// Cut resets all connections and refuses new ones.
func (n *Network) Cut() {
	n.set(func() { n.refusing = true })
	n.Reset()
}

// Reset resets all connections; new ones are possible.
func (n *Network) Reset() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for l := range n.links {
		l.up.change(func() { l.up.broken = true })
		l.down.change(func() { l.down.broken = true })
	}
}

// Hold lets nothing pass in the given directions, and says nothing about it: what is sent waits as long as both ends have
// patience. New connections hang.
func (n *Network) Hold(toServer, toClient bool) {
	n.set(func() { n.up, n.down = toServer, toClient })
}

// Delay makes everything that is sent from now on take that long in each direction.
func (n *Network) Delay(d time.Duration) {
	n.set(func() { n.delay = d })
}

// Heal undoes Cut, Hold and Delay.
func (n *Network) Heal() {
	n.set(func() {
		n.refusing, n.up, n.down, n.delay = false, false, false, 0
		close(n.healed)
		n.healed = make(chan struct{})
	})
}

func (n *Network) set(change func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	change()
	for l := range n.links {
		l.up.change(func() { l.up.held, l.up.delay = n.up, n.delay })
		l.down.change(func() { l.down.held, l.down.delay = n.down, n.delay })
	}
}

// Dials is how many connections were asked for.
func (n *Network) Dials() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.dials
}

// Dial connects a client, whatever the address. It is what grpc.WithContextDialer takes.
func (n *Network) Dial(ctx context.Context, _ string) (net.Conn, error) {
	n.mu.Lock()
	n.dials++
	for n.up || n.down { // the first packet is lost
		healed := n.healed
		n.mu.Unlock()
		select {
		case <-healed:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-n.done:
			return nil, errRefused
		}
		n.mu.Lock()
	}
	if n.refusing {
		n.mu.Unlock()
		return nil, errRefused
	}
	l := &link{up: newPipe(n.up, n.delay), down: newPipe(n.down, n.delay)}
	n.links[l] = struct{}{}
	n.mu.Unlock()
	gone := func() { n.left(l) }
	select {
	case n.accepted <- &conn{in: l.up, out: l.down, gone: gone}:
		return &conn{in: l.down, out: l.up, gone: gone}, nil
	case <-ctx.Done():
		gone()
		return nil, context.Cause(ctx)
	case <-n.done:
		gone()
		return nil, errRefused
	}
}

// left forgets a connection both of whose ends are closed.
func (n *Network) left(l *link) {
	l.up.mu.Lock()
	l.down.mu.Lock()
	over := l.up.closed && l.down.closed
	l.down.mu.Unlock()
	l.up.mu.Unlock()
	if over {
		n.mu.Lock()
		delete(n.links, l)
		n.mu.Unlock()
	}
}

// shut ends everything for good.
func (n *Network) shut() {
	n.Heal()
	n.Cut()
	n.mu.Lock()
	defer n.mu.Unlock()
	select {
	case <-n.done:
	default:
		close(n.done)
	}
}

// Accept implements [net.Listener].
func (n *Network) Accept() (net.Conn, error) {
	select {
	case c := <-n.accepted:
		return c, nil
	case <-n.done:
		return nil, net.ErrClosed
	}
}

// Close implements [net.Listener].
func (n *Network) Close() error {
	n.shut()
	return nil
}

// Addr implements [net.Listener].
func (*Network) Addr() net.Addr { return address{} }
