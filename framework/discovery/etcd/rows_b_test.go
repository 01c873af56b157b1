package etcd_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/newsvc/newsvc/framework/devetcd"
	"github.com/newsvc/newsvc/framework/discovery"
	"github.com/newsvc/newsvc/framework/discovery/discoverytest"
	"github.com/newsvc/newsvc/framework/discovery/etcd"
	"github.com/newsvc/newsvc/framework/etcdclient"
)

// The tests named TestB.. show the failure modes of reading from etcd one by one: of the source here, of callers in
// rows_b_calls_test.go.

// quietly leaves it to the test when a watch is asked for a sign of life and when it is listed beside.
func quietly(o *etcd.Options) { o.Timing.Probe, o.Timing.Recheck = time.Hour, time.Hour }

// putFast writes n instances with one revision each, from several writers.
func (f *fixture) putFast(service string, n int) (addrs []string) {
	f.t.Helper()
	const writers = 8
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for k := w; k < n; k += writers {
				f.put(discoverytest.Instance(service, fmt.Sprintf("10.0.%03d.%03d:9000", k/250, k%250)))
			}
		})
	}
	for k := range n {
		addrs = append(addrs, fmt.Sprintf("10.0.%03d.%03d:9000", k/250, k%250))
	}
	wg.Wait()
	return addrs
}

func TestB02NothingIsLostBetweenListAndWatch(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	puts := full(200, 50)
	for round := range full(1000, 4) {
		p := f.tapped(0)
		service := fmt.Sprintf("user%d", round)
		var once sync.Once
		var want []string
		p.set(func() { once.Do(func() { want = f.putFast(service, puts) }) }, nil)
		w := discoverytest.NewWatcher(t, f.source(quietly), service, nil)
		w.Wait("all of them", func(u discovery.Update) bool { return len(u.Instances) == puts })
		w.WaitAddrs(want...)
		_ = w.Stop(nil)
	}
}

func TestB03CompactionWhileCutOffCostsThreeRequests(t *testing.T) {
	t.Parallel()
	f := newOwnFixture(t, devetcd.Config{})
	p := f.tapped(0)
	f.putFast("user", 50)
	w := discoverytest.NewWatcher(t, f.source(func(o *etcd.Options) { o.Timing.PokeWait, o.Timing.Probe = 2*time.Second, time.Hour }), "user", nil)
	w.Wait("the first set", func(u discovery.Update) bool { return len(u.Instances) == 50 })
	f.proxy.setCut(true)
	want := f.putFast("user", 100)
	f.del(f.key("user", want[0]))
	f.compact()
	f.eventually("the client to notice", func() bool { return f.cli.ActiveConnection().GetState().String() != "READY" })
	before := p.counts()
	f.proxy.setCut(false)
	f.soon(reconnect, "the exact set", func(context.Context) error { w.WaitAddrs(want[1:]...); return nil })
	after := p.counts()
	asked := after.ranges - before.ranges + after.watches - before.watches + after.probes - before.probes
	if asked > 3 {
		t.Errorf("%d requests, want 3 at most: the watch that is refused, a list, and the next watch; before %+v, after %+v", asked, before, after)
	}
}

// History is needed from the last sign of life on, not from the service's last change on. All that is older than the sign
// before the last is forgotten all the time.
func TestB04AQuietServiceInABusyEtcdNeedsNoList(t *testing.T) {
	t.Parallel()
	f := newOwnFixture(t, devetcd.Config{})
	f.put(discoverytest.Instance("user", addr1))
	p := f.tapped(0)
	var leaderless atomic.Bool   // the next sign of life is that there is no leader, which ends the watch
	var told, known atomic.Int64 // up to which revision etcd said that nothing has happened, and did so the time before
	p.set(nil, func(r *pb.WatchResponse) {
		if len(r.Events) == 0 && !r.Created {
			known.Store(told.Swap(r.Header.Revision))
			if leaderless.CompareAndSwap(true, false) {
				r.WatchId, r.Canceled, r.CancelReason = 0, true, rpctypes.ErrNoLeader.Error() // 0 is the only one of its stream
			}
		}
	})
	s := f.source(quietly, func(o *etcd.Options) { // asked by the test alone, and silence is none, however long it lasts
		o.Timing.PokeGap, o.Timing.PokeWait, o.Timing.Created = time.Millisecond, time.Hour, patience
	})
	w := discoverytest.NewWatcher(t, s, "user", nil)
	w.WaitAddrs(addr1)
	start, err := f.admin.Get(f.ctx(), "x")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(f.ctx())
	defer cancel()
	busy := make(chan struct{})
	go func() { // writes all the time, and keeps only what the watch does not know yet
		defer close(busy)
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for ; ctx.Err() == nil; <-tick.C {
			s.Refresh("user")
			if _, err := f.admin.Put(ctx, f.prefix+"-other", "x"); err == nil && known.Load() > 0 {
				_, _ = f.admin.Compact(ctx, known.Load()) // it may be done already
			}
		}
	}()
	f.eventually("the first list to be history", func() bool {
		_, err := f.admin.Get(f.ctx(), f.prefix, clientv3.WithRev(start.Header.Revision+1))
		return errors.Is(err, rpctypes.ErrCompacted)
	})
	f.pass(100 * time.Millisecond)
	f.proxy.setCut(true)
	f.put(discoverytest.Instance("user", "10.0.0.2:9000"))
	f.pass(200 * time.Millisecond)
	f.proxy.setCut(false)
	w.WaitAddrs(addr1, "10.0.0.2:9000")
	again := p.counts().watches
	seen := known.Load()
	f.eventually("signs of life since the change", func() bool { return known.Load() > seen+1 })
	leaderless.Store(true)
	f.eventually("another watch", func() bool { return p.counts().watches > again })
	f.put(discoverytest.Instance("user", "10.0.0.3:9000"))
	w.WaitAddrs(addr1, "10.0.0.2:9000", "10.0.0.3:9000")
	cancel()
	<-busy
	if st := s.State()[0]; lists(st) != 1 || st.Lists["first"] != 1 {
		t.Errorf("lists = %v, want the first one only", st.Lists)
	}
}

