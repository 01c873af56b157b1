package client

import (
	"context"
	"time"

	"google.golang.org/grpc"

	"github.com/newsvc/newsvc/framework/client/internal/balancer"
	"github.com/newsvc/newsvc/framework/internal/backoff"
	"github.com/newsvc/newsvc/framework/internal/notprocessed"
)

// chain puts the interceptors from outside around invoke and open. It is built once, so that a call pays for no
// closures.
func (c *Conn) chain(interceptors func(callee string) []Interceptor) {
	c.unary, c.streamer = c.invokeWithin, c.openWithin
	if interceptors == nil {
		return
	}
	list := interceptors(c.callee)
	for i := len(list) - 1; i >= 0; i-- {
		if around, inner := list[i].Unary, c.unary; around != nil {
			c.unary = func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, opts ...grpc.CallOption) error {
				return around(ctx, method, req, reply, cc, inner, opts...)
			}
		}
		if around, inner := list[i].Stream, c.streamer; around != nil {
			c.streamer = func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
				return around(ctx, desc, cc, method, inner, opts...)
			}
		}
	}
}

// limit is what bounds a unary call.
type limit struct {
	ours  bool // Policy.Timeout, else the caller's own deadline
	left  time.Duration
	until time.Time // zero when the call is not bounded
}

// invoke is a unary call: bounded, counted, and repeated where an instance refused it unprocessed. The channel
// argument is what interceptors saw; the call takes the one of the moment.
func (c *Conn) invoke(ctx context.Context, method string, req, reply any, _ *grpc.ClientConn, opts ...grpc.CallOption) error {
	ch := c.acquire()
	if ch == nil {
		return c.errClosed()
	}
	defer ch.release()
	p := c.live.Load()
	c.budget.earn(p.limits)
	opts = p.options(opts)
	if p.keyed {
		ctx = balancer.WithAttempts(ctx)
	}

	hedged := c.hedged(p, method, reply, opts)
	var bound limit
	now := time.Now()
	if deadline, ok := ctx.Deadline(); ok {
		bound = limit{left: deadline.Sub(now), until: deadline}
	}
	callCtx := ctx
	if p.timeout > 0 && (bound.until.IsZero() || bound.left > p.timeout) {
		bound = limit{ours: true, left: p.timeout, until: now.Add(p.timeout)}
		// gRPC knows the timeout of the methods in the service config, but does not count the wait for the resolver's
		// first word. Where calls are hedged it would bound each attempt for itself.
		if hedged || !c.factory.methods.byPath[method].unary || !ch.hub.heard.Load() {
			var cancel context.CancelFunc
			callCtx, cancel = context.WithDeadline(ctx, bound.until)
			defer cancel()
		}
	}
	var err error
	if hedged {
		err = c.invokeHedged(callCtx, ch, p, method, req, reply, opts)
	} else {
		err = ch.cc.Invoke(callCtx, method, req, reply, opts...)
	}
	if err == nil {
		return nil
	}
	return c.failed(callCtx, ch, p, bound, err, method, req, reply, opts)
}

// failed is the rest of a unary call whose first attempt ended with err.
func (c *Conn) failed(ctx context.Context, ch *channel, p *livePolicy, bound limit, err error, method string, req, reply any, opts []grpc.CallOption) error {
	if !bound.until.IsZero() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, bound.until) // all attempts together
		defer cancel()
	}
	r := repeats{conn: c, policy: p, method: method}
	var refusal error
	again := r.again(ctx, err)
	if again && !p.keyed {
		ctx = balancer.WithAttempts(ctx) // one repeat may find who refused the call, the next will not
	}
	for ; again; again = r.again(ctx, err) {
		refusal = err
		if err = ch.cc.Invoke(ctx, method, req, reply, opts...); err == nil {
			return nil
		}
	}
	return c.explain(ch, bound, r.made, refusal, err)
}

// repeats decides whether one call is made again.
type repeats struct {
	conn   *Conn
	policy *livePolicy
	method string
	made   int
	wait   *backoff.Backoff
}

const (
	repeatBase  = 10 * time.Millisecond
	repeatLimit = 200 * time.Millisecond
)

// again reports whether the call that failed with err is to be made again, and waits before that. It never waits
// past the context's deadline: the reason of the refusal is worth more than a timeout.
func (r *repeats) again(ctx context.Context, err error) bool {
	most := r.policy.attempts - 1
	if r.policy.grpcRetries && r.conn.factory.methods.byPath[r.method].idempotent {
		most = min(most, 1) // gRPC has retried already, unless its own budget was empty
	}
	if r.made >= most || !notprocessed.Is(err) || ctx.Err() != nil {
		return false
	}
	if r.wait == nil {
		r.wait = backoff.New(repeatBase, repeatLimit)
	}
	pause := r.wait.Next()
	if r.made > 0 { // the first repeat most likely comes to another instance, which asked for nothing
		pause = max(pause, notprocessed.Wait(err))
	}
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) <= pause {
		return false
	}
	if !r.conn.budget.take(r.policy.limits) {
		return false
	}
	r.made++
	return backoff.Sleep(ctx, pause) == nil
}
