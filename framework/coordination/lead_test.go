package coordination_test

import (
	"context"
	"errors"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/newsvc/newsvc/framework/coordination"
	"github.com/newsvc/newsvc/framework/devetcd"
	"github.com/newsvc/newsvc/framework/internal/backoff"
	"github.com/newsvc/newsvc/framework/internal/loop"
)

func TestOneOfManyLeadsAtATime(t *testing.T) {
	t.Parallel()
	e := etcd(t)
	a := &alone{t: t}
	ctx, stop := context.WithCancel(limit(t))
	defer stop()
	var group loop.Group
	for range 5 {
		c, _ := instance(t, e.Addr(), nil)
		group.Start(ctx, func(ctx context.Context) {
			for ctx.Err() == nil { // Lead returns when its work is done
				if err := c.Lead(ctx, "job", func(ctx context.Context, h *coordination.Hold) error {
					defer a.enter(h)()
					return backoff.Sleep(ctx, 5*time.Millisecond)
				}); err != nil && ctx.Err() == nil {
					t.Error(err)
				}
			}
		})
	}
	eventually(t, "30 terms", func() bool { return a.visits.Load() >= 30 })
	stop()
	group.Stop()
	cli := connect(t, e.Addr())
	if left := keys(t, cli, "leader", "job"); len(left) != 0 || leases(t, cli) != 0 {
		t.Errorf("left in etcd: %q and %d leases", left, leases(t, cli))
	}
}

func TestWhoStopsHandsOverAtOnce(t *testing.T) {
	t.Parallel()
	e := etcd(t)
	long := func(o *coordination.Options) { o.TTL = time.Minute }
	c1, _ := instance(t, e.Addr(), long)
	c2, cli := instance(t, e.Addr(), func(o *coordination.Options) { long(o); o.Identity = "the second" })
	first := lead(t, c1, "job")
	h1 := until(t, "the first's term", first.terms)
	second := lead(t, c2, "job")
	eventually(t, "the second waits", func() bool { return len(keys(t, cli, "leader", "job")) == 2 })
	began := time.Now()
	first.loop.Stop()
	if err := <-first.done; err != nil {
		t.Errorf("Lead: %v", err)
	}
	h2 := until(t, "the second's term", second.terms)
	took := time.Since(began)
	t.Logf("handed over in %v", took)
	if took > time.Second {
		t.Errorf("the hand-over took %v", took)
	}
	if h2.Token() <= h1.Token() {
		t.Errorf("token %d after %d", h2.Token(), h1.Token())
	}
	var who coordination.Holder
	var held bool
	var err error
	if who, held, err = c1.Leader(t.Context(), "job"); err != nil || !held || who != (coordination.Holder{Identity: "the second", Token: h2.Token()}) {
		t.Errorf("Leader = %+v, %v, %v", who, held, err)
	}
}

// The leadership is kept while run winds up: the next one does not begin before it has returned.
func TestALeadershipIsKeptUntilTheRunHasReturned(t *testing.T) {
	t.Parallel()
	e := etcd(t)
	c1, _ := instance(t, e.Addr(), nil)
	c2, cli := instance(t, e.Addr(), nil)
	leading, windUp := make(chan struct{}), make(chan struct{})
	first := loop.Start(t.Context(), func(ctx context.Context) {
		_ = c1.Lead(ctx, "job", func(ctx context.Context, h *coordination.Hold) error {
			close(leading)
			<-ctx.Done()
			<-windUp
			return h.Err()
		})
	})
	until(t, "the first leads", leading)
	second := lead(t, c2, "job")
	eventually(t, "the second waits", func() bool { return len(keys(t, cli, "leader", "job")) == 2 })
	first.Cancel()
	if backoff.Sleep(t.Context(), 2*ttl) != nil { // long enough for a lease that nobody renews to end
		t.Fatal("the test was ended")
	}
	select {
	case <-second.terms:
		t.Error("the second leads while the first still winds up")
	default:
	}
	close(windUp)
	until(t, "the second leads", second.terms)
	first.Stop()
}

func TestLeadReturnsWhatTheRunDid(t *testing.T) {
	t.Parallel()
	c, cli := instance(t, etcd(t).Addr(), nil)
	broken := errors.New("no disk")
	err := c.Lead(limit(t), "job", func(context.Context, *coordination.Hold) error { return broken })
	if !errors.Is(err, broken) {
		t.Errorf("err = %v", err)
	}
	contains(t, err, `leading "job"`)
	if err := c.Lead(limit(t), "job", func(_ context.Context, h *coordination.Hold) error { return h.Release() }); err != nil {
		t.Errorf("a run that gave up its leadership: %v", err)
	}
	func() {
		defer func() {
			if recover() == nil {
				t.Error("the panic was swallowed")
			}
		}()
		_ = c.Lead(limit(t), "job", func(context.Context, *coordination.Hold) error { panic("broken") })
	}()
	if left := keys(t, cli, "leader", "job"); len(left) != 0 {
		t.Errorf("left in etcd: %q", left)
	}
}

