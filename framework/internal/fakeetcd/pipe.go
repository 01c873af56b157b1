package fakeetcd

import (
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// chunk is some bytes under way, or the end of them.
type chunk struct {
	data []byte
	due  time.Time
}

// pipe is one direction of a connection: what was written waits until it is due, and while the direction is held. Writing
// never waits.
type pipe struct {
	mu       sync.Mutex
	chunks   []chunk
	held     bool // nothing arrives, also not the end; it does when it is let go, as TCP sends again
	delay    time.Duration
	closed   bool          // the writer has; the reader learns of it after the last chunk
	broken   bool          // the connection was reset
	deadline time.Time     // of the reader
	wake     chan struct{} // one slot: look again
}

func newPipe(held bool, delay time.Duration) *pipe {
	return &pipe{held: held, delay: delay, wake: make(chan struct{}, 1)}
}

func (p *pipe) change(f func()) {
	p.mu.Lock()
	f()
	p.mu.Unlock()
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

func (p *pipe) write(b []byte) (n int, err error) {
	p.change(func() {
		if p.closed || p.broken {
			err = io.ErrClosedPipe
			return
		}
		n = len(b)
		p.chunks = append(p.chunks, chunk{append([]byte(nil), b...), time.Now().Add(p.delay)})
	})
	return n, err
}

// read waits for bytes, the end, or the deadline.
func (p *pipe) read(b []byte) (int, error) {
	for {
		n, wait, err := p.take(b)
		if n > 0 || err != nil {
			return n, err
		}
		if wait == 0 {
			<-p.wake
			continue
		}
		t := time.NewTimer(wait)
		select {
		case <-p.wake:
		case <-t.C:
		}
		t.Stop()
	}
}

// take reads what is due. Without anything it says how long to wait; 0 means until something changes.
func (p *pipe) take(b []byte) (n int, wait time.Duration, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	switch {
	case p.broken:
		return 0, 0, io.ErrUnexpectedEOF
	case !p.deadline.IsZero() && !now.Before(p.deadline):
		return 0, 0, os.ErrDeadlineExceeded
	case !p.deadline.IsZero():
		wait = p.deadline.Sub(now)
	}
	switch {
	case p.held:
	case len(p.chunks) == 0 && p.closed:
		return 0, 0, io.EOF
	case len(p.chunks) == 0:
	case p.chunks[0].due.After(now):
		if until := p.chunks[0].due.Sub(now); wait == 0 || until < wait {
			wait = until
		}
	default:
		n = copy(b, p.chunks[0].data)
		if p.chunks[0].data = p.chunks[0].data[n:]; len(p.chunks[0].data) == 0 {
			p.chunks = p.chunks[1:]
		}
	}
	return n, wait, nil
}

// conn is one end of a connection.
type conn struct {
	in, out *pipe
	gone    func() // the end was closed
	once    sync.Once
}

func (c *conn) Read(b []byte) (int, error)  { return c.in.read(b) }
func (c *conn) Write(b []byte) (int, error) { return c.out.write(b) }

// Close ends both directions; what was written still arrives.
func (c *conn) Close() error {
	c.once.Do(func() {
		c.out.change(func() { c.out.closed = true })
		c.in.change(func() { c.in.broken = true })
		c.gone()
	})
	return nil
}

func (c *conn) LocalAddr() net.Addr  { return address{} }
func (c *conn) RemoteAddr() net.Addr { return address{} }

func (c *conn) SetDeadline(t time.Time) error { return c.SetReadDeadline(t) }
func (c *conn) SetReadDeadline(t time.Time) error {
	c.in.change(func() { c.in.deadline = t })
	return nil
}

// SetWriteDeadline changes nothing: writing never waits.
func (c *conn) SetWriteDeadline(time.Time) error { return nil }

type address struct{}

func (address) Network() string { return "memory" }
func (address) String() string  { return "fakeetcd" }
