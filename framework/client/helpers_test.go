package client_test

import (
	"context"
	"errors"
	"flag"
	"net"
	"os"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/newsvc/newsvc/framework/client"
	"github.com/newsvc/newsvc/framework/internal/backoff"
	"github.com/newsvc/newsvc/framework/internal/loop"
)

const (
	methodGet  = "/clienttest.v1.EchoService/Get"  // unary, NO_SIDE_EFFECTS
	methodPut  = "/clienttest.v1.EchoService/Put"  // unary
	methodList = "/clienttest.v1.EchoService/List" // server streaming
	methodChat = "/clienttest.v1.EchoService/Chat" // bidirectional
)

var (
	listDesc = &grpc.StreamDesc{StreamName: "List", ServerStreams: true}
	chatDesc = &grpc.StreamDesc{StreamName: "Chat", ServerStreams: true, ClientStreams: true}
)

// serveVariable is set for a process that is to be a server and nothing else.
const serveVariable = "CLIENTTEST_SERVE"

func TestMain(m *testing.M) {
	if os.Getenv(serveVariable) != "" {
		os.Exit(serveAlone())
	}
	moreAtOnce(4)
	if err := registerEcho(); err != nil {
		panic(err) // the descriptor below is wrong
	}
	goleak.VerifyTestMain(m)
}

// moreAtOnce lets n tests run in parallel at least, unless a flag says how many: they wait more than they compute, but under
// the race detector.
func moreAtOnce(n int) {
	flag.Parse()
	set := underRace || runtime.GOMAXPROCS(0) >= n
	flag.Visit(func(f *flag.Flag) { set = set || f.Name == "test.parallel" })
	if !set {
		_ = flag.Set("test.parallel", strconv.Itoa(n))
	}
}

// registerEcho links the descriptor of the test service into the process, as generated code would.
func registerEcho() error {
	method := func(name string, level *descriptorpb.MethodOptions_IdempotencyLevel, in, out bool) *descriptorpb.MethodDescriptorProto {
		return &descriptorpb.MethodDescriptorProto{
			Name: proto.String(name), InputType: proto.String(".google.protobuf.StringValue"), OutputType: proto.String(".google.protobuf.StringValue"),
			ClientStreaming: proto.Bool(in), ServerStreaming: proto.Bool(out), Options: &descriptorpb.MethodOptions{IdempotencyLevel: level},
		}
	}
	file, err := protodesc.NewFile(&descriptorpb.FileDescriptorProto{
		Name: proto.String("clienttest/v1/echo.proto"), Package: proto.String("clienttest.v1"), Syntax: proto.String("proto3"),
		Dependency: []string{"google/protobuf/wrappers.proto"},
		Service: []*descriptorpb.ServiceDescriptorProto{{Name: proto.String("EchoService"), Method: []*descriptorpb.MethodDescriptorProto{
			method("Get", descriptorpb.MethodOptions_NO_SIDE_EFFECTS.Enum(), false, false),
			method("Put", nil, false, false), method("List", nil, false, true), method("Chat", nil, true, true),
		}}},
	}, protoregistry.GlobalFiles)
	if err != nil {
		return err
	}
	return protoregistry.GlobalFiles.RegisterFile(file)
}

// handler answers one call; in is the first message, or "" for Chat.
type handler func(s *server, method, in string, stream grpc.ServerStream) error

// server is a real gRPC server on loopback that counts what reaches its handler.
type server struct {
	*grpc.Server
	addr  string
	runs  atomic.Int64
	conns atomic.Int64 // accepted
	seen  atomic.Value // the last :authority

	health *health.Server
}

type countingListener struct {
	net.Listener
	accepted *atomic.Int64
}

func (l countingListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		l.accepted.Add(1)
	}
	return c, err
}

// startServer serves on addr (127.0.0.1:0 for any port) until the test ends. A nil handler answers with the address.
func startServer(t testing.TB, addr string, h handler, opts ...grpc.ServerOption) *server {
	t.Helper()
	if h == nil {
		h = answerAddr
	}
	var lc net.ListenConfig
	lis, err := lc.Listen(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	s := &server{addr: lis.Addr().String()}
	s.Server = grpc.NewServer(append(opts, grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) error {
		method, _ := grpc.MethodFromServerStream(stream)
		if md, ok := metadata.FromIncomingContext(stream.Context()); ok && len(md[":authority"]) > 0 {
			s.seen.Store(md[":authority"][0])
		}
		s.runs.Add(1)
		in := &wrapperspb.StringValue{}
		if method != methodChat {
			if err := stream.RecvMsg(in); err != nil {
				return err
			}
		}
		return h(s, method, in.GetValue(), stream)
	}))...)
	s.health = health.NewServer()
	healthpb.RegisterHealthServer(s, s.health)
	l := loop.Start(context.WithoutCancel(t.Context()), func(context.Context) { _ = s.Serve(countingListener{lis, &s.conns}) })
	t.Cleanup(func() {
		s.Stop()
		l.Stop()
	})
	return s
}

