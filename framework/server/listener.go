package server

import (
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// listener remembers its connections, because gRPC's stop waits for those that are in their handshake, and a
// connection that never says a word would delay it by the whole ConnectionTimeout.
type listener struct {
	net.Listener

	mu      sync.Mutex
	conns   map[*conn]struct{}
	closing bool
}

func newListener(l net.Listener) *listener {
	return &listener{Listener: l, conns: map[*conn]struct{}{}}
}

// Accept returns the next connection; once the server stops, it hands out no more of them.
func (l *listener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		tracked := &conn{Conn: c, owner: l}
		if l.add(tracked) {
			return tracked, nil
		}
		_ = c.Close() // whoever it was finds the address closed a moment later anyway
	}
}

func (l *listener) add(c *conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closing {
		return false
	}
	l.conns[c] = struct{}{}
	return true
}

// closeSilent accepts no more connections and closes those that have not sent anything yet; no call can be on them.
func (l *listener) closeSilent() { l.closeIf(func(c *conn) bool { return c.got.Load() == 0 }) }

// closeAll closes all connections.
func (l *listener) closeAll() { l.closeIf(func(*conn) bool { return true }) }

func (l *listener) closeIf(doomed func(*conn) bool) {
	l.mu.Lock()
	l.closing = true
	var list []*conn
	for c := range l.conns {
		if doomed(c) {
			list = append(list, c)
		}
	}
	l.mu.Unlock()
	for _, c := range list {
		_ = c.Close()
	}
}

// stillness is what a connection had moved when it was first seen to have moved so much.
type stillness struct {
	moved int64
	since time.Time
}

// closeStill closes the connections that have moved nothing for [stillFor]. It remembers in seen, which is the same in
// each call, what it found.
func (l *listener) closeStill(seen map[*conn]stillness, now time.Time) {
	l.closeIf(func(c *conn) bool {
		moved := c.got.Load() + c.put.Load()
		before, known := seen[c]
		if !known || before.moved != moved {
			seen[c] = stillness{moved, now}
			return false
		}
		return now.Sub(before.since) >= stillFor
	})
}

// conn is a connection that knows how many bytes went over it.
type conn struct {
	net.Conn
	owner    *listener
	got, put atomic.Int64
}

// Read reads from the connection.
func (c *conn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.got.Add(int64(n))
	return n, err
}

// Write writes to the connection.
func (c *conn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.put.Add(int64(n))
	return n, err
}

// Close closes the connection and forgets it.
func (c *conn) Close() error {
	c.owner.mu.Lock()
	delete(c.owner.conns, c)
	c.owner.mu.Unlock()
	return c.Conn.Close()
}
