//go:build unix

package faulttest_test

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/newsvc/newsvc/framework/discovery/faulttest"
)

// start starts etcd for a test.
func start(ctx context.Context, t *testing.T, cfg faulttest.ClusterConfig) *faulttest.Cluster {
	t.Helper()
	c, err := newLab(t).StartCluster(ctx, cfg)
	must(t, err)
	return c
}

// put writes until it is done: what was under way when a leader was lost fails.
func put(ctx context.Context, t *testing.T, c *faulttest.Cluster, key string) {
	t.Helper()
	eventually(ctx, t, "nothing can be written", func() bool {
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		_, err := c.Admin().Put(ctx, key, "value")
		return err == nil
	})
}

func exists(ctx context.Context, t *testing.T, c *faulttest.Cluster, key string) bool {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	res, err := c.Admin().Get(ctx, key)
	must(t, err)
	return res.Count > 0
}

func revision(ctx context.Context, t *testing.T, c *faulttest.Cluster) int64 {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	rev, err := c.Revision(ctx)
	must(t, err)
	return rev
}

func TestAFrozenEtcdAnswersNobodyAndThenGoesOn(t *testing.T) {
	t.Parallel()
	ctx := within(t, time.Minute)
	c := start(ctx, t, faulttest.ClusterConfig{})
	m := c.Member(0)
	put(ctx, t, c, "/a")
	must(t, m.Freeze(ctx))
	if err := m.Read(ctx); err == nil {
		t.Error("it answers")
	}
	if !m.Running() {
		t.Error("a frozen process runs")
	}
	must(t, m.Thaw())
	must(t, m.WaitHealthy(ctx))
	if !exists(ctx, t, c, "/a") {
		t.Error("it has lost a key")
	}
}

func TestAKilledEtcdComesBackWithItsDataOnItsPort(t *testing.T) {
	t.Parallel()
	ctx := within(t, time.Minute)
	c := start(ctx, t, faulttest.ClusterConfig{})
	m := c.Member(0)
	put(ctx, t, c, "/a")
	before, endpoints := m.PID(), c.Endpoints()
	must(t, m.Kill(ctx))
	if m.Running() || syscall.Kill(before, 0) == nil {
		t.Error("its process is there")
	}
	if err := m.Read(ctx); err == nil {
		t.Error("it answers")
	}
	must(t, m.Start(ctx))
	must(t, m.WaitHealthy(ctx))
	if m.PID() == before || c.Endpoints()[0] != endpoints[0] {
		t.Errorf("process %d, endpoints %q; want another process than %d on %q", m.PID(), c.Endpoints(), before, endpoints)
	}
	if !exists(ctx, t, c, "/a") {
		t.Error("it has lost a key")
	}
}

func TestARestoredEtcdHasALowerRevision(t *testing.T) {
	t.Parallel()
	for _, members := range []int{1, 3} {
		t.Run(strconv.Itoa(members), func(t *testing.T) {
			t.Parallel()
			ctx := within(t, 2*time.Minute)
			c := start(ctx, t, faulttest.ClusterConfig{Members: members})
			put(ctx, t, c, "/before")
			must(t, c.Backup(ctx))
			must(t, c.WaitHealthy(ctx))
			at := revision(ctx, t, c)
			for i := range 20 {
				put(ctx, t, c, "/after/"+strconv.Itoa(i))
			}
			must(t, c.Restore(ctx))
			if rev := revision(ctx, t, c); rev != at {
				t.Errorf("the revision is %d, want %d", rev, at)
			}
			if !exists(ctx, t, c, "/before") || exists(ctx, t, c, "/after/0") {
				t.Error("the keys are not those of the copy")
			}
			put(ctx, t, c, "/later")
			must(t, c.Wipe(ctx))
			if rev := revision(ctx, t, c); rev != 1 {
				t.Errorf("the revision without data is %d, want 1", rev)
			}
			put(ctx, t, c, "/later")
		})
	}
}

func TestRestoreWithoutACopySaysSo(t *testing.T) {
	t.Parallel()
	ctx := within(t, time.Minute)
	c := start(ctx, t, faulttest.ClusterConfig{})
	if err := c.Member(0).Restore(ctx); err == nil || !strings.Contains(err.Error(), "Backup") {
		t.Errorf("the error is %v", err)
	}
}

func TestAnIsolatedMemberHasNoLeaderWhileTheOthersGoOn(t *testing.T) {
	t.Parallel()
	for _, who := range []string{"follower", "leader"} {
		t.Run(who, func(t *testing.T) {
			t.Parallel()
			ctx := within(t, 2*time.Minute)
			c := start(ctx, t, faulttest.ClusterConfig{Members: 3})
			leader, err := c.Leader(ctx)
			must(t, err)
			i := leader
			if who == "follower" {
				i = (leader + 1) % 3
			}
			m, others := c.Member(i), []*faulttest.Member{c.Member((i + 1) % 3), c.Member((i + 2) % 3)}
			m.Isolate()
			eventually(ctx, t, "it has a leader", func() bool {
				alone, err := m.Leaderless(ctx)
				return err == nil && alone
			})
			for _, o := range others {
				must(t, o.WaitHealthy(ctx))
			}
			if err := m.Read(ctx); err == nil {
				t.Error("a read through it that needs the others succeeds")
			}
			put(ctx, t, c, "/a")
			m.Join()
			must(t, c.WaitHealthy(ctx))
		})
	}
}

