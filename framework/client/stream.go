package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/newsvc/newsvc/framework/client/internal/balancer"
)

var errOpenTimeout = errors.New("open_timeout is over")

// attempt is one try of a stream: what has to be given back when it ends.
type attempt struct {
	ch     *channel
	place  *place
	cancel context.CancelCauseFunc
	ended  atomic.Bool
}

// end counts the attempt out of its channel. gRPC calls it when the stream has ended; a stream that could not be
// opened is ended by us, perhaps a second time.
func (a *attempt) end(error) {
	if a.ended.CompareAndSwap(false, true) {
		a.cancel(nil)
		a.place.leave()
		a.ch.release()
	}
}

// openOnce makes one attempt; its error is ready for the caller. The limit on opening is a timer that cancels the stream's context and is stopped once
// NewStream has returned: by then an instance is picked and has a stream open (gRPC picks and sends the headers
// inside NewStream).
func (c *Conn) openOnce(ctx context.Context, desc *grpc.StreamDesc, method string, place *place, opts []grpc.CallOption) (grpc.ClientStream, *attempt, error) {
	ch := c.acquire()
	if ch == nil {
		return nil, nil, c.errClosed()
	}
	p := c.live.Load()
	a := &attempt{ch: ch, place: place}
	place.enter()
	sctx, cancel := context.WithCancelCause(ctx)
	a.cancel = cancel
	var timer *time.Timer
	if p.openTimeout > 0 {
		timer = time.AfterFunc(p.openTimeout, func() { cancel(errOpenTimeout) })
	}
	cs, err := ch.cc.NewStream(sctx, desc, method, append(opts[:len(opts):len(opts)], grpc.OnFinish(a.end))...)
	if timer != nil && !timer.Stop() && err == nil {
		err = status.FromContextError(context.Canceled).Err() // opened just too late, and cancelled already
	}
	if err == nil {
		return cs, a, nil
	}
	late := errors.Is(context.Cause(sctx), errOpenTimeout)
	a.end(err)
	if late {
		if ch.cc.GetState() == connectivity.Ready {
			return nil, nil, status.Errorf(codes.Unavailable, "no instance of %q took the stream within %v (%s; raise it there); gRPC says: %s",
				c.callee, p.openTimeout, c.origin("open_timeout"), status.Convert(err).Message())
		}
		return nil, nil, c.nobody(codes.Unavailable, ch, err, fmt.Sprintf("; nobody took the stream within %v (%s)", p.openTimeout, c.origin("open_timeout")))
	}
	return nil, nil, c.explainStream(ctx, ch, 0, err)
}

// explainStream is [Conn.explain] for streams, which are bounded by their caller only.
func (c *Conn) explainStream(ctx context.Context, ch *channel, repeated int, err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return err
	}
	if deadline, ok := ctx.Deadline(); ok && status.Code(err) == codes.DeadlineExceeded && time.Until(deadline) <= 0 {
		if neverPicked(ch, err) {
			return c.nobody(codes.DeadlineExceeded, ch, err, "; nobody took the stream within the caller's own deadline")
		}
		return status.Errorf(codes.DeadlineExceeded, "the stream to %q ended with the caller's own deadline (give the caller more time); gRPC says: %s",
			c.callee, status.Convert(err).Message())
	}
	return c.clean(ch, repeated, err)
}

// open is a new stream: bounded until an instance has taken it, counted until it ends, and repeated where an instance
// refused it unprocessed before the first message came back.
func (c *Conn) open(ctx context.Context, desc *grpc.StreamDesc, method string, place *place, opts []grpc.CallOption) (grpc.ClientStream, error) {
	p := c.live.Load()
	c.budget.earn(p.limits)
	opts = p.options(opts)
	var again context.Context
	if p.keyed {
		ctx = balancer.WithAttempts(ctx)
		again = ctx
	}
	s := &stream{
		conn: c, ctx: ctx, desc: desc, opts: opts, place: place,
		repeats: repeats{conn: c, policy: p, method: method}, again: again,
	}
	// A failure to open is not repeated: no server was asked yet, so there is no refusal to look at.
	cs, a, err := c.openOnce(ctx, desc, method, place, opts)
	if err != nil {
		return nil, err
	}
	s.cur, s.attempt = cs, a
	return s, nil
}

