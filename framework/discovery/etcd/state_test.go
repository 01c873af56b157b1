package etcd_test

import (
	"slices"
	"testing"
	"time"

	"github.com/newsvc/newsvc/framework/devetcd"
	"github.com/newsvc/newsvc/framework/discovery/discoverytest"
	"github.com/newsvc/newsvc/framework/discovery/etcd"
)

func TestStateTellsWhenTheLeaseEnds(t *testing.T) {
	t.Parallel()
	f := newOwnFixture(t, devetcd.Config{})
	const ttl = 3 * time.Second
	r := f.registrar(func(o *etcd.Options) { o.TTL = ttl })
	f.register(r, discoverytest.Instance("user", addr1))
	first := r.State()[0].LeaseEnds
	if left := time.Until(first); left <= 0 || left > ttl {
		t.Errorf("the lease ends in %v, want at most the TTL", left)
	}
	f.wait("a renewal to move the end", func() bool { return r.State()[0].LeaseEnds.After(first) })
	f.proxy.setCut(true)
	f.wait("the end to come near while nothing is renewed", func() bool { return time.Until(r.State()[0].LeaseEnds) < ttl/2 })
}

func TestStateNamesTheKeysThatCannotBeRead(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	s := f.source()
	f.putRaw(f.key("user", "b"), "{")
	f.putRaw(f.key("user", "a"), "{")
	w := discoverytest.NewWatcher(t, s, "user", nil)
	w.WaitAddrs()
	want := []string{f.key("user", "a"), f.key("user", "b")}
	if st := s.State(); !slices.Equal(st[0].UnreadableKeys, want) {
		t.Errorf("unreadable keys %v, want %v", st[0].UnreadableKeys, want)
	}
	f.del(want[0])
	f.wait("the deleted key to be forgotten", func() bool { return slices.Equal(s.State()[0].UnreadableKeys, want[1:]) })
}
