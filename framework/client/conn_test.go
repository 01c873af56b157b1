package client_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/newsvc/newsvc/framework/client"
	"github.com/newsvc/newsvc/framework/internal/loop"
)

func TestOneConnectionPerCallee(t *testing.T) {
	t.Parallel()
	f := newFactory(t, newRegistry(), nil)
	var mu sync.Mutex
	seen := map[*client.Conn]bool{}
	var makers loop.Group
	for range 8 {
		makers.Start(t.Context(), func(context.Context) {
			c, err := f.Conn("user-service")
			mu.Lock()
			defer mu.Unlock()
			seen[c] = true
			if err != nil {
				t.Error(err)
			}
		})
	}
	makers.Stop()
	if other := mustConn(t, f, "order-service"); len(seen) != 1 || seen[other] {
		t.Errorf("%d connections for one callee; one of them for another: %v", len(seen), seen[other])
	}
	if got := f.Callees(); !slices.Equal(got, []string{"order-service", "user-service"}) {
		t.Errorf("Callees = %q", got)
	}
}

func TestNamesThatCannotBeAreRefused(t *testing.T) {
	t.Parallel()
	f := newFactory(t, newRegistry(), nil)
	for _, name := range []string{"", "User", "user_service", "user.service", "-user", "user/x", strings.Repeat("a", 51)} {
		if _, err := f.Conn(name); err == nil {
			t.Errorf("Conn(%q) was accepted", name)
		} else {
			contains(t, err, `"`+name+`" is no service name; write`)
		}
	}
	if _, err := client.NewFactory(client.Params{Caller: "A b"}); err == nil {
		t.Error("a caller named \"A b\" was accepted")
	}
}

func TestWithoutDiscoveryATargetIsNeeded(t *testing.T) {
	t.Parallel()
	_, err := newFactory(t, nil, nil).Conn("user-service")
	if err == nil {
		t.Fatal("a connection without resolver and target was made")
	}
	contains(t, err, `connecting to "user-service": discovery is off; set clients.user-service.target`)
}

func TestTargetsBypassDiscoveryAndKeepTheName(t *testing.T) {
	t.Parallel()
	s := startServer(t, "127.0.0.1:0", nil)
	for _, target := range []string{"static:///" + s.addr, "dns:///" + s.addr} {
		p := client.DefaultPolicy()
		p.Target = target
		f := newFactoryOf(t, client.Params{Caller: "caller", Policies: map[string]client.Policy{"payments.example.com": p}})
		c := mustConn(t, f, "payments.example.com")
		if got, err := call(t.Context(), c, methodPut); err != nil || got != s.addr {
			t.Fatalf("%s: call = %q, %v", target, got, err)
		}
		if got := s.seen.Load(); got != "payments.example.com" {
			t.Errorf("%s: authority = %q", target, got)
		}
		if st := c.State(); st.Target != target || st.Instances != 1 || st.Connectivity != "READY" {
			t.Errorf("%s: state = %+v", target, st)
		}
	}
}

func TestAStaticTargetUsesAllItsInstances(t *testing.T) {
	t.Parallel()
	a, b := startServer(t, "127.0.0.1:0", nil), startServer(t, "127.0.0.1:0", nil)
	c := connect(t, nil, func(p *client.Policy) { p.Target = "static:///" + a.addr + "," + b.addr + "," + a.addr })
	eventually(t, "both have answered", func() bool {
		if _, err := call(t.Context(), c, methodPut); err != nil {
			t.Fatal(err)
		}
		return a.runs.Load() > 0 && b.runs.Load() > 0
	})
	if n := c.State().Instances; n != 2 {
		t.Errorf("%d instances, want 2", n)
	}
}

func TestTheWeightsOfAStaticTargetAreShares(t *testing.T) {
	t.Parallel()
	light, usual, heavy := startServer(t, "127.0.0.1:0", nil), startServer(t, "127.0.0.1:0", nil), startServer(t, "127.0.0.1:0", nil)
	c := connect(t, nil, func(p *client.Policy) {
		p.Target = "static:///" + light.addr + "=50," + usual.addr + "," + heavy.addr + "=200"
	})
	awaitTakers(t, c, 3)
	for range 70 {
		if _, err := call(t.Context(), c, methodPut); err != nil {
			t.Fatal(err)
		}
	}
	for s, want := range map[*server]int64{light: 10, usual: 20, heavy: 40} {
		if n := s.runs.Load(); n < want-1 || n > want+1 {
			t.Errorf("an instance had %d of 70 calls, want %d", n, want)
		}
	}
}

func TestNotServingInstancesAreNotPicked(t *testing.T) {
	t.Parallel()
	a, b := startServer(t, "127.0.0.1:0", nil), startServer(t, "127.0.0.1:0", nil)
	a.health.SetServingStatus("", healthpb.HealthCheckResponse_NOT_SERVING)
	c := connect(t, newRegistry(a.addr, b.addr), nil)
	for range 20 {
		if _, err := call(t.Context(), c, methodPut); err != nil {
			t.Fatal(err)
		}
	}
	if n := a.runs.Load(); n != 0 {
		t.Errorf("an instance that is not serving got %d calls", n)
	}
}