// stream is a client stream that may be opened anew, on another instance, as long as nothing came back and at most
// one message was sent. That covers every server-streaming call, and the others that wait for an answer to their first
// message; a stream that sends more before it hears anything is not repeated, since what it sent is not kept.
type stream struct {
	conn  *Conn
	ctx   context.Context
	desc  *grpc.StreamDesc
	opts  []grpc.CallOption
	place *place

	repeats repeats         // of the receiving goroutine
	again   context.Context // the same of all repeats; nil before the first

	// settled says that the stream stays what it is: a message came back, a second one was sent, or the caller looked
	// at what only belongs to one attempt. Once it is set cur and attempt do not change.
	settled atomic.Bool

	mu         sync.Mutex // guards what follows while the stream is not settled
	cur        grpc.ClientStream
	attempt    *attempt
	generation int // counts the attempts
	first      any // the message sent, kept for a repeat
	sent       int
	closedSend bool
}

var _ grpc.ClientStream = (*stream)(nil)

func (s *stream) settle() grpc.ClientStream {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.settled.Store(true)
	s.first = nil
	return s.cur
}

func (s *stream) present() grpc.ClientStream {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cur
}

// SendMsg implements [grpc.ClientStream].
func (s *stream) SendMsg(m any) error {
	if s.settled.Load() {
		return s.cur.SendMsg(m)
	}
	s.mu.Lock()
	if s.sent++; s.sent > 1 || s.settled.Load() {
		s.settled.Store(true)
		s.first = nil
		s.mu.Unlock()
		return s.cur.SendMsg(m)
	}
	s.first = m
	cs, generation := s.cur, s.generation
	s.mu.Unlock()
	// Not under the lock: it may wait for the server to read, and the server for us to receive.
	err := cs.SendMsg(m)
	if !errors.Is(err, io.EOF) {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.generation != generation || !s.settled.Load() {
		return nil // was sent anew, or RecvMsg will do so or say why not
	}
	return err
}

// CloseSend implements [grpc.ClientStream].
func (s *stream) CloseSend() error {
	if s.settled.Load() {
		return s.cur.CloseSend()
	}
	s.mu.Lock()
	s.closedSend = true
	cs := s.cur
	s.mu.Unlock()
	return cs.CloseSend()
}

// RecvMsg implements [grpc.ClientStream].
func (s *stream) RecvMsg(m any) error {
	if s.settled.Load() {
		return s.received(s.cur.RecvMsg(m))
	}
	for {
		err := s.present().RecvMsg(m)
		if err == nil {
			s.settle()
			return nil
		}
		if s.settled.Load() || !s.repeats.again(s.ctx, err) || !s.reopen() {
			s.settle()
			return s.received(err)
		}
	}
}

func (s *stream) received(err error) error {
	return s.conn.explainStream(s.ctx, s.attempt.ch, s.repeats.made, err)
}

// reopen makes a new attempt and sends on it what was sent before. It reports false when that can't be done, and then
// leaves the old attempt in place, with its error.
func (s *stream) reopen() bool {
	if s.again == nil {
		s.again = balancer.WithAttempts(s.ctx)
	}
	cs, a, err := s.conn.openOnce(s.again, s.desc, s.repeats.method, s.place, s.opts)
	if err != nil {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.settled.Load() {
		a.cancel(nil) // a second message was sent meanwhile, into the attempt that failed
		return false
	}
	s.cur, s.attempt = cs, a
	s.generation++
	// Senders wait for the lock, so that nothing overtakes. Should the new attempt have ended already, RecvMsg is told.
	if s.sent > 0 {
		_ = cs.SendMsg(s.first)
	}
	if s.closedSend {
		_ = cs.CloseSend()
	}
	return true
}

// Header implements [grpc.ClientStream]. Headers that came settle the stream.
func (s *stream) Header() (metadata.MD, error) {
	cs := s.present()
	md, err := cs.Header()
	if md != nil {
		s.settle()
	}
	if err != nil {
		s.mu.Lock()
		ch := s.attempt.ch
		s.mu.Unlock()
		err = s.conn.explainStream(s.ctx, ch, 0, err)
	}
	return md, err
}

// Trailer implements [grpc.ClientStream].
func (s *stream) Trailer() metadata.MD { return s.present().Trailer() }

// Context implements [grpc.ClientStream]. As with gRPC's own streams, asking for it ends all repeats.
func (s *stream) Context() context.Context { return s.settle().Context() }
