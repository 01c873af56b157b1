package client

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/newsvc/newsvc/framework/client/internal/balancer"
)

// HedgingPolicy cuts the tail of latencies: a call that has no answer after Delay is sent a second time, to another
// instance, and the answer that comes first is taken; the other attempt is cancelled. Only unary methods that the proto
// declares idempotent are hedged, since both attempts may run to their end.
//
// Nothing is hedged without a second instance that takes calls, while the breaker or its bound on calls in flight acts, or
// while refused calls have used up half of what may be repeated: a callee that has too much to do is not helped by more of it.
// Calls with [grpc.OnFinish] are not hedged either, and gRPC's own pick_first knows no other instance.
type HedgingPolicy struct {
	// Delay is the time without an answer after which a call is hedged. Default: 0, never. Take about the 95th percentile
	// of the method's latency: shorter sends more calls twice, longer cuts less of the tail.
	Delay time.Duration `config:"delay" reload:"live"`
	// MaxAttempts counts the first attempt too; each one after it comes Delay after the one before. Default: 2, which
	// is enough to leave one slow instance.
	MaxAttempts int `config:"max_attempts" reload:"live"`
	// BudgetRatio is the share of the successful calls that may be hedged in the long run, above 0 to 1. Default: 0.05; up to
	// ten may come in a row. It is the most that hedging adds to the callee's load.
	BudgetRatio float64 `config:"budget_ratio" reload:"live"`
}

func defaultHedging() HedgingPolicy { return HedgingPolicy{MaxAttempts: 2, BudgetRatio: 0.05} }

func (h HedgingPolicy) validate() error {
	switch {
	case h.Delay == 0:
		return nil
	case h.Delay < time.Millisecond:
		return fmt.Errorf("delay: %q would hedge nearly every call; write 1ms or more, for example 50ms, or 0 for no hedging", h.Delay)
	case h.MaxAttempts < 2 || h.MaxAttempts > maxCallAttempts:
		return fmt.Errorf("max_attempts: %d is out of range; write 2 to %d, or delay: 0s for no hedging", h.MaxAttempts, maxCallAttempts)
	case !(h.BudgetRatio > 0 && h.BudgetRatio <= 1):
		return fmt.Errorf("budget_ratio: %v is out of range; write more than 0 and at most 1, for example 0.05", h.BudgetRatio)
	}
	return nil
}

// hedgeBurst is how many hedges may come in a row.
const hedgeBurst = 10

// active returns the policy when it has anything to say, else nil.
func (h HedgingPolicy) active() *liveHedging {
	if h.Delay == 0 {
		return nil
	}
	return &liveHedging{delay: h.Delay, attempts: h.MaxAttempts, limits: hedgeLimits(h.BudgetRatio)}
}

func hedgeLimits(ratio float64) budgetLimits {
	return budgetLimits{size: hedgeBurst * 1000, earn: max(1, int64(ratio*1000))}
}

// liveHedging is what calls read of the policy.
type liveHedging struct {
	delay    time.Duration
	attempts int
	limits   budgetLimits
}

// hedges is what a connection keeps of its hedging.
type hedges struct {
	budget    budget
	sent, won atomic.Int64
}

// hedged reports whether a call is one that may be hedged.
func (c *Conn) hedged(p *livePolicy, method string, reply any, opts []grpc.CallOption) bool {
	if p.hedging == nil || c.factory.methods.byPath[method] != (methodKind{unary: true, idempotent: true}) {
		return false
	}
	if _, ok := reply.(proto.Message); !ok {
		return false // there is no way to make another one of its kind
	}
	return !slices.ContainsFunc(opts, func(o grpc.CallOption) bool {
		_, ok := o.(grpc.OnFinishCallOption)
		return ok
	})
}

// hedgedCall is one call that may have several attempts at a time. The first runs where the call was made, with the
// caller's own reply; each other one has a reply of its own, and all of them have ended when the call has.
type hedgedCall struct {
	conn   *Conn
	ch     *channel
	policy *livePolicy
	ctx    context.Context // of all attempts; it remembers whom they went to
	method string
	req    any
	kind   protoreflect.MessageType // of the reply
	opts   []grpc.CallOption

	stopFirst, stopOthers context.CancelFunc
	others                context.Context

	mu      sync.Mutex // guards what follows
	timer   *time.Timer
	started int
	over    bool // no further attempt begins
	winner  *hedge
	running sync.WaitGroup
}

// hedge is an attempt beside the first.
type hedge struct {
	reply   proto.Message
	err     error
	asked   []grpc.CallOption
	header  metadata.MD
	trailer metadata.MD
	peer    peer.Peer
}

