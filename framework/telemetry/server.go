package telemetry

import (
	"context"
	"net"

	"go.opentelemetry.io/otel/attribute"
	otelcodes "go.opentelemetry.io/otel/codes"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

func (t *Telemetry) unaryServer(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (resp any, err error) {
	m := t.server.find(info.FullMethod)
	if m == nil {
		m = t.server.add(info.FullMethod, info.Server != nil)
	}
	ctx, span := t.enter(ctx, m, info.FullMethod)
	begin := m.begin()
	completed := false
	defer func() { // also runs when the handler panics; the panic goes on
		code := codeOf(err, completed)
		m.end(begin, code, span)
		if t.callers != nil {
			t.callers.count(ctx, m, code)
		}
		if span != nil {
			endSpan(span, code, err, serverFault(code))
		}
	}()
	resp, err = handler(ctx, req)
	completed = true
	return resp, err
}

func (t *Telemetry) streamServer(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) (err error) {
	m := t.server.find(info.FullMethod)
	if m == nil {
		m = t.server.add(info.FullMethod, srv != nil)
	}
	before := ss.Context()
	ctx, span := t.enter(before, m, info.FullMethod)
	if ctx != before {
		ss = &serverStream{ServerStream: ss, ctx: ctx}
	}
	begin := m.begin()
	completed := false
	defer func() {
		code := codeOf(err, completed)
		m.end(begin, code, span)
		if t.callers != nil {
			t.callers.count(ctx, m, code)
		}
		if span != nil {
			endSpan(span, code, err, serverFault(code))
		}
	}()
	err = handler(srv, ss)
	completed = true
	return err
}

// serverStream is a stream with another context.
type serverStream struct {
	grpc.ServerStream
	ctx context.Context
}

// Context returns the context with the span, or with that of the caller.
func (s *serverStream) Context() context.Context { return s.ctx }

// enter takes the sampling decision for a call that came in. The span is nil for all calls that are not sampled, and
// then ctx changes only when the caller sent a trace that has to be passed on.
func (t *Telemetry) enter(ctx context.Context, m *method, fullMethod string) (context.Context, trace.Span) {
	if m.quiet {
		return ctx, nil
	}
	parent, ok := incoming(ctx)
	if ok {
		ctx = trace.ContextWithRemoteSpanContext(ctx, parent)
		if t.sdk == nil || !parent.IsSampled() {
			return ctx, nil
		}
	} else {
		if t.sdk == nil || !t.draw() {
			return ctx, nil
		}
		ctx = context.WithValue(ctx, decidedKey{}, true)
	}
	opts := append(m.spanOpts[:len(m.spanOpts):len(m.spanOpts)], trace.WithSpanKind(trace.SpanKindServer))
	if p, ok := peer.FromContext(ctx); ok {
		opts = append(opts, trace.WithAttributes(peerAttributes(p.Addr)...))
	}
	if name := callerOf(ctx); name != "" {
		opts = append(opts, trace.WithAttributes(semconv.ServicePeerName(name)))
	}
	return t.start(ctx, m, fullMethod, opts)
}

// peerAttributes tell address and port apart, as the conventions do; what is no IP address stays whole.
func peerAttributes(addr net.Addr) []attribute.KeyValue {
	tcp, ok := addr.(*net.TCPAddr)
	if !ok {
		return []attribute.KeyValue{semconv.NetworkPeerAddress(addr.String())}
	}
	return []attribute.KeyValue{semconv.NetworkPeerAddress(tcp.IP.String()), semconv.NetworkPeerPort(tcp.Port)}
}

// start begins a span for a call that is sampled.
func (t *Telemetry) start(ctx context.Context, m *method, fullMethod string, opts []trace.SpanStartOption) (context.Context, trace.Span) {
	if m.name == other {
		opts = append(opts, trace.WithAttributes(semconv.RPCMethodOriginal(fullMethod)))
	}
	return t.tracer.Start(ctx, m.name, opts...)
}

// endSpan writes the outcome. failed says whether the span is an error in the eyes of this side.
func endSpan(span trace.Span, code codes.Code, err error, failed bool) {
	name := statusName(code)
	span.SetAttributes(semconv.RPCResponseStatusCode(name))
	if failed {
		span.SetAttributes(attribute.String("error.type", name))
		text := "panic"
		if err != nil {
			text = status.Convert(err).Message()
		}
		span.SetStatus(otelcodes.Error, text)
	}
	span.End()
}

// serverFault tells mistakes of the server from answers that the caller has to deal with, as the conventions of
// OpenTelemetry do.
func serverFault(code codes.Code) bool {
	switch code {
	case codes.Unknown, codes.DeadlineExceeded, codes.Unimplemented, codes.Internal, codes.Unavailable, codes.DataLoss:
		return true
	}
	return false
}
