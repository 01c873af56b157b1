package telemetry

import (
	"context"
	"errors"
	"io"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
)

// client measures the calls to one callee.
type client struct {
	t      *Telemetry
	callee string
	calls  *calls
}

func (c *client) unary(ctx context.Context, fullMethod string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) (err error) {
	m := c.calls.find(fullMethod)
	if m == nil {
		m = c.calls.add(fullMethod, static(opts))
	}
	ctx, span := c.leave(ctx, m, fullMethod)
	begin := m.begin()
	completed := false
	defer func() {
		code := codeOf(err, completed)
		m.end(begin, code, span)
		if span != nil {
			endSpan(span, code, err, code != codes.OK)
		}
	}()
	err = invoker(ctx, fullMethod, req, reply, cc, opts...)
	completed = true
	return err
}

func (c *client) stream(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, fullMethod string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	m := c.calls.find(fullMethod)
	if m == nil {
		m = c.calls.add(fullMethod, static(opts))
	}
	ctx, span := c.leave(ctx, m, fullMethod)
	s := &clientStream{method: m, span: span, begin: m.begin(), oneReply: !desc.ServerStreams}
	inner, err := streamer(ctx, desc, cc, fullMethod, opts...)
	if err != nil {
		s.finish(err)
		return nil, err
	}
	s.ClientStream = inner
	// Whoever gives a stream up cancels its context and need not read from it again.
	s.unwatch = context.AfterFunc(ctx, func() { s.finish(ctx.Err()) })
	return s, nil
}

// static reports whether generated code made the call, so that the method is one of a fixed set.
func static(opts []grpc.CallOption) bool {
	for _, o := range opts {
		if _, ok := o.(grpc.StaticMethodCallOption); ok {
			return true
		}
	}
	return false
}

// leave takes the sampling decision for a call that goes out and sends it along. Nothing is built, and nothing sent,
// unless the call is sampled or belongs to a trace of which somebody else knows.
func (c *client) leave(ctx context.Context, m *method, fullMethod string) (context.Context, trace.Span) {
	if m.quiet {
		return ctx, nil
	}
	if current := trace.SpanContextFromContext(ctx); current.IsValid() {
		if c.t.sdk == nil || !current.IsSampled() {
			return inject(ctx, current), nil
		}
	} else {
		// The calls of a handler follow the decision about the handler's own call, and that was no.
		if c.t.sdk == nil || !c.t.draw() || grpc.ServerTransportStreamFromContext(ctx) != nil {
			return ctx, nil
		}
		ctx = context.WithValue(ctx, decidedKey{}, true)
	}
	opts := append(m.spanOpts[:len(m.spanOpts):len(m.spanOpts)], trace.WithSpanKind(trace.SpanKindClient))
	ctx, span := c.t.start(ctx, m, fullMethod, opts)
	return inject(ctx, span.SpanContext()), span
}

// clientStream finds out when a stream has ended.
type clientStream struct {
	grpc.ClientStream
	method   *method
	span     trace.Span
	begin    time.Time
	oneReply bool
	unwatch  func() bool
	finished atomic.Bool
}

// Header ends the measurement when there will be no answer.
func (s *clientStream) Header() (metadata.MD, error) {
	h, err := s.ClientStream.Header()
	if err != nil {
		s.over(err)
	}
	return h, err
}

// SendMsg ends the measurement when the message could not be sent. io.EOF tells only that RecvMsg knows more.
func (s *clientStream) SendMsg(msg any) error {
	err := s.ClientStream.SendMsg(msg)
	if err != nil && !errors.Is(err, io.EOF) {
		s.over(err)
	}
	return err
}

// RecvMsg ends the measurement with the last message, or with the error in its place.
func (s *clientStream) RecvMsg(msg any) error {
	err := s.ClientStream.RecvMsg(msg)
	switch {
	case errors.Is(err, io.EOF):
		s.over(nil)
	case err != nil:
		s.over(err)
	case s.oneReply:
		s.over(nil)
	}
	return err
}

func (s *clientStream) over(err error) {
	s.unwatch()
	s.finish(err)
}

func (s *clientStream) finish(err error) {
	if s.finished.Swap(true) {
		return
	}
	code := codeOf(err, true)
	s.method.end(s.begin, code, s.span)
	if s.span != nil {
		endSpan(s.span, code, err, code != codes.OK)
	}
}
