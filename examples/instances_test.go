package examples_test

import (
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
)

// ttl is short, so that tests of killed instances end soon. It is the shortest that is allowed.
const (
	ttl    = 5 * time.Second
	ttlEnv = "USER_SERVICE__REGISTRATION__TTL=5s"
)

func TestD01ARollingRestartLosesNoCall(t *testing.T) {
	t.Parallel()
	ctx := within(t, 90*time.Second)
	c := newCluster(t, startEtcd(t))
	old := c.start(ctx, 3)
	c.call(ctx, 3)
	keys := c.watchKeys()
	l := c.begin(ctx)
	for _, i := range old {
		next := c.start(ctx, 1)[0]
		used := l.firstAnswer(ctx, next.GRPC)
		t.Logf("new instance: key seen, first call answered %s later", used.Sub(keys.await(ctx, t, next.key(), false)).Round(time.Millisecond))
		l.firstAnswer(ctx, i.GRPC) // it has its share of the load
		told := i.signal(syscall.SIGTERM)
		if status := i.wait(ctx); status != 0 {
			t.Errorf("exit status %d after SIGTERM, want 0", status)
		}
		gone := keys.await(ctx, t, i.key(), true)
		t.Logf("SIGTERM: key gone after %s, process after %s", gone.Sub(told).Round(time.Millisecond), i.at.Sub(told).Round(time.Millisecond))
		if gone.Sub(told) > time.Second || !gone.Before(i.at) {
			t.Errorf("key gone %s after SIGTERM, the process %s after; want the key within 1s and first", gone.Sub(told), i.at.Sub(told))
		}
	}
	l.end(t, "GetUser", "CreateUser")
	if n := c.countUsers(ctx); n != len(l.ids) {
		t.Errorf("%d users are stored, %d creations were answered", n, len(l.ids))
	}
}

func TestA31AKilledInstanceFailsNoIdempotentCall(t *testing.T) {
	t.Parallel()
	ctx := within(t, 90*time.Second)
	c := newCluster(t, startEtcd(t), ttlEnv)
	all := c.start(ctx, 3)
	c.call(ctx, 3)
	keys := c.watchKeys()
	l := c.begin(ctx)
	for _, i := range all[:2] {
		l.firstAnswer(ctx, i.GRPC)
		killed := i.signal(syscall.SIGKILL)
		if status := i.wait(ctx); status != 128+int(syscall.SIGKILL) {
			t.Errorf("exit status %d, want that of SIGKILL", status)
		}
		took := keys.await(ctx, t, i.key(), true).Sub(killed)
		t.Logf("SIGKILL: key gone after %s", took.Round(time.Millisecond))
		if took < ttl/4 || took > ttl+3*time.Second {
			t.Errorf("the key of a killed instance is gone after %s, want its lease to end it after %s and 3s at the most", took, ttl)
		}
	}
	l.end(t, "GetUser")
	for _, failure := range l.failed["CreateUser"] {
		t.Logf("CreateUser, which must not be repeated: %s", failure)
	}
	if n := c.countUsers(ctx); n < len(l.ids) || n > len(l.ids)+len(l.failed["CreateUser"]) {
		t.Errorf("%d users are stored, %d creations were answered and %d failed (%v)", n, len(l.ids), len(l.failed["CreateUser"]), codes.Unavailable)
	}
}

func TestANewInstanceIsUsedWithinASecond(t *testing.T) {
	t.Parallel()
	ctx := within(t, 60*time.Second)
	c := newCluster(t, startEtcd(t))
	c.start(ctx, 1)
	c.call(ctx, 1)
	keys := c.watchKeys()
	l := c.begin(ctx)
	for range 3 {
		next := c.start(ctx, 1)[0]
		used := l.firstAnswer(ctx, next.GRPC).Sub(keys.await(ctx, t, next.key(), false))
		t.Logf("first call answered %s after the key was seen", used.Round(time.Millisecond))
		if used > time.Second {
			t.Errorf("the first call reached a new instance %s after its registration, want 1s at the most", used)
		}
	}
	l.end(t, "GetUser", "CreateUser")
}