func TestB05ARefusedTokenOfOneWatchIsNotAllWatches(t *testing.T) {
	t.Parallel()
	f := newOwnFixture(t, devetcd.Config{AuthTokenTTL: time.Second})
	f.withAuth()
	f.grant()
	f.put(discoverytest.Instance("user", addr1))
	f.put(discoverytest.Instance("order", addr1))
	s := f.source(quietly)
	user, order := discoverytest.NewWatcher(t, s, "user", nil), discoverytest.NewWatcher(t, s, "order", nil)
	user.WaitAddrs(addr1)
	order.WaitAddrs(addr1)
	cfg := etcdclient.DefaultConfig()
	cfg.Endpoints, cfg.Username, cfg.Password = f.server.Endpoints(), "root", "secret"
	direct, err := etcdclient.New(cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = direct.Close() })
	f.pass(2500 * time.Millisecond) // the tokens with which both were opened are no more
	f.put(discoverytest.Instance("order", "10.0.0.2:9000"))
	order.WaitAddrs(addr1, "10.0.0.2:9000")
	f.proxy.setCut(true)
	value, err := discovery.Encode(discoverytest.Instance("user", "10.0.0.2:9000"))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := direct.Put(f.ctx(), f.key("user", "10.0.0.2:9000"), string(value))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := direct.Compact(f.ctx(), resp.Header.Revision); err != nil {
		t.Fatal(err)
	}
	f.proxy.setCut(false)
	f.soon(reconnect, "the watch whose history is gone", func(context.Context) error { user.WaitAddrs(addr1, "10.0.0.2:9000"); return nil })
	f.put(discoverytest.Instance("order", "10.0.0.3:9000"))
	f.put(discoverytest.Instance("user", "10.0.0.3:9000"))
	order.WaitAddrs(addr1, "10.0.0.2:9000", "10.0.0.3:9000")
	user.WaitAddrs(addr1, "10.0.0.2:9000", "10.0.0.3:9000")
}

func TestB14ServicesWhoseNamesBeginAlikeDoNotMix(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	s := f.source()
	names := []string{"user", "user-admin", "user2"}
	put := func(port int) {
		for n, name := range names {
			f.put(discoverytest.Instance(name, fmt.Sprintf("10.0.0.%d:%d", n, port)))
		}
	}
	put(1)
	watchers := make([]*discoverytest.Watcher, len(names))
	for n, name := range names {
		watchers[n] = discoverytest.NewWatcher(t, s, name, nil)
		watchers[n].WaitAddrs(fmt.Sprintf("10.0.0.%d:1", n))
	}
	put(2)
	for n, w := range watchers {
		w.WaitAddrs(fmt.Sprintf("10.0.0.%d:1", n), fmt.Sprintf("10.0.0.%d:2", n))
	}
}

func TestB22AReaderThatSleepsCostsNoMemory(t *testing.T) {
	t.Parallel()
	b := etcd.NewMailbox()
	up := discoverytest.Instance("user", addr1)
	leaving := up.Clone()
	leaving.State = discovery.StateDraining
	for range 10_000 {
		b.Put(discovery.Update{Instances: []*discovery.Instance{up}})
		b.Put(discovery.Update{Instances: []*discovery.Instance{leaving}})
		b.Put(discovery.Update{Instances: []*discovery.Instance{}})
	}
	if n := b.Held(); n != 1 {
		t.Errorf("%d instances that said goodbye are kept, want one for each address", n)
	}
	got := b.Take()
	if len(got) != 2 || len(got[0].Instances) != 1 || len(got[1].Instances) != 0 {
		t.Errorf("took %+v, want the goodbye and then nobody", got)
	}
}

