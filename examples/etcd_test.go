package examples_test

import (
	"bufio"
	"context"
	"maps"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// launchEtcd runs an etcd on addr in a process of its own, with its data below dir, and answers where it listens.
func launchEtcd(ctx context.Context, t *testing.T, dir, addr string) (*process, string) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.Close() }) // what it would tell is the reader's end, and that is the point
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := launch(t, command{binary: self, dir: dir, env: []string{envEtcd + "=" + addr}, stdin: r})
	_ = r.Close() // the child has its own
	eventually(ctx, t, text("etcd does not start"), func() bool {
		if !p.running() {
			t.Fatalf("etcd ended with status %d: %s", p.status, p.err.tail())
		}
		return strings.Contains(p.out.String(), "\n")
	})
	line, err := bufio.NewReader(strings.NewReader(p.out.String())).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return p, strings.TrimSpace(line)
}

// mustBeAway proves that etcd answers nobody.
func (c *cluster) mustBeAway(ctx context.Context) {
	c.t.Helper()
	for range 10 { // a signal is sent long before each thread has seen it
		if !c.etcdAnswers(ctx) {
			return
		}
	}
	c.t.Error("etcd answers; it should be away")
}

func (c *cluster) etcdAnswers(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
	defer cancel()
	_, err := c.etcd.Get(ctx, "/")
	return err == nil
}

// mustBeBack waits until the registry holds exactly these instances again and then sees that their leases are kept
// alive: a key that was only left over from before would go with its lease.
func (c *cluster) mustBeBack(ctx context.Context, all []*instance, since time.Time, patience time.Duration) {
	c.t.Helper()
	want := make([]string, len(all))
	for i, inst := range all {
		want[i] = inst.key()
	}
	slices.Sort(want)
	var have map[string]clientv3.LeaseID
	back, cancel := context.WithDeadline(ctx, since.Add(patience))
	defer cancel()
	kept := func() bool {
		var err error
		if have, err = c.keys(ctx); err != nil || !slices.Equal(slices.Sorted(maps.Keys(have)), want) {
			return false
		}
		for _, lease := range have {
			res, err := c.etcd.TimeToLive(ctx, lease)
			if err != nil || res.TTL <= 0 {
				return false
			}
		}
		return true
	}
	eventually(back, c.t, func() string {
		return "the registrations are not back: " + strings.Join(slices.Sorted(maps.Keys(have)), " ")
	}, kept)
	c.t.Logf("all %d registrations are back %s after etcd was", len(all), time.Since(since).Round(time.Millisecond))
	pass(ctx, c.t, ttl+2*time.Second)
	if !kept() {
		c.t.Errorf("the registrations did not last longer than a lease: have %v, want %v", slices.Sorted(maps.Keys(have)), want)
	}
}

func TestCallsGoOnWhileEtcdIsKilledAndStartedAgain(t *testing.T) {
	t.Parallel()
	ctx := within(t, 120*time.Second)
	dir := t.TempDir()
	etcd, addr := launchEtcd(ctx, t, dir, "127.0.0.1:0")
	c := newCluster(t, []string{addr}, ttlEnv)
	all := c.start(ctx, 3)
	c.call(ctx, 3)
	l := c.begin(ctx)
	etcd.signal(syscall.SIGKILL)
	if status := etcd.wait(ctx); status != 128+int(syscall.SIGKILL) {
		t.Errorf("etcd's exit status is %d, want that of SIGKILL", status)
	}
	c.mustBeAway(ctx)
	pass(ctx, t, ttl+3*time.Second)
	c.mustBeAway(ctx)
	_, again := launchEtcd(ctx, t, dir, addr)
	if again != addr {
		t.Fatalf("etcd is back at %s, want %s", again, addr)
	}
	c.mustBeBack(ctx, all, time.Now(), 10*time.Second)
	l.endEtcd(t, all)
}

