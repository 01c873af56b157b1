package client

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/status"

	"github.com/newsvc/newsvc/framework/internal/loop"
)

// Conn is the connection to one callee, whatever its instances, addresses and settings become. It is made by
// [Factory.Conn], stays the same for the factory's life and is safe for concurrent use.
type Conn struct {
	factory  *Factory
	callee   string
	unary    grpc.UnaryInvoker // the interceptors from outside, then invoke
	streamer grpc.Streamer     // the same for streams

	live    atomic.Pointer[livePolicy]
	budget  budget
	hedges  hedges
	breaker breaker
	cur     atomic.Pointer[channel] // nil once closed

	mu       sync.Mutex // guards what follows; never held while waiting for a call or a connection
	policy   Policy
	next     *channel // takes over from cur once it is ready; nil mostly
	retiring map[*channel]struct{}
	closed   bool
	loops    loop.Group
}

var _ grpc.ClientConnInterface = (*Conn)(nil)

// livePolicy is what calls read of a policy.
type livePolicy struct {
	timeout, openTimeout time.Duration
	attempts             int
	limits               budgetLimits
	grpcRetries          bool
	breaker              *BreakerPolicy  // nil while it bounds nothing
	hedging              *liveHedging    // nil for none
	keyed                bool            // calls have keys, and their picks are counted
	compress             grpc.CallOption // nil for none
	maxRecv              int             // for error texts
}

func liveOf(p Policy) *livePolicy {
	return &livePolicy{
		timeout: p.Timeout, openTimeout: p.OpenTimeout, attempts: p.NotProcessed.MaxAttempts,
		limits: limitsOf(p.NotProcessed), grpcRetries: p.Retry.MaxAttempts > 1,
		breaker: p.Breaker.active(), hedging: p.Hedging.active(), keyed: p.Balancer == RingHash, compress: compressWith(p.Compression), maxRecv: p.MaxRecvBytes,
	}
}

// Callee is the name of the service at the other end.
func (c *Conn) Callee() string { return c.callee }

// Invoke implements [grpc.ClientConnInterface]. The call is bounded by Policy.Timeout or the context's deadline,
// whichever is shorter. Errors are gRPC statuses.
func (c *Conn) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	ch := c.cur.Load()
	if ch == nil {
		return c.errClosed()
	}
	return c.unary(ctx, method, args, reply, ch.cc, opts...)
}

// NewStream implements [grpc.ClientConnInterface]. It waits at most Policy.OpenTimeout for an instance; after that
// only the context bounds the stream. Errors are gRPC statuses.
func (c *Conn) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	ch := c.cur.Load()
	if ch == nil {
		return nil, c.errClosed()
	}
	return c.streamer(ctx, desc, ch.cc, method, opts...)
}

// acquire returns the present channel with a call counted in, or nil when the connection is closed.
func (c *Conn) acquire() *channel {
	for {
		ch := c.cur.Load()
		if ch == nil || ch.acquire() {
			return ch
		}
		// It was replaced in between; its successor was stored before it was retired.
	}
}

func (c *Conn) errClosed() error {
	return status.Errorf(codes.Canceled, "calling %q: the connection was closed, this process is shutting down", c.callee)
}

// Connect starts to resolve and connect, and does not wait. Without it the first call does that.
func (c *Conn) Connect() {
	if ch := c.cur.Load(); ch != nil {
		ch.cc.Connect()
	}
}

// WaitInstances connects and returns when n instances, or one for n of 1 or less, are connected and take calls. With the
// balancer "pick_first", which connects to a single one, that one has to be READY and n to be known. The error names
// what is missing and why, and wraps the context's cause.
func (c *Conn) WaitInstances(ctx context.Context, n int) error {
	for {
		ch := c.cur.Load()
		if ch == nil {
			return c.errClosed()
		}
		if err := c.waitChannel(ctx, ch, n); err == nil {
			return nil
		} else if ctx.Err() != nil {
			return err
		}
		// The channel was replaced or closed: look at its successor.
	}
}

// waitChannel is WaitInstances on one channel. It also ends, with an error, when the channel is retired.
func (c *Conn) waitChannel(ctx context.Context, ch *channel, n int) error {
	wctx, cancel := context.WithCancel(ctx)
	defer cancel()
	watcher := loop.Start(wctx, func(wctx context.Context) {
		select {
		case <-ch.retired:
			cancel()
		case <-wctx.Done():
		}
	})
	defer watcher.Stop()
	ch.cc.Connect()
	for {
		known, changed := ch.hub.watch()
		if ready, seen := ch.hub.observer.Ready(); known < n || seen && ready < n {
			select {
			case <-changed:
				continue
			case <-wctx.Done():
				return c.missing(ctx, ch, n)
			}
		}
		state := ch.cc.GetState()
		if state == connectivity.Ready {
			return nil
		}
		if !ch.cc.WaitForStateChange(wctx, state) {
			return c.missing(ctx, ch, n)
		}
	}
}

