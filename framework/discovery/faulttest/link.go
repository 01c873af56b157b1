package faulttest

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"github.com/newsvc/newsvc/framework/internal/loop"
)

const (
	// chunkBytes and chunksKept bound what is under way in one direction of a connection.
	chunkBytes = 16 << 10
	chunksKept = 16
)

// link is one connection through a proxy: that of the caller and the one to the target.
type link struct {
	p      *Proxy
	caller *net.TCPConn
	from   string // who called, where the proxy looks for that; guarded by p.mu

	stranded bool // nothing passes any more; guarded by p.mu

	once   sync.Once
	over   chan struct{} // closed by end
	mu     sync.Mutex
	target *net.TCPConn // nil until connected
}

// reset ends both connections with RST.
func (l *link) reset() { l.end(abort) }

// end closes both connections, once.
func (l *link) end(how func(*net.TCPConn)) {
	l.once.Do(func() {
		close(l.over)
		how(l.caller)
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.target != nil {
			how(l.target)
		}
	})
}

func abort(c *net.TCPConn) {
	_ = c.SetLinger(0) // both fail only on what is closed already
	_ = c.Close()
}

// run serves the link until both directions have ended.
func (l *link) run(ctx context.Context) {
	defer func() {
		l.reset()
		l.p.mu.Lock()
		defer l.p.mu.Unlock()
		delete(l.p.links, l)
	}()
	if !l.connect(ctx) {
		return
	}
	var both loop.Group
	a := both.Start(ctx, func(ctx context.Context) { l.forward(ctx, l.target, l.caller, up) })
	b := both.Start(ctx, func(ctx context.Context) { l.forward(ctx, l.caller, l.target, down) })
	<-a.Done()
	<-b.Done()
	l.end(func(c *net.TCPConn) { _ = c.Close() }) // both said goodbye, if they are not reset already
}

// connect waits until there is a way to the target and goes it.
func (l *link) connect(ctx context.Context) bool {
	if !l.p.pass(l, up) {
		return false
	}
	l.p.mu.Lock()
	target := l.p.target
	l.p.mu.Unlock()
	d := net.Dialer{Timeout: dialTimeout}
	conn, err := d.DialContext(ctx, "tcp", target)
	if err != nil {
		return false // the caller sees a reset, as from a port where nobody listens
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.target = conn.(*net.TCPConn)
	select {
	case <-l.over:
		abort(l.target)
		return false
	default:
		return true
	}
}

// chunk is what was read at once, and when it may be passed on. After the bytes of a broken one comes a reset: news that
// travel like any other.
type chunk struct {
	bytes  []byte
	due    time.Time
	broken bool
}

// read reads until the connection ends, and closes chunks then.
func (l *link) read(from *net.TCPConn, direction int, chunks chan<- chunk) {
	defer close(chunks)
	for {
		buf := make([]byte, chunkBytes)
		n, err := from.Read(buf)
		c := chunk{bytes: buf[:n], due: time.Now().Add(l.note(buf[:n], direction))}
		c.broken = err != nil && !errors.Is(err, io.EOF)
		select {
		case chunks <- c:
		case <-l.over:
			return
		}
		if err != nil {
			return
		}
	}
}

// note looks who is calling, where the proxy wants to know, and returns the present delay.
func (l *link) note(text []byte, direction int) time.Duration {
	l.p.mu.Lock()
	defer l.p.mu.Unlock()
	if l.p.label != nil && direction == up && l.from == "" {
		l.from = l.p.label(text)
	}
	return l.p.delay
}

// wait waits until a chunk may pass.
func (l *link) wait(due time.Time) bool {
	left := time.Until(due)
	if left <= 0 {
		return true
	}
	t := time.NewTimer(left)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-l.over:
		return false
	}
}

// forward copies from one connection to the other until the first ends in good order, which is passed on, or anything
// else happens, which resets the link.
func (l *link) forward(ctx context.Context, to, from *net.TCPConn, direction int) {
	chunks := make(chan chunk, chunksKept)
	reader := loop.Start(ctx, func(context.Context) { l.read(from, direction, chunks) })
	defer reader.Stop()
	for c := range chunks {
		if !l.wait(c.due) {
			return
		}
		if !l.p.pass(l, direction) {
			return
		}
		if _, err := to.Write(c.bytes); err != nil || c.broken {
			l.reset()
			return
		}
		l.p.bytes[direction].Add(int64(len(c.bytes)))
	}
	if l.p.pass(l, direction) {
		_ = to.CloseWrite() // fails only on what is closed already
	}
}