// invokeHedged is what [grpc.ClientConn.Invoke] is to calls that are not hedged. ctx bounds all attempts together.
func (c *Conn) invokeHedged(ctx context.Context, ch *channel, p *livePolicy, method string, req, reply any, opts []grpc.CallOption) error {
	if !p.keyed {
		ctx = balancer.WithAttempts(ctx)
	}
	own, _ := reply.(proto.Message) // it is one, see hedged
	h := &hedgedCall{conn: c, ch: ch, policy: p, ctx: ctx, method: method, req: req, kind: own.ProtoReflect().Type(), opts: opts, started: 1}
	var first context.Context
	first, h.stopFirst = context.WithCancel(ctx)
	defer h.stopFirst()
	h.others, h.stopOthers = context.WithCancel(ctx)
	defer h.stopOthers()
	h.mu.Lock()
	h.timer = time.AfterFunc(p.hedging.delay, h.begin)
	h.mu.Unlock()
	err := h.finish(ch.cc.Invoke(first, method, req, reply, opts...), own)
	if err == nil {
		c.hedges.budget.earn(p.hedging.limits)
	}
	return err
}

// begin is called by the timer. It makes an attempt, if there may be one, and waits for it.
func (h *hedgedCall) begin() {
	if !h.enter() {
		return
	}
	defer h.running.Done()
	h.conn.hedges.sent.Add(1)
	if h.policy.breaker != nil {
		h.conn.breaker.inFlight.Add(1)
		defer h.conn.breaker.inFlight.Add(-1)
	}
	a := &hedge{reply: h.kind.New().Interface(), asked: h.opts}
	a.err = h.ch.cc.Invoke(h.others, h.method, h.req, a.reply, a.options()...)
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case !answers(a.err):
		h.over = true // whatever ails the callee, a third attempt is no cure
	case h.winner == nil:
		h.winner, h.over = a, true
		h.stopFirst()
		h.stopOthers()
	}
}

// enter counts an attempt in, unless there may be none.
func (h *hedgedCall) enter() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.over || h.others.Err() != nil || !h.conn.mayHedge(h.ch, h.policy) {
		return false
	}
	h.running.Add(1)
	if h.started++; h.started < h.policy.hedging.attempts {
		h.timer.Reset(h.policy.hedging.delay)
	}
	return true
}

// mayHedge reports whether a hedge would help and is within the budget, from which it takes it.
func (c *Conn) mayHedge(ch *channel, p *livePolicy) bool {
	if ready, seen := ch.hub.observer.Ready(); !seen || ready < 2 {
		return false
	}
	if p.attempts > 1 && c.budget.milli.Load() < p.limits.size/2 {
		return false
	}
	if b := p.breaker; b != nil && (c.breaker.acts(b, time.Now()) || b.MaxInFlight > 0 && c.breaker.inFlight.Load() >= int64(b.MaxInFlight)) {
		return false
	}
	return c.hedges.budget.take(p.hedging.limits)
}

// acts reports whether the breaker refuses calls, or would with the next that fails.
func (b *breaker) acts(p *BreakerPolicy, now time.Time) bool {
	if !p.Enabled {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.sumLocked(p, now)
	return s.refused > 0 || float64(s.asked)-float64(p.MinCalls)-p.Ratio*float64(s.asked-s.failed-s.refused) > 0
}

// answers reports whether err speaks of the call, as another instance would too, and not of the instance.
func answers(err error) bool {
	switch status.Code(err) {
	case codes.Unavailable, codes.Unknown, codes.Internal, codes.DataLoss, codes.ResourceExhausted, codes.DeadlineExceeded, codes.Canceled:
		return false
	}
	return true
}

// finish takes the outcome of the first attempt and returns that of the call.
func (h *hedgedCall) finish(err error, reply proto.Message) error {
	h.mu.Lock()
	h.over = true
	h.timer.Stop()
	h.mu.Unlock()
	if answers(err) {
		h.stopOthers()
	}
	h.running.Wait() // they read the request, which is the caller's again when the call has ended
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.winner == nil || answers(err) {
		return err
	}
	h.conn.hedges.won.Add(1)
	h.winner.deliver(reply)
	return h.winner.err
}

// options are those of the call, but that what they ask for is kept until the attempt has won.
func (a *hedge) options() []grpc.CallOption {
	opts := slices.Clone(a.asked)
	for n, o := range opts {
		switch o.(type) {
		case grpc.HeaderCallOption:
			opts[n] = grpc.Header(&a.header)
		case grpc.TrailerCallOption:
			opts[n] = grpc.Trailer(&a.trailer)
		case grpc.PeerCallOption:
			opts[n] = grpc.Peer(&a.peer)
		}
	}
	return opts
}

// deliver hands everything that came to the caller.
func (a *hedge) deliver(reply proto.Message) {
	proto.Reset(reply) // the first attempt may have been cut off when it had filled it
	proto.Merge(reply, a.reply)
	for _, o := range a.asked {
		switch o := o.(type) {
		case grpc.HeaderCallOption:
			*o.HeaderAddr = a.header
		case grpc.TrailerCallOption:
			*o.TrailerAddr = a.trailer
		case grpc.PeerCallOption:
			*o.PeerAddr = a.peer
		}
	}
}
