package faulttest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/newsvc/newsvc/framework/internal/backoff"
	"github.com/newsvc/newsvc/framework/internal/loop"
)

// dialTimeout bounds the proxy's own attempt to reach its target.
const dialTimeout = 5 * time.Second

// Proxy stands in front of one TCP address on this machine and does to the connections through it what networks do. It
// begins as a good network. Its methods may be called from any goroutine; the faults add up until [Proxy.Heal].
type Proxy struct {
	listener net.Listener
	ctx      context.Context
	loops    loop.Group
	done     chan struct{} // closed by Close

	mu      sync.Mutex
	target  string
	links   map[*link]struct{}
	cut     bool
	silent  [2]bool
	delay   time.Duration
	refuse  func(from string) bool
	label   func(chunk []byte) (from string)
	changed chan struct{} // closed and made anew when any of these changes

	bytes    [2]atomic.Int64
	accepted atomic.Int64
}

// The directions of a connection.
const (
	up   = 0 // to the target
	down = 1 // from it
)

// NewProxy starts a proxy on a free port of 127.0.0.1 in front of target, a host:port that need not be there yet. The
// caller must Close it.
func NewProxy(target string) (*Proxy, error) {
	ctx := context.Background() // the proxy lives until Close
	var lc net.ListenConfig
	listener, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("start a proxy in front of %q: %w", target, err)
	}
	p := &Proxy{
		listener: listener, ctx: ctx, target: target,
		links: map[*link]struct{}{}, changed: make(chan struct{}), done: make(chan struct{}),
	}
	p.loops.Start(ctx, p.accept)
	return p, nil
}

// Addr returns the host:port to connect to.
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

// Cut resets all connections and refuses new ones: a network that is away and says so. New connections are reset as
// soon as they are made, since the port must stay ours.
func (p *Proxy) Cut() {
	p.change(func() { p.cut = true })
	p.Reset()
}

// Reset resets all connections, with RST on both sides; new ones are served.
func (p *Proxy) Reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.links {
		l.reset()
	}
}

// Blackhole lets no byte pass in the given directions any more: towards the target, and from it. Connections stay, and
// nobody is told; new ones are accepted and led nowhere. What is sent meanwhile is kept, up to what fits into buffers,
// and passes at Heal, as TCP would send it again; for a network that stays silent until the connections are given up,
// call Reset before Heal. It replaces the directions of an earlier call.
func (p *Proxy) Blackhole(toTarget, fromTarget bool) {
	p.change(func() { p.silent = [2]bool{up: toTarget, down: fromTarget} })
}

// Strand lets no byte pass over the connections that there are now, for ever: they are half open, as when something on
// the way forgot them or a host was replaced. Nobody is told. New connections are not touched; Heal does not help, Reset
// ends them.
func (p *Proxy) Strand() {
	p.change(func() {
		for l := range p.links {
			l.stranded = true
		}
	})
}

// Stranded returns how many connections were stranded and are still open.
func (p *Proxy) Stranded() (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.links {
		if l.stranded {
			n++
		}
	}
	return n
}

// Delay makes every byte take d longer in each direction; 0 ends that.
func (p *Proxy) Delay(d time.Duration) { p.change(func() { p.delay = d }) }

// Heal makes the network good again. What a blackhole kept back passes now.
func (p *Proxy) Heal() {
	p.change(func() { p.cut, p.silent, p.delay = false, [2]bool{}, 0 })
}

// SetTarget leads new connections elsewhere.
func (p *Proxy) SetTarget(target string) { p.change(func() { p.target = target }) }

// Connections returns how many connections are open through the proxy.
func (p *Proxy) Connections() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.links)
}

// Accepted returns how many connections there ever were.
func (p *Proxy) Accepted() int64 { return p.accepted.Load() }

// Bytes returns how many bytes have passed to the target and from it.
func (p *Proxy) Bytes() (toTarget, fromTarget int64) { return p.bytes[up].Load(), p.bytes[down].Load() }

// Close resets all connections and waits until nothing of the proxy is left. Later calls do nothing.
func (p *Proxy) Close() error {
	p.mu.Lock()
	select {
	case <-p.done:
		p.mu.Unlock()
		return nil
	default:
	}
	close(p.done)
	for l := range p.links {
		l.reset()
	}
	p.mu.Unlock()
	err := p.listener.Close()
	p.loops.Stop()
	return err
}

func (p *Proxy) change(do func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	do()
	close(p.changed)
	p.changed = make(chan struct{})
}

// accept serves until the listener is closed. Links are loops of their own, which end with their connections.
func (p *Proxy) accept(ctx context.Context) {
	var links sync.WaitGroup
	defer links.Wait()
	for {
		conn, err := p.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // out of file descriptors, for example
			_ = backoff.Sleep(ctx, 10*time.Millisecond) // ends with the proxy
			continue
		}
		p.accepted.Add(1)
		l := p.admit(conn)
		if l == nil {
			continue
		}
		links.Add(1)
		loop.Start(ctx, func(ctx context.Context) {
			defer links.Done()
			l.run(ctx)
		})
	}
}

// admit makes a link of a new connection; nil when there is no way.
func (p *Proxy) admit(conn net.Conn) *link {
	l := &link{p: p, caller: conn.(*net.TCPConn), over: make(chan struct{})}
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.done:
		l.reset()
		return nil
	default:
	}
	if p.cut {
		l.reset()
		return nil
	}
	p.links[l] = struct{}{}
	return l
}

// pass waits until the direction is open for the link; it is false when the link is over before.
func (p *Proxy) pass(l *link, direction int) bool {
	for {
		p.mu.Lock()
		shut := p.silent[direction] || l.stranded || p.refuse != nil && p.refuse(l.from)
		changed := p.changed
		p.mu.Unlock()
		if !shut {
			return true
		}
		select {
		case <-changed:
		case <-l.over:
			return false
		}
	}
}
