package grpcresolver_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/newsvc/newsvc/framework/discovery"
	"github.com/newsvc/newsvc/framework/discovery/discoverytest"
	"github.com/newsvc/newsvc/framework/grpcresolver"
)

// server is a real gRPC server on loopback.
type server struct {
	*grpc.Server
	addr  string
	conns atomic.Int32 // accepted so far
	ended chan struct{}
}

type counted struct {
	net.Listener
	n *atomic.Int32
}

func (c counted) Accept() (net.Conn, error) {
	conn, err := c.Listener.Accept()
	if err == nil {
		c.n.Add(1)
	}
	return conn, err
}

func serve(t *testing.T, addr string) *server {
	t.Helper()
	lis, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	s := &server{Server: grpc.NewServer(), addr: lis.Addr().String(), ended: make(chan struct{})}
	healthpb.RegisterHealthServer(s, health.NewServer())
	go func() {
		defer close(s.ended)
		_ = s.Serve(counted{lis, &s.conns})
	}()
	t.Cleanup(func() { s.Stop(); <-s.ended })
	return s
}

func dial(t *testing.T, c grpcresolver.Cache, opts ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	opts = append([]grpc.DialOption{
		grpc.WithResolvers(grpcresolver.NewBuilder(c, grpcresolver.Options{Where: "the test registry"})),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithNoProxy(),
		grpc.WithDefaultServiceConfig(`{"loadBalancingConfig":[{"round_robin":{}}]}`),
	}, opts...)
	conn, err := grpc.NewClient("etcd://gateway/"+callee, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// call makes one call and returns the address that answered.
func call(ctx context.Context, conn *grpc.ClientConn, opts ...grpc.CallOption) (string, error) {
	var p peer.Peer
	_, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{}, append(opts, grpc.Peer(&p))...)
	if err != nil {
		return "", err
	}
	return p.Addr.String(), nil
}

// callUntil makes calls, none of which may fail, until exactly the given servers answer 20 calls in a row.
func callUntil(t *testing.T, conn *grpc.ClientConn, want ...*server) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for {
		answered := map[string]bool{}
		for range 20 {
			addr, err := call(ctx, conn, grpc.WaitForReady(true))
			if err != nil {
				t.Fatalf("call: %v", err)
			}
			answered[addr] = true
		}
		all := len(answered) == len(want)
		for _, s := range want {
			all = all && answered[s.addr]
		}
		if all {
			return
		}
	}
}

func TestCallsFollowTheInstances(t *testing.T) {
	t.Parallel()
	r := discoverytest.NewRegistry()
	c := newCache(t, r)
	one, two := serve(t, "127.0.0.1:0"), serve(t, "127.0.0.1:0")
	r.Put(instance(one.addr), instance(two.addr))
	conn := dial(t, c)
	callUntil(t, conn, one, two)

	leaving := instance(one.addr)
	leaving.State = discovery.StateDraining
	r.Put(leaving)
	callUntil(t, conn, two)
	r.Drop(callee, one.addr)
	one.GracefulStop()
	three := serve(t, "127.0.0.1:0")
	r.Put(instance(three.addr))
	callUntil(t, conn, two, three)

	r.DropAll(callee) // the registry forgets them, and they are alive
	four := serve(t, "127.0.0.1:0")
	r.Put(instance(four.addr))
	callUntil(t, conn, two, three, four)
}

func TestB18MetadataDoesNotReconnect(t *testing.T) {
	t.Parallel()
	r := discoverytest.NewRegistry()
	c := newCache(t, r)
	s := serve(t, "127.0.0.1:0")
	r.Put(instance(s.addr))
	conn := dial(t, c)
	callUntil(t, conn, s)
	w := discoverytest.NewWatcher(t, c, callee, nil)
	for weight := range 100 {
		i := instance(s.addr)
		i.Weight, i.Zone, i.Metadata = weight+1, "z2", map[string]string{"team": "red"}
		r.Put(i)
		if weight%10 == 0 {
			w.Wait("the weight", func(u discovery.Update) bool { return len(u.Instances) == 1 && u.Instances[0].Weight == weight+1 })
			callUntil(t, conn, s)
		}
	}
	if n := s.conns.Load(); n != 1 {
		t.Errorf("%d connections were made, want 1", n)
	}
}

func TestCallsAgainstASilentSourceSayWhy(t *testing.T) {
	t.Parallel()
	for name, wait := range map[string]bool{"waiting": true, "failing fast": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn := dial(t, newFed())
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			defer cancel()
			start := time.Now()
			_, err := call(ctx, conn, grpc.WaitForReady(wait))
			if d := time.Since(start); d > 2*time.Second {
				t.Errorf("the call took %v, want 300 ms", d)
			}
			if code := status.Code(err); code != codes.DeadlineExceeded && code != codes.Unavailable {
				t.Errorf("code = %v, want DeadlineExceeded or Unavailable", code)
			}
			if err == nil || !strings.Contains(err.Error(), `no instances of "user-service" known in the test registry`) {
				t.Errorf("error %v does not say why", err)
			}
			start = time.Now()
			_ = conn.Close()
			if d := time.Since(start); d > time.Second {
				t.Errorf("Close took %v", d)
			}
		})
	}
}

func TestACallWaitsForTheFirstInstance(t *testing.T) {
	t.Parallel()
	r := discoverytest.NewRegistry()
	r.SetErr(errors.New("etcd is away"))
	conn := dial(t, newCache(t, r))
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if _, err := call(ctx, conn); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "etcd is away") {
		t.Errorf("a call that does not wait = %v, want UNAVAILABLE with the source's error", err)
	}
	answer := make(chan error, 1)
	go func() {
		_, err := call(ctx, conn, grpc.WaitForReady(true))
		answer <- err
	}()
	r.Put(instance(serve(t, "127.0.0.1:0").addr))
	r.SetErr(nil)
	if err := <-answer; err != nil {
		t.Errorf("a call that waits = %v, want nil", err)
	}
}

func TestB27IdleCyclesLeaveNothingBehind(t *testing.T) {
	t.Parallel()
	r := discoverytest.NewRegistry()
	c := newCache(t, r)
	s := serve(t, "127.0.0.1:0")
	r.Put(instance(s.addr))
	conn := dial(t, c, grpc.WithIdleTimeout(5*time.Millisecond))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for range full(1000, 60) {
		if _, err := call(ctx, conn, grpc.WaitForReady(true)); err != nil {
			t.Fatalf("call: %v", err)
		}
		for st := conn.GetState(); st != connectivity.Idle; st = conn.GetState() {
			if !conn.WaitForStateChange(ctx, st) {
				t.Fatalf("the connection is %v, want it to become idle", st)
			}
		}
	}
	_ = conn.Close()
	if st := c.State(); len(st) != 1 || st[0].Watchers != 0 || r.Watches(callee) != 1 {
		t.Errorf("state = %+v with %d watches of the source, want one that lingers", st, r.Watches(callee))
	}
}
