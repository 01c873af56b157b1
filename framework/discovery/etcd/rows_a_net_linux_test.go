package etcd_test

import (
	"testing"
	"time"

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
	long, short := f.registrar(asShipped, withTTL(12*time.Second)), f.registrar(asShipped, withTTL(2*time.Second))
	survives := f.register(long, discoverytest.Instance("user", addr1))
	lost := f.register(short, discoverytest.Instance("user", "10.0.0.2:9000"))
	f.afterRenewal(long)
	n.cut(true)
	f.pass(6 * time.Second) // half of the one's TTL, three times the other's
	n.cut(false)
	m := measure(t)
	f.await(lost, "another announcement", announcedAgain(2))
	d := time.Since(m.start)
	t.Logf("announced again after %v", d)
	if !m.fits(d, reconnect) {
		t.Errorf("it took %v, want %v at the most", d, reconnect)
	}
	f.eventually("a renewal", func() bool { return long.State()[0].LeaseEnds.After(m.start.Add(12 * time.Second)) })
	if st := survives.Status(); st.Count != 1 {
		t.Errorf("the one with the long lease is %+v, want announced once", st)
	}
}