func TestB23LargeServicesAreListedWithinSmallMessages(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ n, size int }{
		"many":     {full(50_000, 5000), 400},
		"large":    {150, 60 << 10},
		"enormous": {3, 1 << 20},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			f.tapped(2 << 20)
			f.putSized(tc.n, tc.size)
			m := measure(t)
			w := discoverytest.NewWatcher(t, f.source(quietly), "user", nil)
			want := tc.n
			if tc.size > discovery.MaxValueSize {
				want = 0 // they are no instances, but they must not be in the way either
			}
			w.Wait("all of them", func(u discovery.Update) bool { return u.Known() && len(u.Instances) == want })
			if !m.within(2 * time.Second) {
				t.Errorf("listing %d values of %d bytes took %v, want 2 s at most", tc.n, tc.size, time.Since(m.start))
			}
			t.Logf("%d values of %d bytes: %v", tc.n, tc.size, time.Since(m.start))
			f.put(discoverytest.Instance("user", "192.168.0.1:1"))
			w.Wait("one more", func(u discovery.Update) bool { return len(u.Instances) == want+1 })
		})
	}
}

// putSized writes instances whose values have about so many bytes.
func (f *fixture) putSized(n, size int) {
	f.t.Helper()
	var ops []clientv3.Op
	bytes := 0
	for k := range n {
		i := discoverytest.Instance("user", fmt.Sprintf("10.%d.%03d.%03d:9000", k/62500, k/250%250, k%250))
		i.Metadata = map[string]string{"filler": strings.Repeat("x", size)}
		value, err := discovery.Encode(i)
		if err != nil {
			f.t.Fatal(err)
		}
		ops = append(ops, clientv3.OpPut(f.key("user", i.Addr), string(value)))
		if bytes += len(value); len(ops) == 100 || bytes > 1<<20-1<<17 || k == n-1 {
			if _, err := f.admin.Txn(f.ctx()).Then(ops...).Commit(); err != nil {
				f.t.Fatal(err)
			}
			ops, bytes = nil, 0
		}
	}
}

// Whoever holds a lock while it waits for somebody who needs it stands still in this test.
func TestB25ReconnectionsWithEventsAndReadersStandInNobodysWay(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	s := f.source(func(o *etcd.Options) { o.Timing.AntiEntropy = 50 * time.Millisecond })
	w := discoverytest.NewWatcher(t, s, "user", nil)
	w.WaitAddrs()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() { // readers that come and go
		for ctx.Err() == nil {
			c, stop := context.WithTimeout(ctx, 20*time.Millisecond)
			_ = s.Watch(c, "user", func(discovery.Update) {})
			stop()
		}
	})
	wg.Go(func() {
		for tick := time.NewTicker(time.Millisecond); ctx.Err() == nil; <-tick.C {
			s.State()
			s.Refresh("user")
		}
	})
	last := ""
	for n := range full(10_000, 60) {
		f.proxy.setCut(true)
		f.proxy.setCut(false)
		last = fmt.Sprintf("10.0.0.1:%d", 1000+n)
		f.put(discoverytest.Instance("user", last))
		f.pass(time.Duration(rand.IntN(15)) * time.Millisecond)
	}
	cancel()
	wg.Wait()
	w.Wait("the last one", func(u discovery.Update) bool {
		return slices.ContainsFunc(u.Instances, func(i *discovery.Instance) bool { return i.Addr == last })
	})
}

func TestB26WhatIsGoneNeverComesBack(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	s := f.source(func(o *etcd.Options) { o.Timing.Recheck = 20 * time.Millisecond })
	present, gone := map[string]bool{}, map[string]bool{}
	w := discoverytest.NewWatcher(t, s, "user", func(u discovery.Update) {
		now := map[string]bool{}
		for _, i := range u.Instances {
			now[i.Addr] = true
			if gone[i.Addr] {
				t.Errorf("%s is back, which was gone", i.Addr)
			}
		}
		for addr := range present {
			gone[addr] = gone[addr] || !now[addr]
		}
		present = now
	})
	w.WaitAddrs()
	addr := func(n int) string { return fmt.Sprintf("10.0.0.1:%d", 10_000+n) }
	rounds := full(1000, 100)
	for n := range rounds {
		f.put(discoverytest.Instance("user", addr(n)))
		if n >= 3 {
			f.del(f.key("user", addr(n-3)))
		}
		f.proxy.setCut(true)
		f.proxy.setCut(false)
		f.pass(time.Duration(rand.IntN(10)) * time.Millisecond)
		if (n+1)%(rounds/4) == 0 { // let it see them, so that it sees them go: with luck it is connected at the end only
			w.WaitAddrs(addr(n-2), addr(n-1), addr(n))
		}
	}
	_ = w.Stop(nil)
	if len(gone) == 0 {
		t.Error("nothing was seen to go")
	}
}

