package client

import (
	"context"
	"time"

	"google.golang.org/grpc"

	"github.com/newsvc/newsvc/framework/internal/backoff"
	"github.com/newsvc/newsvc/framework/internal/notprocessed"
)

// chain puts the interceptors from outside around invoke and open. It is built once, so that a call pays for no
// closures.
func (c *Conn) chain(interceptors func(callee string) []Interceptor) {
	c.unary, c.streamer = c.invoke, c.open
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
	ours bool          // Policy.Timeout, else the caller's own deadline, if any
	left time.Duration // how long the call could take when it began
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

	var bound limit
	deadline, bounded := ctx.Deadline()
	if bounded {
		bound.left = time.Until(deadline)
	}
	callCtx := ctx
	if p.timeout > 0 && (!bounded || bound.left > p.timeout) {
		bound = limit{ours: true, left: p.timeout}
		var cancel context.CancelFunc
		callCtx, cancel = context.WithTimeout(ctx, p.timeout)
		defer cancel()
	}
	err := ch.cc.Invoke(callCtx, method, req, reply, opts...)
	if err == nil {
		return nil
	}
	r := repeats{conn: c, policy: p, method: method}
	for r.again(callCtx, err) {
		if err = ch.cc.Invoke(callCtx, method, req, reply, opts...); err == nil {
			return nil
		}
	}
	return c.explain(ch, callCtx, bound, r.made, err)
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
	if _, ok := r.conn.retried[r.method]; ok && r.policy.grpcRetries {
		most = min(most, 1) // gRPC has retried already, unless its own budget was empty
	}
	if r.made >= most || !notprocessed.Is(err) || ctx.Err() != nil {
		return false
	}
	if r.wait == nil {
		r.wait = backoff.New(repeatBase, repeatLimit)
	}
	pause := r.wait.Next()
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) <= pause {
		return false
	}
	if !r.conn.budget.take(r.policy.limits) {
		return false
	}
	r.made++
	return backoff.Sleep(ctx, pause) == nil
}
