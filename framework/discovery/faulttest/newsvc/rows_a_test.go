package newsvc_test

import (
	"context"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/newsvc/newsvc/framework/discovery/faulttest"
	"github.com/newsvc/newsvc/framework/discovery/faulttest/newsvc"
	"github.com/newsvc/newsvc/framework/internal/backoff"
)

const rowService = "probe-service"

// rowTTL is the shortest that is allowed.
const rowTTL = 5 * time.Second

// newRow is a field whose etcd has its usual clock.
func newRow(t *testing.T, members int) *field {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), rowBudget)
	t.Cleanup(cancel)
	lab := newLab(t, built.subject)
	cluster, err := lab.StartCluster(ctx, faulttest.ClusterConfig{Members: members, Slow: true})
	if err != nil {
		t.Fatal(err)
	}
	return &field{Lab: lab, t: t, ctx: ctx, cluster: cluster, etcd: faulttest.Etcd{Endpoints: cluster.Endpoints()}}
}

// serve starts a server that lives with the TTL.
func (f *field) serve(ttl time.Duration, endpoints ...string) *faulttest.ServerProc {
	f.t.Helper()
	s, err := f.StartServer(f.ctx, faulttest.ServerOptions{
		Adapter: newsvc.Name, Service: rowService, TTL: ttl, Etcd: faulttest.Etcd{Endpoints: endpoints},
	})
	if err != nil {
		f.t.Fatal(err)
	}
	return s
}

// lookup returns the revision in which a server's key was created; 0 when there is none, -1 when etcd can't tell.
func (f *field) lookup(s *faulttest.ServerProc) int64 {
	ctx, cancel := context.WithTimeout(f.ctx, time.Second)
	defer cancel()
	res, err := f.cluster.Admin().Get(ctx, newsvc.Adapter().Keys(rowService)+s.Addr())
	switch {
	case err != nil:
		return -1
	case len(res.Kvs) == 0:
		return 0
	}
	return res.Kvs[0].CreateRevision
}

// until polls etcd and returns how long it took.
func (f *field) until(what string, ok func() bool) time.Duration {
	f.t.Helper()
	began := time.Now()
	for !ok() {
		if backoff.Sleep(f.ctx, 10*time.Millisecond) != nil {
			f.t.Fatalf("waited in vain for %s", what)
		}
	}
	return time.Since(began)
}

func (f *field) do(err error) {
	f.t.Helper()
	if err != nil {
		f.t.Fatal(err)
	}
}

// changesSince tells how often keys of the service were written and deleted since the revision.
func (f *field) changesSince(revision int64) (puts, deletes int) {
	f.t.Helper()
	end, err := f.cluster.Admin().Put(f.ctx, newsvc.Adapter().Keys(rowService)+"end", "")
	f.do(err)
	ctx, cancel := context.WithCancel(f.ctx)
	defer cancel()
	for wr := range f.cluster.Admin().Watch(ctx, newsvc.Adapter().Keys(rowService), clientv3.WithPrefix(), clientv3.WithRev(revision+1)) {
		for _, ev := range wr.Events {
			switch {
			case ev.Kv.ModRevision >= end.Header.Revision:
				return puts, deletes
			case ev.Type == clientv3.EventTypeDelete:
				deletes++
			default:
				puts++
			}
		}
		f.do(wr.Err())
	}
	f.t.Fatal("what changed can't be told")
	return 0, 0
}

func TestA01RegistersWhenMostMembersAreThere(t *testing.T) {
	t.Parallel()
	f := newRow(t, 3)
	f.do(f.cluster.Member(0).Kill(f.ctx))
	f.until("etcd to work with two of three", func() bool { return f.cluster.Member(1).Read(f.ctx) == nil })
	first := f.serve(rowTTL, f.cluster.Endpoints()...)
	took := f.until("the key with two of three members", func() bool { return f.lookup(first) > 0 })
	f.do(f.cluster.Member(1).Kill(f.ctx))
	second := f.serve(rowTTL, f.cluster.Endpoints()...)
	f.do(backoff.Sleep(f.ctx, 2*time.Second))
	if !second.Running() {
		t.Fatal("a server ended because etcd has no leader")
	}
	f.do(f.cluster.Member(1).Start(f.ctx))
	f.until("etcd to work", func() bool { return f.cluster.Member(2).Read(f.ctx) == nil })
	later := f.until("the key of the second", func() bool { return f.lookup(second) > 0 })
	t.Logf("registered after %v with two of three members, and %v after the second of three was back", took, later)
	if took > 8*time.Second || later > 6*time.Second {
		t.Errorf("it took %v and %v", took, later)
	}
}