func TestA02CallsGoOnWhileEtcdIsFrozen(t *testing.T) {
	t.Parallel()
	ctx := within(t, 120*time.Second)
	etcd, addr := launchEtcd(ctx, t, t.TempDir(), "127.0.0.1:0")
	c := newCluster(t, []string{addr}, ttlEnv)
	all := c.start(ctx, 3)
	c.call(ctx, 3)
	l := c.begin(ctx)
	etcd.signal(syscall.SIGSTOP)
	c.mustBeAway(ctx)
	pass(ctx, t, ttl+5*time.Second)
	c.mustBeAway(ctx)
	etcd.signal(syscall.SIGCONT)
	c.mustBeBack(ctx, all, time.Now(), 15*time.Second)
	l.endEtcd(t, all)
}

// endEtcd ends a load during which nothing but etcd was away.
func (l *load) endEtcd(t *testing.T, all []*instance) {
	t.Helper()
	l.end(t, "GetUser", "CreateUser")
	if l.gap > 2*time.Second {
		t.Errorf("for %s no call was answered", l.gap)
	}
	for _, i := range all {
		if _, ok := l.answered[i.GRPC]; !ok {
			t.Errorf("%s answered no call", i.GRPC)
		}
		if !i.running() {
			t.Errorf("%s ended with status %d", i.GRPC, i.status)
		}
	}
}

func TestCallsGoOnWhenEtcdComesBackWithoutItsData(t *testing.T) {
	t.Parallel()
	ctx := within(t, 120*time.Second)
	etcd, addr := launchEtcd(ctx, t, t.TempDir(), "127.0.0.1:0")
	c := newCluster(t, []string{addr}, ttlEnv)
	all := c.start(ctx, 3)
	c.call(ctx, 3)
	l := c.begin(ctx)
	etcd.signal(syscall.SIGKILL)
	etcd.wait(ctx)
	c.mustBeAway(ctx)
	launchEtcd(ctx, t, t.TempDir(), addr)
	c.mustBeBack(ctx, all, time.Now(), 15*time.Second)
	// And whoever comes then is found.
	next := c.start(ctx, 1)[0]
	l.firstAnswer(ctx, next.GRPC)
	l.endEtcd(t, all)
}

func TestD07AnInstanceStopsWithoutFailingCallsWhileEtcdIsFrozen(t *testing.T) {
	t.Parallel()
	ctx := within(t, 120*time.Second)
	etcd, addr := launchEtcd(ctx, t, t.TempDir(), "127.0.0.1:0")
	c := newCluster(t, []string{addr}, ttlEnv)
	all := c.start(ctx, 3)
	c.call(ctx, 3)
	l := c.begin(ctx)
	etcd.signal(syscall.SIGSTOP)
	c.mustBeAway(ctx)
	told := all[0].signal(syscall.SIGTERM)
	if status := all[0].wait(ctx); status != 0 {
		t.Errorf("exit status %d, want 0: that etcd is away is a warning", status)
	}
	t.Logf("it ended %s after SIGTERM", all[0].at.Sub(told).Round(time.Millisecond))
	if !strings.Contains(all[0].err.String(), "could not be revoked") {
		t.Errorf("it does not say that its registration could not be revoked")
	}
	c.mustBeAway(ctx)
	etcd.signal(syscall.SIGCONT)
	c.mustBeBack(ctx, all[1:], time.Now(), ttl+5*time.Second)
	l.end(t, "GetUser", "CreateUser")
}

func TestA01AServiceThatStartsBeforeEtcdIsFoundOnceEtcdIsThere(t *testing.T) {
	t.Parallel()
	ctx := within(t, 60*time.Second)
	dir := t.TempDir()
	etcd, addr := launchEtcd(ctx, t, dir, "127.0.0.1:0") // for a port that can be had
	etcd.signal(syscall.SIGKILL)
	etcd.wait(ctx)
	c := newCluster(t, []string{addr}, ttlEnv)
	p := c.launch()
	eventually(ctx, t, text("it does not start"), func() bool { return strings.Contains(p.err.String(), "started") })
	c.mustBeAway(ctx)
	pass(ctx, t, 2*time.Second)
	launchEtcd(ctx, t, dir, addr)
	since := time.Now()
	ready := p.awaitReady(ctx)
	t.Logf("registered %s after etcd was there", time.Since(since).Round(time.Millisecond))
	c.call(ctx, 1)
	l := c.begin(ctx)
	l.firstAnswer(ctx, ready.GRPC)
	l.end(t, "GetUser", "CreateUser")
}
