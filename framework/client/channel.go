package client

import (
	"math"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc"
)

// channel is one grpc.ClientConn behind a [Conn], with a count of the calls that run on it. A channel that is
// replaced is retired: it takes no new call and is closed when its last one has ended.
type channel struct {
	cc      *grpc.ClientConn
	hub     *hub
	ejector *ejector
	target  string

	reason atomic.Pointer[reason] // why calls found nobody, when that was asked last

	calls   atomic.Int64  // running calls; retiredBias is added when the channel is retired
	retire  func()        // takes no new call from now on; any number of times
	retired chan struct{} // closed by retire
	idle    chan struct{} // closed when the channel is retired and its last call has ended
	drain   func()        // closes idle, once
}

// retiredBias makes the count of a retired channel negative whatever it is.
const retiredBias = math.MinInt64 / 2

func newChannel(cc *grpc.ClientConn, h *hub, e *ejector, target string) *channel {
	ch := &channel{cc: cc, hub: h, ejector: e, target: target, retired: make(chan struct{}), idle: make(chan struct{})}
	ch.drain = sync.OnceFunc(func() { close(ch.idle) })
	ch.retire = sync.OnceFunc(func() {
		close(ch.retired)
		if ch.calls.Add(retiredBias) == retiredBias {
			ch.drain()
		}
	})
	return ch
}

// close cuts what still runs.
func (ch *channel) close() {
	ch.ejector.close()
	_ = ch.cc.Close() // fails only when it is closed already
}

// acquire counts a call in, unless the channel is retired.
func (ch *channel) acquire() bool {
	if ch.calls.Add(1) > 0 {
		return true
	}
	ch.release()
	return false
}

// release counts a call out.
func (ch *channel) release() {
	if ch.calls.Add(-1) == retiredBias {
		ch.drain()
	}
}

// active is the number of running calls.
func (ch *channel) active() int {
	n := ch.calls.Load()
	if n < 0 {
		n -= retiredBias
	}
	return int(n)
}