func TestA06FrozenServerIsBackSoonAfterItsThaw(t *testing.T) {
	t.Parallel()
	f := newRow(t, 1)
	s := f.serve(rowTTL, f.cluster.Endpoints()...)
	f.until("its key", func() bool { return f.lookup(s) > 0 })
	f.do(s.Freeze(f.ctx))
	f.until("the end of its lease", func() bool { return f.lookup(s) == 0 })
	f.do(backoff.Sleep(f.ctx, rowTTL))
	f.do(s.Thaw())
	took := f.until("its key again", func() bool { return f.lookup(s) > 0 })
	t.Logf("registered %v after the thaw", took)
	if took > 3*time.Second { // a second, and what a busy machine needs
		t.Errorf("it took %v", took)
	}
	if leases, err := f.cluster.Leases(f.ctx); err != nil || len(leases) != 1 {
		t.Errorf("leases %v, %v; want one", leases, err)
	}
}

func TestA07ElectionsAreNoEvent(t *testing.T) {
	t.Parallel()
	f := newRow(t, 3)
	for range 2 {
		f.serve(15*time.Second, f.cluster.Endpoints()...)
	}
	prefix := newsvc.Adapter().Keys(rowService)
	f.until("both keys", func() bool {
		res, err := f.cluster.Admin().Get(f.ctx, prefix, clientv3.WithPrefix(), clientv3.WithCountOnly())
		return err == nil && res.Count == 2
	})
	before, err := f.cluster.Revision(f.ctx)
	f.do(err)
	for range 3 {
		leader, err := f.cluster.Leader(f.ctx)
		f.do(err)
		f.do(f.cluster.Member(leader).Kill(f.ctx))
		f.until("another leader", func() bool { return f.cluster.Member((leader+1)%3).Read(f.ctx) == nil })
		f.do(backoff.Sleep(f.ctx, 3*time.Second))
		f.do(f.cluster.Member(leader).Start(f.ctx))
		f.do(f.cluster.WaitHealthy(f.ctx))
	}
	if puts, deletes := f.changesSince(before); puts+deletes > 0 {
		t.Errorf("%d keys were written and %d deleted", puts, deletes)
	}
}

// An old leader that wakes up must not end leases that live; who could reach no other member is back at once.
func TestA08FrozenLeaderEndsNoLivingLease(t *testing.T) {
	t.Parallel()
	f := newRow(t, 3)
	leader, err := f.cluster.Leader(f.ctx)
	f.do(err)
	old := f.cluster.Member(leader)
	free := f.serve(15*time.Second, f.cluster.Endpoints()...)
	pinned := f.serve(rowTTL, old.Endpoint())
	f.until("both keys", func() bool { return f.lookup(free) > 0 && f.lookup(pinned) > 0 })
	created := f.lookup(free)
	f.do(old.Freeze(f.ctx))
	f.until("the end of the pinned one's lease", func() bool { return f.lookup(pinned) == 0 })
	f.do(backoff.Sleep(f.ctx, rowTTL))
	f.do(old.Thaw())
	took := f.until("the pinned one's key", func() bool { return f.lookup(pinned) > 0 })
	t.Logf("registered %v after the thaw", took)
	if took > 5*time.Second {
		t.Errorf("it took %v", took)
	}
	f.do(backoff.Sleep(f.ctx, 2*time.Second))
	if now := f.lookup(free); now != created {
		t.Errorf("the other one's key was created in revision %d, and is of revision %d now", created, now)
	}
	if leases, err := f.cluster.Leases(f.ctx); err != nil || len(leases) != 2 {
		t.Errorf("leases %v, %v; want two", leases, err)
	}
}
