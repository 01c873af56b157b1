package server_test

import (
	"context"
	"errors"
	"io"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/newsvc/newsvc/framework/server"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	echoService = "test.Echo"
	unaryMethod = "/test.Echo/Call"
	bidiMethod  = "/test.Echo/Chat"
	watchMethod = "/test.Echo/Watch"
)

// echo is a service whose methods do what the test says.
type echo struct {
	call  func(context.Context, *wrapperspb.StringValue) (*wrapperspb.StringValue, error)
	chat  func(grpc.ServerStream) error
	watch func(grpc.ServerStream) error
}

func (e *echo) desc() *grpc.ServiceDesc {
	return &grpc.ServiceDesc{
		ServiceName: echoService,
		Methods: []grpc.MethodDesc{{MethodName: "Call", Handler: func(srv any, ctx context.Context, dec func(any) error, ic grpc.UnaryServerInterceptor) (any, error) {
			in := new(wrapperspb.StringValue)
			if err := dec(in); err != nil {
				return nil, err
			}
			call := e.call
			if call == nil {
				call = func(_ context.Context, in *wrapperspb.StringValue) (*wrapperspb.StringValue, error) { return in, nil }
			}
			return ic(ctx, in, &grpc.UnaryServerInfo{Server: srv, FullMethod: unaryMethod},
				func(ctx context.Context, req any) (any, error) { return call(ctx, req.(*wrapperspb.StringValue)) })
		}}},
		Streams: []grpc.StreamDesc{
			{StreamName: "Chat", ClientStreams: true, ServerStreams: true, Handler: func(_ any, ss grpc.ServerStream) error { return e.chat(ss) }},
			{StreamName: "Watch", ServerStreams: true, Handler: func(_ any, ss grpc.ServerStream) error { return e.watch(ss) }},
		},
	}
}

// echoAll answers every message until the stream ends.
func echoAll(ss grpc.ServerStream) error {
	for {
		m := new(wrapperspb.StringValue)
		if err := ss.RecvMsg(m); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		if err := ss.SendMsg(m); err != nil {
			return err
		}
	}
}

func params() server.Params {
	p := server.Params{Service: "echo-service", Config: server.DefaultConfig()}
	p.Config.Listen = "127.0.0.1:0"
	return p
}

// start runs a server that serves e, and stops it at the end of the test.
func start(t *testing.T, p server.Params, e *echo) *server.Server {
	t.Helper()
	s := build(t, p)
	s.RegisterService(e.desc(), nil)
	listenAndStart(t, s)
	return s
}

func build(t *testing.T, p server.Params) *server.Server {
	t.Helper()
	s, err := server.New(p)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_ = s.Stop(ctx, 0) // a test that cares has stopped it already
	})
	return s
}

func listenAndStart(t *testing.T, s *server.Server) {
	t.Helper()
	if err := s.Listen(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
}

// dial connects to a server under the authority of its own service, unless the options say otherwise.
func dial(t *testing.T, s *server.Server, opts ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	all := append([]grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithAuthority("echo-service")}, opts...)
	cc, err := grpc.NewClient("passthrough:///"+s.Addr(), all...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cc.Close() })
	return cc
}

func invoke(t *testing.T, cc *grpc.ClientConn, text string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	out := new(wrapperspb.StringValue)
	err := cc.Invoke(ctx, unaryMethod, wrapperspb.String(text), out)
	return out.GetValue(), err
}

// open opens a stream and proves, by one message there and back, that its handler runs.
func open(t *testing.T, cc *grpc.ClientConn, method string) grpc.ClientStream {
	t.Helper()
	cs, err := cc.NewStream(t.Context(), &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, method)
	if err != nil {
		t.Fatal(err)
	}
	if err := cs.SendMsg(wrapperspb.String("hello")); err != nil {
		t.Fatal(err)
	}
	if err := cs.RecvMsg(new(wrapperspb.StringValue)); err != nil {
		t.Fatal(err)
	}
	return cs
}

func stop(t *testing.T, s *server.Server, soft, budget time.Duration) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), budget)
	defer cancel()
	return s.Stop(ctx, soft)
}

// receive waits for a value, at most ten seconds.
func receive[T any](t *testing.T, what string, c <-chan T) T {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	select {
	case v := <-c:
		return v
	case <-ctx.Done():
		t.Fatalf("%s did not happen", what)
		panic("unreachable")
	}
}

// recorder collects lines from several goroutines.
type recorder struct {
	mu    sync.Mutex
	lines []string
}

func (r *recorder) add(line string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lines = append(r.lines, line)
}

func (r *recorder) take() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	lines := r.lines
	r.lines = nil
	return lines
}
