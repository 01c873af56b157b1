package examples_test

import (
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/newsvc/newsvc/framework/discovery"
)

func TestD13CallsWaitWhileTheOnlyInstanceIsReplaced(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		signal     syscall.Signal
		mayNotFail []string
	}{
		"stopped": {syscall.SIGTERM, []string{"GetUser", "CreateUser"}},
		"killed":  {syscall.SIGKILL, []string{"GetUser"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := within(t, 60*time.Second)
			c := newCluster(t, startEtcd(t), ttlEnv)
			only := c.start(ctx, 1)[0]
			c.call(ctx, 1)
			l := c.begin(ctx)
			only.signal(tt.signal)
			only.wait(ctx)
			pass(ctx, t, 500*time.Millisecond) // nobody serves
			if s := c.caller.Clients().State()[0]; s.Connectivity == "READY" {
				t.Errorf("the caller is still connected: %+v", s)
			}
			next := c.start(ctx, 1)[0]
			l.firstAnswer(ctx, next.GRPC)
			pass(ctx, t, 2*time.Second)
			l.end(t, tt.mayNotFail...)
			if l.gap < 500*time.Millisecond {
				t.Errorf("the longest time without an answer was %s; somebody else must have served", l.gap)
			}
		})
	}
}

func TestA11AnInstanceThatWasKilledAndStartedAgainAtItsAddressStays(t *testing.T) {
	t.Parallel()
	ctx := within(t, 60*time.Second)
	c := newCluster(t, startEtcd(t), ttlEnv)
	all := c.start(ctx, 2)
	c.call(ctx, 2)
	l := c.begin(ctx)
	old := all[0]
	before, err := c.keys(ctx)
	if err != nil {
		t.Fatal(err)
	}
	old.signal(syscall.SIGKILL)
	old.wait(ctx)
	c.env = append(c.env, "USER_SERVICE__SERVER__LISTEN="+old.GRPC) // the later one counts
	next := c.start(ctx, 1)[0]
	if next.GRPC != old.GRPC {
		t.Fatalf("it listens on %s, want %s", next.GRPC, old.GRPC)
	}
	taken, err := c.keys(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if taken[next.key()] == 0 || taken[next.key()] == before[old.key()] {
		t.Errorf("the key's lease is %x, was %x; want a new one", taken[next.key()], before[old.key()])
	}
	keys := c.watchKeys()
	pass(ctx, t, ttl+2*time.Second) // the lease of the one that was killed ends
	if res, err := c.etcd.TimeToLive(ctx, before[old.key()]); err != nil || res.TTL > 0 {
		t.Errorf("the old lease has not ended: %+v, %v", res, err)
	}
	keys.mu.Lock()
	for _, change := range keys.changes {
		if change.gone && change.key == next.key() {
			t.Errorf("its key was removed with the lease of the one before")
		}
	}
	keys.mu.Unlock()
	l.end(t, "GetUser")
}

func TestA15RegistrationsThatSomebodyDeletesComeBack(t *testing.T) {
	t.Parallel()
	ctx := within(t, 60*time.Second)
	c := newCluster(t, startEtcd(t), ttlEnv)
	all := c.start(ctx, 3)
	c.call(ctx, 3)
	keys := c.watchKeys()
	l := c.begin(ctx)
	began := time.Now()
	res, err := c.etcd.Delete(ctx, discovery.ServicePrefix(discovery.DefaultPrefix, userService), clientv3.WithPrefix())
	if err != nil || res.Deleted != 3 {
		t.Fatalf("delete the keys: %v, %v", res, err)
	}
	for _, i := range all {
		gone := keys.await(ctx, t, i.key(), true)
		back := keys.await(ctx, t, i.key(), false)
		if back.Before(gone) || back.Sub(began) > 3*time.Second {
			t.Errorf("%s is back %s after it was deleted", i.key(), back.Sub(gone))
		}
	}
	c.mustBeBack(ctx, all, began, 5*time.Second)
	l.endEtcd(t, all)
}
