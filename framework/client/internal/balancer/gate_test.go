package balancer_test

import (
	"testing"

	"google.golang.org/grpc/attributes"
	grpcbalancer "google.golang.org/grpc/balancer"
	"google.golang.org/grpc/connectivity"

	"github.com/newsvc/newsvc/framework/client/internal/balancer"
)

// runBy is a state with one address, behind which is that process.
func runBy(incarnation string, f balancer.Filter) grpcbalancer.ClientConnState {
	s := of("10.0.0.1:1")
	s.ResolverState.Endpoints[0].Addresses[0].Attributes = attributes.New("incarnation", incarnation)
	s.ResolverState = balancer.WithFilter(s.ResolverState, f)
	return s
}

// A connection to who was there before may still be on its way when it is given up, and it is kept for a moment then.
func TestAConnectionThatWasGivenUpOnItsWayDoesNotTakeThePlaceOfTheNextOne(t *testing.T) {
	t.Parallel()
	f := &recorder{}
	cc, b := build(t, runBy("former", f))
	defer b.Close()
	former := cc.conns[0]
	former.tell(in(connectivity.Connecting))
	if err := b.UpdateClientConnState(runBy("present", f)); err != nil {
		t.Fatal(err)
	}
	if len(cc.conns) != 2 {
		t.Fatalf("%d connections, want one for each process", len(cc.conns))
	}
	present := cc.conns[1]
	present.tell(in(connectivity.Connecting))
	former.tell(in(connectivity.Ready)) // the new process answers it, too
	present.tell(in(connectivity.Ready))
	if former.health != nil {
		t.Error("the health of the connection that was given up is followed")
	}
	if i := f.all["10.0.0.1:1"]; i.Conn() != present {
		t.Error("the instance has not the connection that is kept")
	}
	if present.health != nil {
		present.health(in(connectivity.Ready))
	}
	former.tell(in(connectivity.Shutdown))
	if cc.state.ConnectivityState != connectivity.Ready {
		t.Errorf("with a connection that is ready and healthy the endpoint is %v", cc.state.ConnectivityState)
	}
	if i := f.all["10.0.0.1:1"]; i.Conn() != present {
		t.Error("the instance has lost its connection with the former one")
	}
}
