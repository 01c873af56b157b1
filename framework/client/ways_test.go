package client_test

import (
	"testing"

	"github.com/newsvc/newsvc/framework/client"
)

// The policies change places while both have instances at the same addresses; who leaves takes nothing from who stays.
func TestTheWayToAnInstanceIsKnownWhileAnyPolicyUsesIt(t *testing.T) {
	t.Parallel()
	a, b := startServer(t, "127.0.0.1:0", nil), startServer(t, "127.0.0.1:0", nil)
	r := newRegistry(a.addr, b.addr)
	f := newFactory(t, r, nil)
	c := mustConn(t, f, "user-service")
	ready(t, c)
	awaitTakers(t, c, 2)
	for range 20 {
		update(t, f, func(p *client.Policy) { p.Balancer = client.PickFirst })
		update(t, f, func(*client.Policy) {})
	}
	eventually(t, "the ways to both are known again", func() bool {
		addresses, known := client.Ways(c)
		return addresses == 2 && known == 2
	})
	r.set(a.addr)
	eventually(t, "who has left is forgotten", func() bool {
		addresses, _ := client.Ways(c)
		return addresses == 1
	})
	update(t, f, func(p *client.Policy) { p.Balancer = client.PickFirst })
	eventually(t, "a policy without instances is told of no ways", func() bool {
		addresses, _ := client.Ways(c)
		return addresses == 0
	})
	r.set(b.addr)
	eventually(t, "the other one answers", func() bool { return mustCall(t, c) == b.addr })
	if addresses, _ := client.Ways(c); addresses != 0 {
		t.Errorf("%d addresses are kept with pick_first, which never says who is gone", addresses)
	}
}
