package coordination_test

import (
	"context"
	"errors"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/newsvc/newsvc/framework/coordination"
	"github.com/newsvc/newsvc/framework/internal/backoff"
	"github.com/newsvc/newsvc/framework/internal/loop"
)

func TestALockIsHeldByOne(t *testing.T) {
	t.Parallel()
	e := etcd(t)
	a := &alone{t: t}
	done := make(chan struct{}, 4)
	var group loop.Group
	for range 4 {
		c, _ := instance(t, e.Addr(), nil)
		group.Start(limit(t), func(ctx context.Context) {
			for range 5 {
				h, err := c.Lock(ctx, "import")
				if err != nil {
					t.Error(err)
					return
				}
				leave := a.enter(h)
				_ = backoff.Sleep(ctx, 2*time.Millisecond)
				leave()
				if err := h.Release(); err != nil {
					t.Error(err)
				}
			}
			done <- struct{}{}
		})
	}
	for range 4 {
		until(t, "all have held it", done)
	}
	group.Stop()
}

func TestTryLockSaysWhoHoldsIt(t *testing.T) {
	t.Parallel()
	e := etcd(t)
	c1, _ := instance(t, e.Addr(), func(o *coordination.Options) { o.Identity = "importer-1" })
	c2, cli := instance(t, e.Addr(), nil)
	h, err := c1.TryLock(limit(t), "import")
	if err != nil {
		t.Fatal(err)
	}
	_, err = c2.TryLock(limit(t), "import")
	if !errors.Is(err, coordination.ErrLocked) {
		t.Errorf("err = %v", err)
	}
	contains(t, err, `taking the lock "import"`, "importer-1")
	if left := keys(t, cli, "lock", "import"); len(left) != 1 || left[0] != h.Key() {
		t.Errorf("in etcd are %q, want the holder's %q", left, h.Key())
	}
	if err := h.Release(); err != nil {
		t.Error(err)
	}
	if !errors.Is(h.Err(), coordination.ErrReleased) || h.Context().Err() == nil {
		t.Errorf("after its release: %v", h.Err())
	}
	again, err := c2.TryLock(limit(t), "import")
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Release(); err != nil {
		t.Error(err)
	}
}

// What waits and gives up, by its context, must not be waited for by the others.
func TestWhoGivesUpWaitingLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	e := etcd(t)
	c1, cli := instance(t, e.Addr(), nil)
	c2, _ := instance(t, e.Addr(), func(o *coordination.Options) { o.TTL = time.Minute })
	h, err := c1.Lock(limit(t), "import")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(limit(t))
	gaveUp := make(chan error, 1)
	waiter := loop.Start(ctx, func(ctx context.Context) {
		_, err := c2.Lock(ctx, "import")
		gaveUp <- err
	})
	defer waiter.Stop()
	eventually(t, "it waits", func() bool { return len(keys(t, cli, "lock", "import")) == 2 })
	enough := errors.New("waited long enough")
	cancel(enough)
	err = until(t, "the end of its wait", gaveUp)
	if !errors.Is(err, enough) {
		t.Errorf("err = %v", err)
	}
	contains(t, err, `waiting for the lock "import"`)
	if left := keys(t, cli, "lock", "import"); len(left) != 1 || leases(t, cli) != 1 {
		t.Errorf("in etcd are %q and %d leases", left, leases(t, cli))
	}
	if err := h.Release(); err != nil {
		t.Error(err)
	}
}

func TestNothingIsWrittenUnderALockThatWasLost(t *testing.T) {
	t.Parallel()
	c, cli := instance(t, etcd(t).Addr(), nil)
	h, err := c.Lock(limit(t), "import")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.Commit(limit(t), clientv3.OpPut("/data", "1")); err != nil {
		t.Fatal(err)
	}
	if _, err := cli.Delete(limit(t), h.Key()); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Commit(limit(t), clientv3.OpPut("/data", "2")); !errors.Is(err, coordination.ErrLost) {
		t.Errorf("err = %v", err)
	}
	if h.Context().Err() == nil {
		t.Error("its context goes on")
	}
	got, err := cli.Get(limit(t), "/data")
	if err != nil {
		t.Fatal(err)
	}
	if string(got.Kvs[0].Value) != "1" {
		t.Errorf("/data = %q", got.Kvs[0].Value)
	}
	if err := h.Release(); err != nil {
		t.Error(err)
	}
}

// A call into an outage ends with its context, and letting go ends with the call timeout.
func TestNothingWaitsForAnEtcdThatIsAway(t *testing.T) {
	t.Parallel()
	e := etcd(t)
	c, _ := instance(t, e.Addr(), nil)
	h, err := c.Lock(limit(t), "import")
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
	defer cancel()
	if _, err := c.Lock(ctx, "other"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Lock: %v", err)
	}
	if _, err := c.TryLock(limit(t), "other"); err == nil {
		t.Error("TryLock has locked")
	}
	err = h.Release()
	contains(t, err, `releasing the lock "import"`, "it ends within")
}

// A lease that etcd granted while its asker gave up would stand, unheard of, until its TTL is over.
func TestWhoGivesUpWhileAskingLeavesNothing(t *testing.T) {
	t.Parallel()
	e := etcd(t)
	c, cli := instance(t, e.Addr(), func(o *coordination.Options) { o.TTL = time.Minute })
	for i := range 60 {
		ctx, cancel := context.WithTimeout(limit(t), time.Duration(i)*50*time.Microsecond)
		if h, err := c.TryLock(ctx, "job"); err == nil {
			if err := h.Release(); err != nil {
				t.Error(err)
			}
		}
		cancel()
	}
	if n := leases(t, cli); n != 0 || len(keys(t, cli, "lock", "job")) != 0 {
		t.Errorf("%d leases and keys %q are left", n, keys(t, cli, "lock", "job"))
	}
}
