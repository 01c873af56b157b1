package client_test

import (
	"context"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/newsvc/newsvc/framework/client"
)

// slowHealth makes the health service of a server answer only once released is closed.
func slowHealth(released <-chan struct{}) grpc.ServerOption {
	return grpc.StreamInterceptor(func(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, h grpc.StreamHandler) error {
		if info.FullMethod == healthpb.Health_Watch_FullMethodName {
			select {
			case <-released:
			case <-ss.Context().Done():
			}
		}
		return h(srv, ss)
	})
}

func mustCall(t *testing.T, c grpc.ClientConnInterface) string {
	t.Helper()
	addr, err := call(t.Context(), c, methodPut)
	if err != nil {
		t.Fatal(err)
	}
	return addr
}

func TestAnInstanceThatJoinsTakesCallsBeforeItsHealthIsKnown(t *testing.T) {
	t.Parallel()
	never := make(chan struct{})
	first, joined := startServer(t, "127.0.0.1:0", nil), startServer(t, "127.0.0.1:0", nil, slowHealth(never))
	r := newRegistry(first.addr)
	c := connect(t, r, nil)
	mustCall(t, c)
	r.set(first.addr, joined.addr)
	eventually(t, "the joined instance has answered", func() bool { return mustCall(t, c) == joined.addr })
}

func TestAnInstanceThatWasThereBeforeIsAskedForItsHealthFirst(t *testing.T) {
	t.Parallel()
	released := make(chan struct{})
	first, slow := startServer(t, "127.0.0.1:0", nil), startServer(t, "127.0.0.1:0", nil, slowHealth(released))
	c := connect(t, newRegistry(first.addr, slow.addr), nil)
	eventually(t, "both are connected", func() bool { return slow.conns.Load() == 1 })
	pause(t, 30*time.Millisecond) // long enough for it to be ready but for its health
	for range 20 {
		if addr := mustCall(t, c); addr != first.addr {
			t.Fatalf("%s answered; its health was not known", addr)
		}
	}
	close(released)
	eventually(t, "the other has answered", func() bool { return mustCall(t, c) == slow.addr })
}

func TestAnInstanceThatIsConnectedAgainIsAskedForItsHealthFirst(t *testing.T) {
	t.Parallel()
	var cut atomic.Pointer[net.Conn]
	first, joined := startServer(t, "127.0.0.1:0", nil), startServer(t, "127.0.0.1:0", nil)
	r := newRegistry(first.addr)
	f := newFactoryOf(t, client.Params{Caller: "caller", Resolver: r, Dialer: func(ctx context.Context, addr string) (net.Conn, error) {
		var d net.Dialer
		conn, err := d.DialContext(ctx, "tcp", addr)
		if err == nil && addr == joined.addr {
			cut.Store(&conn)
		}
		return conn, err
	}})
	c := mustConn(t, f, "user-service")
	ready(t, c)
	r.set(first.addr, joined.addr)
	eventually(t, "the joined instance has answered", func() bool { return mustCall(t, c) == joined.addr })
	joined.health.SetServingStatus("", healthpb.HealthCheckResponse_NOT_SERVING)
	eventually(t, "it is no longer picked", func() bool { return !takesCalls(c, joined.addr) })
	before := joined.runs.Load()
	_ = (*cut.Load()).Close()
	eventually(t, "it is connected again", func() bool {
		mustCall(t, c)
		return joined.conns.Load() == 2
	})
	for range 50 {
		mustCall(t, c)
	}
	if n := joined.runs.Load() - before; n != 0 {
		t.Errorf("an instance that does not serve got %d calls after it was connected again", n)
	}
}

func takesCalls(c *client.Conn, addr string) bool {
	for _, e := range c.Endpoints() {
		if e.Addr == addr {
			return e.Connectivity == "READY"
		}
	}
	return false
}

func TestAnInstanceThatStopsServingIsLeftAndTakenUpAgain(t *testing.T) {
	t.Parallel()
	a, b := startServer(t, "127.0.0.1:0", nil), startServer(t, "127.0.0.1:0", nil)
	c := connect(t, newRegistry(a.addr, b.addr), nil)
	eventually(t, "both take calls", func() bool { return takesCalls(c, a.addr) && takesCalls(c, b.addr) })
	for range 3 {
		b.health.SetServingStatus("", healthpb.HealthCheckResponse_NOT_SERVING)
		eventually(t, "it is left", func() bool { return !takesCalls(c, b.addr) })
		for range 10 {
			if addr := mustCall(t, c); addr != a.addr {
				t.Fatalf("%s answered, which does not serve", addr)
			}
		}
		b.health.SetServingStatus("", healthpb.HealthCheckResponse_SERVING)
		eventually(t, "it has answered again", func() bool { return mustCall(t, c) == b.addr })
	}
}

