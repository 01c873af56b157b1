package call

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"time"

	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/problem"
)

// Outcome is how a call went.
type Outcome struct {
	Peer     string // the address that answered; empty when none did
	Trace    string
	Took     time.Duration
	Header   metadata.MD
	Trailer  metadata.MD
	Status   *status.Status
	Messages int // that came back
}

// Request is one call.
type Request struct {
	Method    protoreflect.MethodDescriptor
	Documents *Documents  // nil: one empty message, or none when the client streams
	Metadata  metadata.MD // headers to send
	// Reply takes each message that comes back, in order.
	Reply func(proto.Message) error
}

// Do makes a call and returns how it went. The error is one of this side: documents that are no message, or a Reply that
// failed; that the call itself failed is told by Outcome.Status.
func Do(ctx context.Context, conn grpc.ClientConnInterface, r Request) (Outcome, error) {
	out := Outcome{Status: status.New(codes.OK, "")}
	ctx, out.Trace = traced(ctx)
	if len(r.Metadata) > 0 {
		ctx = metadata.NewOutgoingContext(ctx, r.Metadata)
	}
	var err error
	began := time.Now()
	if r.Method.IsStreamingClient() || r.Method.IsStreamingServer() {
		err = out.stream(ctx, conn, r)
	} else {
		err = out.unary(ctx, conn, r)
	}
	out.Took = time.Since(began)
	var local *problem.Error
	var failed *ReplyError
	if errors.As(err, &local) || errors.As(err, &failed) {
		return out, err
	}
	if err != nil {
		out.Status = status.Convert(err)
	}
	return out, nil
}

// ReplyError says that a reply could not be handed on.
type ReplyError struct{ Err error }

// Error returns the cause's text.
func (e *ReplyError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *ReplyError) Unwrap() error { return e.Err }

// traced gives a call a trace id that logs and traces of all services it reaches will carry.
func traced(ctx context.Context) (context.Context, string) {
	var id trace.TraceID
	var span trace.SpanID
	_, _ = rand.Read(id[:]) // never fails
	_, _ = rand.Read(span[:])
	sc := trace.NewSpanContext(trace.SpanContextConfig{TraceID: id, SpanID: span, TraceFlags: trace.FlagsSampled})
	return trace.ContextWithSpanContext(ctx, sc), id.String()
}

func (o *Outcome) options(p *peer.Peer) []grpc.CallOption {
	return []grpc.CallOption{grpc.Peer(p), grpc.Header(&o.Header), grpc.Trailer(&o.Trailer)}
}

func (o *Outcome) unary(ctx context.Context, conn grpc.ClientConnInterface, r Request) error {
	msg, err := r.only()
	if err != nil {
		return err
	}
	var p peer.Peer
	reply := dynamicpb.NewMessage(r.Method.Output())
	err = conn.Invoke(ctx, Path(r.Method), msg, reply, o.options(&p)...)
	o.from(&p)
	if err != nil {
		return err
	}
	return o.reply(r, reply)
}

func (o *Outcome) from(p *peer.Peer) {
	if p.Addr != nil {
		o.Peer = p.Addr.String()
	}
}

func (o *Outcome) reply(r Request, msg proto.Message) error {
	o.Messages++
	if err := r.Reply(msg); err != nil {
		return &ReplyError{err}
	}
	return nil
}

// only returns the one message of a call that takes one.
func (r Request) only() (proto.Message, error) {
	if r.Documents == nil {
		return dynamicpb.NewMessage(r.Method.Input()), nil
	}
	msg, err := r.Documents.Next(r.Method.Input())
	if errors.Is(err, io.EOF) {
		return dynamicpb.NewMessage(r.Method.Input()), nil
	}
	if err != nil {
		return nil, err
	}
	if _, err := r.Documents.Next(r.Method.Input()); !errors.Is(err, io.EOF) {
		return nil, &problem.Error{
			Exit: problem.Usage, What: fmt.Sprintf("%s takes one %s, and %s has more", r.Method.Name(), r.Method.Input().Name(), r.Documents.name),
			Fix: "one call for each",
		}
	}
	return msg, nil
}

// stream sends all documents and takes all replies, both at the same time.
func (o *Outcome) stream(ctx context.Context, conn grpc.ClientConnInterface, r Request) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	first, err := r.first()
	if err != nil {
		return err
	}
	var p peer.Peer
	desc := &grpc.StreamDesc{StreamName: string(r.Method.Name()), ClientStreams: r.Method.IsStreamingClient(), ServerStreams: r.Method.IsStreamingServer()}
	s, err := conn.NewStream(ctx, desc, Path(r.Method), o.options(&p)...)
	if err != nil {
		o.from(&p)
		return err
	}
	sent := make(chan error, 1)
	go func() {
		err := r.send(s, first)
		if err != nil {
			cancel() // nothing more is to come
		}
		sent <- err
	}()
	err = o.receive(s, r)
	if sp, ok := peer.FromContext(s.Context()); ok {
		o.from(sp)
	}
	o.from(&p)
	select {
	case sendErr := <-sent:
		if sendErr != nil {
			return sendErr
		}
	default: // it waits for input that nobody needs any more
	}
	return err
}

// first is the message to begin with; nil when there is none. It is read before the call is made, so that documents that are
// no messages make none.
func (r Request) first() (proto.Message, error) {
	if !r.Method.IsStreamingClient() {
		return r.only()
	}
	if r.Documents == nil {
		return nil, nil
	}
	msg, err := r.Documents.Next(r.Method.Input())
	if errors.Is(err, io.EOF) {
		return nil, nil
	}
	return msg, err
}

func (r Request) send(s grpc.ClientStream, first proto.Message) error {
	for msg := first; msg != nil; {
		if err := s.SendMsg(msg); err != nil {
			return nil //nolint:nilerr // whoever receives learns why
		}
		if !r.Method.IsStreamingClient() {
			break
		}
		next, err := r.Documents.Next(r.Method.Input())
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		msg = next
	}
	_ = s.CloseSend() // whoever receives learns why
	return nil
}

func (o *Outcome) receive(s grpc.ClientStream, r Request) error {
	for {
		reply := dynamicpb.NewMessage(r.Method.Output())
		err := s.RecvMsg(reply)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := o.reply(r, reply); err != nil {
			return err
		}
		if !r.Method.IsStreamingServer() {
			return nil
		}
	}
}