func TestWaitInstancesSaysWhatIsMissing(t *testing.T) {
	t.Parallel()
	s := startServer(t, "127.0.0.1:0", nil)
	r := newRegistry(s.addr)
	c := mustConn(t, newFactory(t, r, nil), "user-service")
	ready(t, c)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	err := c.WaitInstances(ctx, 2)
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("WaitInstances = %v", err)
	}
	contains(t, err, `waiting for 2 instances of "user-service": 1 known at "etcd://caller/user-service", connection READY`)

	waited := make(chan error, 1)
	l := loop.Start(t.Context(), func(ctx context.Context) { waited <- c.WaitInstances(ctx, 2) })
	defer l.Stop()
	r.set(s.addr, startServer(t, "127.0.0.1:0", nil).addr)
	if err := <-waited; err != nil {
		t.Fatal(err)
	}
}

func TestInterceptorsRunOncePerCallOutsideOfRepeats(t *testing.T) {
	t.Parallel()
	s := startServer(t, "127.0.0.1:0", refuse)
	var order []string
	around := func(name string) client.Interceptor {
		return client.Interceptor{
			Unary: func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, next grpc.UnaryInvoker, opts ...grpc.CallOption) error {
				order = append(order, name)
				return next(ctx, method, req, reply, cc, opts...)
			},
			Stream: func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, next grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
				order = append(order, name+" "+cc.Target())
				return next(ctx, desc, cc, method, opts...)
			},
		}
	}
	f := newFactoryOf(t, client.Params{Caller: "caller", Resolver: newRegistry(s.addr),
		Interceptors: func(callee string) []client.Interceptor {
			return []client.Interceptor{around("outer of " + callee), {}, around("inner")}
		}})
	c := mustConn(t, f, "user-service")
	_, err := call(t.Context(), c, methodPut)
	wantCode(t, err, codes.Unavailable)
	stream, err := list(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	wantCode(t, stream.RecvMsg(&wrapperspb.StringValue{}), codes.Unavailable)
	want := []string{"outer of user-service", "inner", "outer of user-service etcd://caller/user-service", "inner etcd://caller/user-service"}
	if !slices.Equal(order, want) {
		t.Errorf("interceptors ran as %q, want %q", order, want)
	}
	if n := s.runs.Load(); n != 8 {
		t.Errorf("%d attempts, want 8", n)
	}
}

func TestCloseWaitsForRunningCalls(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	s := startServer(t, "127.0.0.1:0", func(_ *server, _, _ string, stream grpc.ServerStream) error {
		<-release
		return stream.SendMsg(wrapperspb.String("late"))
	})
	f := newFactory(t, newRegistry(s.addr), nil)
	c := mustConn(t, f, "user-service")
	answers := make(chan error, 2)
	var callers loop.Group
	defer callers.Stop()
	callers.Start(t.Context(), func(ctx context.Context) {
		_, err := call(ctx, c, methodPut)
		answers <- err
	})
	callers.Start(t.Context(), func(ctx context.Context) {
		stream, err := list(ctx, c)
		for err == nil {
			err = stream.RecvMsg(&wrapperspb.StringValue{})
		}
		answers <- err
	})
	eventually(t, "both calls run", func() bool { return s.runs.Load() == 2 })
	closed := make(chan error, 1)
	callers.Start(t.Context(), func(ctx context.Context) { closed <- f.Close(ctx) })
	eventually(t, "the factory closes", func() bool { return c.State().Connectivity == "SHUTDOWN" })
	_, err := call(t.Context(), c, methodGet)
	wantCode(t, err, codes.Canceled)
	contains(t, err, `calling "user-service": the connection was closed`)
	select {
	case err := <-closed:
		t.Fatalf("Close returned %v while calls were running", err)
	default:
	}
	close(release)
	if err := <-closed; err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := <-answers; err != nil && err.Error() != "EOF" {
			t.Errorf("a running call ended with %v", err)
		}
	}
	if _, err := f.Conn("order-service"); err == nil {
		t.Error("a closed factory made a connection")
	}
}

func TestCloseCutsWhatOutlivesItsBudgetAndSaysSo(t *testing.T) {
	t.Parallel()
	s := startServer(t, "127.0.0.1:0", hang)
	f := newFactory(t, newRegistry(s.addr), nil)
	c := mustConn(t, f, "user-service")
	answer := make(chan error, 1)
	l := loop.Start(t.Context(), func(ctx context.Context) {
		_, err := call(ctx, c, methodPut)
		answer <- err
	})
	defer l.Stop()
	eventually(t, "the call runs", func() bool { return s.runs.Load() == 1 })
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	err := f.Close(ctx)
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("Close = %v", err)
	}
	contains(t, err, `closing the connection to "user-service": 1 running calls were cut`)
	wantCode(t, <-answer, codes.Canceled)
}