func TestEndpointsTellWhyAnInstanceIsNotUsed(t *testing.T) {
	t.Parallel()
	a, sick := startServer(t, "127.0.0.1:0", nil), startServer(t, "127.0.0.1:0", nil)
	sick.health.SetServingStatus("", healthpb.HealthCheckResponse_NOT_SERVING)
	gone := startServer(t, "127.0.0.1:0", nil)
	gone.Stop()
	c := connect(t, newRegistry(a.addr, sick.addr, gone.addr), nil)
	for addr, want := range map[string]struct{ state, text string }{
		a.addr:    {"READY", ""},
		sick.addr: {"TRANSIENT_FAILURE", "NOT_SERVING"},
		gone.addr: {"TRANSIENT_FAILURE", "refused"},
	} {
		eventually(t, addr+" is "+want.state, func() bool {
			for _, e := range c.Endpoints() {
				if e.Addr == addr {
					return e.Connectivity == want.state && strings.Contains(e.Error, want.text)
				}
			}
			return false
		})
	}
}

func TestWaitInstancesCountsThoseThatTakeCalls(t *testing.T) {
	t.Parallel()
	a, b := startServer(t, "127.0.0.1:0", nil), startServer(t, "127.0.0.1:0", nil)
	b.health.SetServingStatus("", healthpb.HealthCheckResponse_NOT_SERVING)
	c := connect(t, newRegistry(a.addr, b.addr), nil)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := c.WaitInstances(ctx, 2); err == nil {
		t.Fatal("two instances were reported, one of which does not serve")
	} else {
		contains(t, err, "2 known")
		contains(t, err, "taking calls: 1")
	}
	b.health.SetServingStatus("", healthpb.HealthCheckResponse_SERVING)
	ctx, cancel = context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := c.WaitInstances(ctx, 2); err != nil {
		t.Fatal(err)
	}
}

func TestABalancerThatIsReplacedTellsNothingAnyMore(t *testing.T) {
	t.Parallel()
	s := startServer(t, "127.0.0.1:0", nil)
	f := newFactory(t, newRegistry(s.addr), nil)
	c := mustConn(t, f, "user-service")
	ready(t, c)
	if n := len(c.Endpoints()); n != 1 {
		t.Fatalf("%d endpoints, want 1", n)
	}
	p := client.DefaultPolicy()
	p.Balancer = client.PickFirst
	if err := f.Update("user-service", p); err != nil {
		t.Fatal(err)
	}
	eventually(t, "pick_first is at work", func() bool { return c.Endpoints() == nil })
	ready(t, c)
	mustCall(t, c)
}

func TestInstancesThatAllStopServingAreUsedUntilTheyAreGone(t *testing.T) {
	t.Parallel()
	a, b := startServer(t, "127.0.0.1:0", nil), startServer(t, "127.0.0.1:0", nil)
	r := newRegistry(a.addr, b.addr)
	c := connect(t, r, nil)
	eventually(t, "both take calls", func() bool { return takesCalls(c, a.addr) && takesCalls(c, b.addr) })
	a.health.Shutdown()
	b.health.Shutdown()
	eventually(t, "none takes calls", func() bool { return !takesCalls(c, a.addr) && !takesCalls(c, b.addr) })
	seen := map[string]int{}
	for range 10 {
		seen[mustCall(t, c)]++
	}
	if seen[a.addr] != 5 || seen[b.addr] != 5 {
		t.Errorf("who answered: %v, want each of two in turn", seen)
	}
	for _, e := range c.Endpoints() {
		if !e.LastResort || !strings.Contains(e.Error, "does not serve") {
			t.Errorf("it takes calls, and the endpoints say %+v", e)
		}
	}
	next := startServer(t, "127.0.0.1:0", nil)
	r.set(a.addr, b.addr, next.addr)
	eventually(t, "the newcomer takes calls", func() bool { return takesCalls(c, next.addr) })
	for range 10 {
		if addr := mustCall(t, c); addr != next.addr {
			t.Fatalf("%s answered though another instance serves", addr)
		}
	}
	for _, e := range c.Endpoints() {
		if e.LastResort {
			t.Errorf("another instance serves, and the endpoints say %+v", e)
		}
	}
}

func TestAnInstanceThatNeverServedIsNoLastResort(t *testing.T) {
	t.Parallel()
	s := startServer(t, "127.0.0.1:0", nil)
	s.health.SetServingStatus("", healthpb.HealthCheckResponse_NOT_SERVING)
	c := mustConn(t, newFactory(t, newRegistry(s.addr), nil), "user-service")
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := call(ctx, c, methodPut); err == nil {
		t.Error("an instance that never served answered")
	}
	s.health.SetServingStatus("", healthpb.HealthCheckResponse_SERVING)
	mustCall(t, c)
}