func TestALeaderWhoseKeyIsDeletedStops(t *testing.T) {
	t.Parallel()
	e := etcd(t)
	long := func(o *coordination.Options) { o.TTL = time.Minute } // not by a renewal, which is 20 s away
	c1, cli := instance(t, e.Addr(), long)
	k := lead(t, c1, "job")
	h := until(t, "a term", k.terms)
	if _, err := cli.Delete(t.Context(), h.Key()); err != nil {
		t.Fatal(err)
	}
	if err := until(t, "its end", k.lost); !errors.Is(err, coordination.ErrLost) {
		t.Errorf("it ended with %v", err)
	}
	if again := until(t, "another term", k.terms); again.Token() <= h.Token() {
		t.Errorf("token %d after %d", again.Token(), h.Token())
	}
	if h.Err() == nil {
		t.Error("the former hold says that it holds")
	}
}

// While etcd is away nobody can say who leads: the leader stops before its lease can have ended, and leads again later.
func TestALeaderStopsInTimeWhenEtcdIsAway(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	e := etcdAt(t, devetcd.Config{Fast: true, Dir: dir})
	c, _ := instance(t, e.Addr(), nil)
	k := lead(t, c, "job")
	h := until(t, "a term", k.terms)
	began := time.Now()
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	if err := until(t, "its end", k.lost); !errors.Is(err, coordination.ErrLost) {
		t.Errorf("it ended with %v", err)
	}
	t.Logf("stopped %v after etcd", time.Since(began))
	if h.Err() == nil {
		t.Error("the former hold says that it holds")
	}
	etcdAt(t, devetcd.Config{Fast: true, Dir: dir, ClientAddr: e.Addr()})
	if again := until(t, "another term", k.terms); again.Token() <= h.Token() {
		t.Errorf("token %d after %d", again.Token(), h.Token())
	}
}

func TestALeaderOfAnEtcdThatWasWipedLeadsAnew(t *testing.T) {
	t.Parallel()
	e := etcd(t)
	c1, _ := instance(t, e.Addr(), nil)
	c2, cli := instance(t, e.Addr(), nil)
	first := lead(t, c1, "job")
	until(t, "a term", first.terms)
	second := lead(t, c2, "job") // waits for a key that goes without a trace
	eventually(t, "the second waits", func() bool { return len(keys(t, cli, "leader", "job")) == 2 })
	for range 50 { // so that the revisions that they know lie in the future of the new etcd
		if _, err := cli.Put(t.Context(), "/other", "x"); err != nil {
			t.Fatal(err)
		}
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	etcdAt(t, devetcd.Config{Fast: true, ClientAddr: e.Addr()})
	if err := until(t, "its end", first.lost); !errors.Is(err, coordination.ErrLost) {
		t.Errorf("it ended with %v", err)
	}
	var leader, waiter *candidate
	select {
	case <-first.terms:
		leader, waiter = first, second
	case <-second.terms:
		leader, waiter = second, first
	case <-limit(t).Done():
		t.Fatal("nobody leads")
	}
	leader.loop.Stop()
	until(t, "the other one's term", waiter.terms)
}

// A candidate that lost its place while it waited must not believe that its turn has come.
func TestACandidateWhoseLeaseEndedQueuesAgain(t *testing.T) {
	t.Parallel()
	e := etcd(t)
	long := func(o *coordination.Options) { o.TTL = 30 * time.Second }
	c1, cli := instance(t, e.Addr(), long)
	c2, _ := instance(t, e.Addr(), long)
	first := lead(t, c1, "job")
	h := until(t, "a term", first.terms)
	second := lead(t, c2, "job")
	var waiting string
	eventually(t, "the second waits", func() bool {
		for _, key := range keys(t, cli, "leader", "job") {
			if key != h.Key() {
				waiting = key
			}
		}
		return waiting != ""
	})
	got, err := cli.Get(t.Context(), waiting)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cli.Revoke(t.Context(), clientv3.LeaseID(got.Kvs[0].Lease)); err != nil {
		t.Fatal(err)
	}
	first.loop.Stop()
	leads := until(t, "the second's term", second.terms)
	if left := keys(t, cli, "leader", "job"); len(left) != 1 || left[0] != leads.Key() || leads.Key() == waiting {
		t.Errorf("it leads with key %q; in etcd are %q", leads.Key(), left)
	}
}

func TestMistakesAreNamed(t *testing.T) {
	t.Parallel()
	c, cli := instance(t, etcd(t).Addr(), nil)
	err := c.Lead(t.Context(), "a/b", nil)
	contains(t, err, `"a/b" is no name`, "write")
	_, err = c.TryLock(t.Context(), "")
	contains(t, err, `"" is no name for a lock`)
	for want, opt := range map[string]coordination.Options{
		`prefix "x/"`:         {Prefix: "x/"},
		`ttl "1.5s"`:          {TTL: 1500 * time.Millisecond},
		`call timeout "-1ns"`: {CallTimeout: -1},
	} {
		_, err := coordination.New(cli, opt)
		contains(t, err, want, "write for example")
	}
	_, err = coordination.New(nil, coordination.Options{})
	contains(t, err, "no connection to etcd")
}
