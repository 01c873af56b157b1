package etcd_test

import (
	"testing"
	"time"

	"github.com/newsvc/newsvc/framework/discovery"
	"github.com/newsvc/newsvc/framework/discovery/discoverytest"
	"github.com/newsvc/newsvc/framework/discovery/etcd"
)

// The same as without namespaces, but what is lost is lost on the network: not even TCP learns of it.
func TestA09SilentMemberIsLeftBeforeTheLeaseEndsOnANetwork(t *testing.T) {
	t.Parallel()
	n := newNamespace(t, 0)
	f := newFixture(t)
	f.silentMember(etcd.DefaultTTL, newProxyAt(t, n.listen(), f.server.Addr()), newProxy(t, f.server.Addr()), func() { n.cut(true) })
}

func TestA10SilenceOfAllMembersEndsByItself(t *testing.T) {
	t.Parallel()
	n := newNamespace(t, 1)
	f := newFixture(t)
	f.cli = dial(t, newProxyAt(t, n.listen(), f.server.Addr()).addr())
	const ttl = 4 * time.Second
	r := f.registrar(asShipped, withTTL(ttl))
	reg := f.register(r, discoverytest.Instance("user", addr1))
	changes := f.changes()
	n.cut(true)
	f.pass(ttl / 2)
	n.cut(false)
	began := time.Now()
	f.eventually("a renewal", func() bool { return r.State()[0].LeaseEnds.After(began.Add(ttl)) })
	if puts, deletes := changes(); puts+deletes > 0 {
		t.Errorf("after half a TTL %d keys were written and %d deleted", puts, deletes)
	}
	n.cut(true)
	f.pass(3 * ttl)
	n.cut(false)
	began = time.Now()
	f.await(reg, "it to be up again", func(st discovery.RegistrationStatus) bool {
		return st.State == discovery.RegistrationUp && st.Count == 2
	})
	d := time.Since(began)
	t.Logf("announced again after %v", d)
	if d > 5*time.Second {
		t.Errorf("it took %v", d)
	}
}