func TestB29EventsThatEtcdForgetsAreFoundAndCounted(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	p := f.tapped(0)
	s := f.source(func(o *etcd.Options) { o.Timing.AntiEntropy = 100 * time.Millisecond })
	w := discoverytest.NewWatcher(t, s, "user", nil)
	w.WaitAddrs()
	n := 0
	p.set(nil, func(r *pb.WatchResponse) {
		r.Events = slices.DeleteFunc(r.Events, func(*mvccpb.Event) bool { n++; return n%20 == 0 })
	})
	want := f.putFast("user", 200)
	for _, addr := range want[:100] {
		f.del(f.key("user", addr))
	}
	w.WaitAddrs(want[100:]...)
	f.eventually("the count of what was missed", func() bool { return s.State()[0].Missed > 0 })
	last, _ := w.Last()
	if len(last.Instances) != 100 {
		t.Errorf("%d instances in the end, want 100", len(last.Instances))
	}
}

func TestB31ADeletionIsSeenWhenItsHistoryIsGone(t *testing.T) {
	t.Parallel()
	f := newOwnFixture(t, devetcd.Config{})
	f.put(discoverytest.Instance("user", addr1))
	f.put(discoverytest.Instance("user", "10.0.0.2:9000"))
	w := discoverytest.NewWatcher(t, f.source(), "user", nil)
	w.WaitAddrs(addr1, "10.0.0.2:9000")
	f.compact()
	f.del(f.key("user", addr1))
	w.WaitAddrs("10.0.0.2:9000")
}

func TestB34AWatchIsOneStreamHoweverOftenItIsAsked(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	p := f.tapped(0)
	s := f.source(func(o *etcd.Options) {
		o.Timing.Probe, o.Timing.PokeGap, o.Timing.Recheck = 5*time.Millisecond, time.Millisecond, time.Hour
	})
	w := discoverytest.NewWatcher(t, s, "user", nil)
	w.WaitAddrs()
	for n := range 100 {
		s.Refresh("user")
		f.put(discoverytest.Instance("other", addr1)) // so that etcd has something to answer
		if n == 50 {
			f.proxy.setCut(true)
			f.proxy.setCut(false)
		}
		f.pass(2 * time.Millisecond)
	}
	f.put(discoverytest.Instance("user", addr1))
	w.WaitAddrs(addr1)
	f.eventually("one stream", func() bool { return p.counts().streams == 1 })
	if c := p.counts(); c.probes < 10 || c.opened > 4 {
		t.Errorf("%+v, want many questions on few streams", c)
	}
	_ = w.Stop(nil)
	f.eventually("no stream after the watch", func() bool { return p.counts().streams == 0 })
}

// While a watch catches up, a response has the store's revision and the first thousand revisions of events only.
func TestB35AWatchThatIsCutWhileItCatchesUpMissesNothing(t *testing.T) {
	t.Parallel()
	for range 5 {
		if cutWhileCatchingUp(t) {
			return
		}
		t.Log("the watch was made anew, from a list; once more")
	}
	t.Error("no watch caught up by events; the test proves nothing")
}

// cutWhileCatchingUp cuts a watch with its first events and waits for all that it missed. It reports whether all came by
// events: a watch of an etcd that lost its leader, as it may on a busy machine, begins with a list.
func cutWhileCatchingUp(t *testing.T) bool {
	t.Helper()
	f := newFixture(t)
	p := f.tapped(0)
	src := f.source(quietly, func(o *etcd.Options) { o.Timing.PokeWait, o.Timing.Created = time.Hour, patience })
	w := discoverytest.NewWatcher(t, src, "user", nil)
	w.WaitAddrs()
	f.proxy.setCut(true)
	want := f.putFast("user", full(5000, 1600))
	cut, first, responses := make(chan struct{}), sync.Once{}, atomic.Int32{}
	p.set(nil, func(r *pb.WatchResponse) {
		if len(r.Events) > 0 {
			responses.Add(1)
			first.Do(func() { f.proxy.setCut(true); close(cut) })
		}
	})
	f.proxy.setCut(false)
	caught := false
	f.eventually("the first events", func() bool {
		select {
		case <-cut:
			caught = true
		default:
		}
		return caught || lists(src.State()[0]) > 1
	})
	f.proxy.setCut(false)
	w.WaitAddrs(want...)
	return caught && lists(src.State()[0]) == 1 && responses.Load() > 1
}