func answerAddr(s *server, _, _ string, stream grpc.ServerStream) error {
	return stream.SendMsg(wrapperspb.String(s.addr))
}

// hang answers nothing until the call is cancelled.
func hang(_ *server, _, _ string, stream grpc.ServerStream) error {
	<-stream.Context().Done()
	return stream.Context().Err()
}

// registry is a resolver.Builder of scheme "etcd" over a list that the test sets.
type registry struct {
	mu    sync.Mutex
	conns map[*registration]resolver.ClientConn
	state *resolver.State
	err   error
}

type registration struct{ r *registry }

func newRegistry(addrs ...string) *registry {
	r := &registry{conns: map[*registration]resolver.ClientConn{}}
	if len(addrs) > 0 {
		r.set(addrs...)
	}
	return r
}

func (r *registry) Scheme() string { return "etcd" }

func (r *registry) Build(_ resolver.Target, cc resolver.ClientConn, _ resolver.BuildOptions) (resolver.Resolver, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	reg := &registration{r}
	r.conns[reg] = cc
	r.sendLocked()
	return reg, nil
}

func (r *registry) sendLocked() {
	for _, cc := range r.conns {
		if r.state != nil {
			_ = cc.UpdateState(*r.state)
		}
		if r.err != nil {
			cc.ReportError(r.err)
		}
	}
}

func (r *registry) set(addrs ...string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	eps := make([]resolver.Endpoint, 0, len(addrs))
	for _, a := range addrs {
		eps = append(eps, resolver.Endpoint{Addresses: []resolver.Address{{Addr: a}}})
	}
	r.state, r.err = &resolver.State{Endpoints: eps}, nil
	r.sendLocked()
}

func (r *registry) fail(text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.err = errors.New(text)
	r.sendLocked()
}

func (g *registration) ResolveNow(resolver.ResolveNowOptions) {}

func (g *registration) Close() {
	g.r.mu.Lock()
	defer g.r.mu.Unlock()
	delete(g.r.conns, g)
}

// newFactory makes a factory that is closed with the test. change may alter the default policy.
func newFactory(t testing.TB, r resolver.Builder, change func(*client.Policy)) *client.Factory {
	t.Helper()
	p := client.DefaultPolicy()
	if change != nil {
		change(&p)
	}
	return newFactoryOf(t, client.Params{Caller: "caller", Resolver: r, Default: p})
}

func newFactoryOf(t testing.TB, p client.Params) *client.Factory {
	t.Helper()
	f, err := client.NewFactory(p)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
		cancel() // what a test left running is cut
		_ = f.Close(ctx)
	})
	return f
}

func mustConn(t testing.TB, f *client.Factory, callee string) *client.Conn {
	t.Helper()
	c, err := f.Conn(callee)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// connect makes a factory and a connection that is ready.
func connect(t testing.TB, r resolver.Builder, change func(*client.Policy)) *client.Conn {
	t.Helper()
	c := mustConn(t, newFactory(t, r, change), "user-service")
	ready(t, c)
	return c
}

func ready(t testing.TB, c *client.Conn) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := c.WaitInstances(ctx, 1); err != nil {
		t.Fatal(err)
	}
}

// call makes a unary call and returns the answer.
func call(ctx context.Context, c grpc.ClientConnInterface, method string, opts ...grpc.CallOption) (string, error) {
	out := &wrapperspb.StringValue{}
	err := c.Invoke(ctx, method, wrapperspb.String("x"), out, opts...)
	return out.GetValue(), err
}

// list opens a server stream as generated code does.
func list(ctx context.Context, c grpc.ClientConnInterface) (grpc.ClientStream, error) {
	s, err := c.NewStream(ctx, listDesc, methodList)
	if err != nil {
		return nil, err
	}
	if err := s.SendMsg(wrapperspb.String("x")); err != nil {
		return nil, err
	}
	return s, s.CloseSend()
}

// pause waits for d, or for the end of the test.
func pause(t testing.TB, d time.Duration) {
	t.Helper()
	if err := backoff.Sleep(t.Context(), d); err != nil {
		t.Fatal(err)
	}
}

// eventually waits until cond holds.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for !cond() {
		if err := backoff.Sleep(ctx, 2*time.Millisecond); err != nil {
			t.Fatalf("waiting until %s: %v", what, err)
		}
	}
}

func wantCode(t testing.TB, err error, code codes.Code) {
	t.Helper()
	if status.Code(err) != code {
		t.Fatalf("error = %v, want code %v", err, code)
	}
}