func TestAWipedMemberOfThreeGetsTheDataOfTheOthers(t *testing.T) {
	t.Parallel()
	ctx := within(t, 2*time.Minute)
	c := start(ctx, t, faulttest.ClusterConfig{Members: 3})
	put(ctx, t, c, "/a")
	must(t, c.Member(1).Wipe(ctx))
	must(t, c.Member(0).Kill(ctx)) // now the one that was wiped is needed
	if !exists(ctx, t, c, "/a") {
		t.Error("the key is gone")
	}
	must(t, c.Member(0).Start(ctx))
	must(t, c.WaitHealthy(ctx))
}

func TestThreeMembersLoseTheirLeaderAndGoOn(t *testing.T) {
	t.Parallel()
	ctx := within(t, 2*time.Minute)
	c := start(ctx, t, faulttest.ClusterConfig{Members: 3})
	leader, err := c.Leader(ctx)
	must(t, err)
	must(t, c.Member(leader).Kill(ctx))
	put(ctx, t, c, "/a")
	next, err := c.Leader(ctx)
	must(t, err)
	if next == leader {
		t.Error("a dead member leads")
	}
	must(t, c.Member(next).Kill(ctx))
	last := c.Member(3 - leader - next)
	if err := last.Read(ctx); err == nil {
		t.Error("one of three answers alone")
	}
	must(t, c.Member(leader).Start(ctx))
	must(t, last.WaitHealthy(ctx))
}

func TestStatsCountWhatClientsHold(t *testing.T) {
	t.Parallel()
	ctx := within(t, time.Minute)
	c := start(ctx, t, faulttest.ClusterConfig{Members: 3})
	before, err := c.Stats(ctx)
	must(t, err)
	lease, err := c.Admin().Grant(ctx, 60)
	must(t, err)
	_, err = c.Admin().Put(ctx, "/a", "", clientv3.WithLease(lease.ID))
	must(t, err)
	watching, cancel := context.WithCancel(ctx)
	defer cancel()
	watch := c.Admin().Watch(watching, "/", clientv3.WithPrefix(), clientv3.WithCreatedNotify())
	<-watch
	c.Admin().Watch(watching, "/b", clientv3.WithCreatedNotify())
	put(ctx, t, c, "/c")
	var after faulttest.EtcdStats
	eventually(ctx, t, "two watches do not show", func() bool {
		after, err = c.Stats(ctx)
		must(t, err)
		return after.Watchers == before.Watchers+2
	})
	if after.Leases != before.Leases+1 || after.Keys != before.Keys+2 || after.Revision != before.Revision+2 {
		t.Errorf("before %+v, after %+v", before, after)
	}
	const method = "/etcdserverpb.KV/Put"
	if puts := after.Requests[method] - before.Requests[method]; puts < 2 {
		t.Errorf("%d puts, want 2: %v", puts, after.Requests)
	}
}

func TestTheLabLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	ctx := within(t, time.Minute)
	program, err := subject()
	must(t, err)
	lab, err := faulttest.NewLab(faulttest.LabOptions{Binary: program})
	must(t, err)
	c, err := lab.StartCluster(ctx, faulttest.ClusterConfig{Members: 3})
	must(t, err)
	var pids []int
	for i := range c.Members() {
		pids = append(pids, c.Member(i).PID())
	}
	must(t, c.Member(1).Freeze(ctx))
	must(t, lab.Close())
	for _, pid := range pids {
		if syscall.Kill(pid, 0) == nil {
			t.Errorf("process %d is there", pid)
		}
	}
	if _, err := os.Stat(lab.Dir()); err == nil {
		t.Errorf("%s is there", lab.Dir())
	}
	if _, err := lab.StartCluster(ctx, faulttest.ClusterConfig{}); err == nil {
		t.Error("a closed lab starts etcd")
	}
	must(t, lab.Close())
}

func TestAMemberThatCannotStartSaysWhy(t *testing.T) {
	t.Parallel()
	ctx := within(t, time.Minute)
	c := start(ctx, t, faulttest.ClusterConfig{})
	m := c.Member(0)
	must(t, m.Kill(ctx))
	// A file in the place of the data.
	must(t, m.Spoil())
	err := m.Start(ctx)
	if err == nil || !strings.Contains(err.Error(), "not a directory") {
		t.Errorf("the error is %v", err)
	}
}

func TestAProgramThatIsNoSubjectSaysSo(t *testing.T) {
	t.Parallel()
	ctx := within(t, time.Minute)
	echo := filepath.Join("/bin", "true")
	if _, err := os.Stat(echo); err != nil {
		t.Skipf("no program that does nothing: %v", err)
	}
	lab, err := faulttest.NewLab(faulttest.LabOptions{Binary: echo})
	must(t, err)
	defer lab.Close()
	if _, err := lab.StartCluster(ctx, faulttest.ClusterConfig{}); err == nil || !strings.Contains(err.Error(), "ended with status 0") {
		t.Errorf("the error is %v", err)
	}
}
