package balancer_test

import (
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	grpcbalancer "google.golang.org/grpc/balancer"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/resolver"

	"github.com/newsvc/newsvc/framework/client/internal/balancer"
	"github.com/newsvc/newsvc/framework/internal/backoff"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// clientConn stands for gRPC: it keeps what the policy asks for and says.
type clientConn struct {
	grpcbalancer.ClientConn
	state grpcbalancer.State
	conns []*subConn
}

func (c *clientConn) NewSubConn(addrs []resolver.Address, o grpcbalancer.NewSubConnOptions) (grpcbalancer.SubConn, error) {
	sc := &subConn{addr: addrs[0].Addr, tell: o.StateListener}
	c.conns = append(c.conns, sc)
	return sc, nil
}

func (c *clientConn) UpdateState(s grpcbalancer.State) { c.state = s }

func (c *clientConn) ResolveNow(resolver.ResolveNowOptions) {}

// subConn is a connection in whose place the test speaks.
type subConn struct {
	grpcbalancer.SubConn
	addr     string
	up, down bool
	tell     func(grpcbalancer.SubConnState)
	health   func(grpcbalancer.SubConnState)
}

func (s *subConn) Connect() {}

func (s *subConn) Shutdown() { s.down = true }

func (s *subConn) RegisterHealthListener(f func(grpcbalancer.SubConnState)) { s.health = f }

func in(s connectivity.State) grpcbalancer.SubConnState {
	return grpcbalancer.SubConnState{ConnectivityState: s}
}

func of(addrs ...string) grpcbalancer.ClientConnState {
	var e resolver.Endpoint
	for _, a := range addrs {
		e.Addresses = append(e.Addresses, resolver.Address{Addr: a})
	}
	return grpcbalancer.ClientConnState{ResolverState: resolver.State{Endpoints: []resolver.Endpoint{e}}}
}

func build(t *testing.T, s grpcbalancer.ClientConnState) (*clientConn, grpcbalancer.Balancer) {
	t.Helper()
	cc := &clientConn{}
	b := grpcbalancer.Get(balancer.Name).Build(cc, grpcbalancer.BuildOptions{})
	if err := b.UpdateClientConnState(s); err != nil {
		t.Fatal(err)
	}
	return cc, b
}

func TestTheHealthOfAnEndpointIsThatOfTheConnectionItKeeps(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		cc, b := build(t, of("10.0.0.1:1", "10.0.0.2:1"))
		defer b.Close()
		cc.conns[0].tell(in(connectivity.Connecting))
		if err := backoff.Sleep(t.Context(), time.Second); err != nil { // the second address is tried, too
			t.Fatal(err)
		}
		synctest.Wait()
		if len(cc.conns) != 2 {
			t.Fatalf("%d connections, want 2", len(cc.conns))
		}
		kept, spare := cc.conns[0], cc.conns[1]
		spare.tell(in(connectivity.Connecting))
		kept.tell(in(connectivity.Ready))
		spare.tell(in(connectivity.Ready)) // was on its way when the other won
		spare.tell(in(connectivity.Shutdown))
		kept.health(in(connectivity.Ready))
		if cc.state.ConnectivityState != connectivity.Ready {
			t.Errorf("with a healthy connection the endpoint is %v", cc.state.ConnectivityState)
		}
		kept.health(in(connectivity.TransientFailure))
		kept.tell(in(connectivity.Idle))
		synctest.Wait() // it is connected again in the background
		if cc.state.ConnectivityState == connectivity.Ready {
			t.Error("READY without a connection")
		}
	})
}

func TestAPolicyThatIsReplacedByItsLikeLeavesTheObserverToIt(t *testing.T) {
	t.Parallel()
	woken := 0
	var o balancer.Observer
	o.Notify(func() { woken++ })
	state := of("10.0.0.1:1")
	state.ResolverState = o.With(state.ResolverState)
	_, former := build(t, state)
	_, present := build(t, state)
	former.Close()
	if n := len(o.Endpoints()); n != 1 {
		t.Errorf("%d endpoints are seen of the policy that is there, want 1", n)
	}
	before := woken
	present.Close()
	if o.Endpoints() != nil || woken != before+1 {
		t.Errorf("after the last policy: %v, woken %d times, want 1", o.Endpoints(), woken-before)
	}
}