func (c *Conn) missing(ctx context.Context, ch *channel, n int) error {
	known, _ := ch.hub.watch()
	connected := ""
	if ready, seen := ch.hub.observer.Ready(); seen {
		connected = fmt.Sprintf(", taking calls: %d", ready)
	}
	return fmt.Errorf("waiting for %d instances of %q: %d known at %q, connection %s%s: %s: %w",
		n, c.callee, known, ch.target, ch.cc.GetState(), connected, c.why(ch), context.Cause(ctx))
}

// update makes p the policy. See [Factory.Update].
func (c *Conn) update(p Policy) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return c.errClosed()
	}
	switch c.policy.differs(p) {
	case changeRedial:
		ch, err := c.factory.dial(c.callee, p)
		if err != nil {
			return err
		}
		c.replaceLocked(ch)
		if c.next != nil { // until that is ready, which may be never, the rest of the change holds for the present one
			if err := c.pushLocked(p); err != nil {
				return err
			}
		}
	case changePushed:
		if err := c.pushLocked(p); err != nil {
			return err
		}
	case changeLive, changeNone:
	}
	if p.Zone != c.policy.Zone {
		c.factory.warnZone(c.callee, p)
	}
	c.policy = p
	c.live.Store(liveOf(p))
	c.cur.Load().ejector.configure(p)
	if c.next != nil {
		c.next.ejector.configure(p)
	}
	return nil
}

func (c *Conn) pushLocked(p Policy) error {
	json, err := serviceConfigJSON(p, c.factory.p.Zone, c.factory.methods)
	if err != nil {
		return err
	}
	err = c.cur.Load().hub.push(json)
	if c.next != nil {
		err = errors.Join(err, c.next.hub.push(json))
	}
	return err
}

// replaceLocked lets ch take over: at once when the present channel is of no use, else when ch is ready.
func (c *Conn) replaceLocked(ch *channel) {
	if c.next != nil {
		c.dropNextLocked()
	}
	ch.cc.Connect()
	if c.cur.Load().cc.GetState() != connectivity.Ready {
		c.swapLocked(ch)
		return
	}
	c.next = ch
	c.loops.Start(context.Background(), func(ctx context.Context) {
		for state := ch.cc.GetState(); state != connectivity.Ready && state != connectivity.Shutdown; state = ch.cc.GetState() {
			if !ch.cc.WaitForStateChange(ctx, state) {
				return
			}
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.next == ch && !c.closed {
			c.next = nil
			c.swapLocked(ch)
		}
	})
}

// dropNextLocked gives up a successor that never carried a call.
func (c *Conn) dropNextLocked() {
	c.next.close()
	c.next = nil
}

func (c *Conn) swapLocked(ch *channel) {
	old := c.cur.Swap(ch)
	old.retire()
	c.retiring[old] = struct{}{}
	c.factory.log.Info("connection replaced", zap.String("callee", c.callee),
		zap.String("from", old.target), zap.String("to", ch.target), zap.Int("running_calls", old.active()))
	c.loops.Start(context.Background(), func(ctx context.Context) {
		select {
		case <-old.idle:
		case <-ctx.Done(): // the factory is closing and waits for old itself
		}
		old.close()
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.retiring, old)
	})
}

// beginClose takes no new call from now on and returns the channels whose calls are to be waited for.
func (c *Conn) beginClose() []*channel {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil
	}
	c.closed = true
	if c.next != nil {
		c.dropNextLocked()
	}
	ch := c.cur.Swap(nil)
	ch.retire()
	waitFor := []*channel{ch}
	for old := range c.retiring {
		waitFor = append(waitFor, old)
	}
	return waitFor
}

// finishClose waits for the calls until ctx ends, then cuts the rest and says how many.
func (c *Conn) finishClose(ctx context.Context, channels []*channel) error {
	cut := 0
	for _, ch := range channels {
		select {
		case <-ch.idle:
		case <-ctx.Done():
			cut += ch.active()
		}
	}
	c.loops.Stop()
	for _, ch := range channels {
		ch.close()
	}
	if cut > 0 {
		return fmt.Errorf("closing the connection to %q: %d running calls were cut: %w", c.callee, cut, context.Cause(ctx))
	}
	return nil
}
