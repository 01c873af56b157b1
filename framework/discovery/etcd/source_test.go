package etcd_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/newsvc/newsvc/framework/devetcd"
	"github.com/newsvc/newsvc/framework/discovery"
	"github.com/newsvc/newsvc/framework/discovery/discoverytest"
	"github.com/newsvc/newsvc/framework/discovery/etcd"
)

// compact drops all history of etcd.
func (f *fixture) compact() {
	f.t.Helper()
	resp, err := f.admin.Put(f.ctx(), f.prefix+"-other", "x")
	if err != nil {
		f.t.Fatal(err)
	}
	if _, err := f.admin.Compact(f.ctx(), resp.Header.Revision, clientv3.WithCompactPhysical()); err != nil {
		f.t.Fatal(err)
	}
}

// lists is how often a service was listed, for whatever reason.
func lists(st etcd.WatchState) int {
	n := 0
	for _, count := range st.Lists {
		n += count
	}
	return n
}

func listed(s *etcd.Source, reason string) int {
	n := 0
	for _, st := range s.State() {
		n += st.Lists[reason]
	}
	return n
}

func TestCompactionWhileCutOffLeadsToANewList(t *testing.T) {
	t.Parallel()
	f := newOwnFixture(t, devetcd.Config{})
	s := f.source()
	f.put(discoverytest.Instance("user", addr1))
	f.put(discoverytest.Instance("user", "10.0.0.2:9000"))
	w := discoverytest.NewWatcher(t, s, "user", nil)
	w.WaitAddrs(addr1, "10.0.0.2:9000")
	f.proxy.setCut(true)
	w.Wait("an update that says why", func(u discovery.Update) bool { return u.Err != nil })
	f.del(f.key("user", addr1))
	f.put(discoverytest.Instance("user", "10.0.0.3:9000"))
	f.compact()
	f.proxy.setCut(false)
	if u := w.WaitAddrs("10.0.0.2:9000", "10.0.0.3:9000"); u.Err != nil {
		w.Wait("an update without error", func(u discovery.Update) bool { return u.Err == nil })
	}
	if n := listed(s, "compacted"); n != 1 {
		t.Errorf("listed %d times for compaction, want once; state: %+v", n, s.State())
	}
	f.put(discoverytest.Instance("user", addr1))
	w.WaitAddrs(addr1, "10.0.0.2:9000", "10.0.0.3:9000")
}

func TestShortCutNeedsNoList(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	s := f.source()
	w := discoverytest.NewWatcher(t, s, "user", nil)
	w.WaitAddrs()
	var want []string
	for n := range 10 {
		f.proxy.setCut(true)
		want = append(want, f.putMany(fmt.Sprintf("other%d", n), 1)...) // somebody else's changes
		want[n] = fmt.Sprintf("10.0.0.1:%d", 9000+n)
		f.put(discoverytest.Instance("user", want[n]))
		f.proxy.setCut(false)
		w.WaitAddrs(want...)
	}
	if st := s.State(); len(st) != 1 || st[0].Lists["first"] != 1 || st[0].Missed != 0 {
		t.Errorf("state = %+v, want one first list and nothing missed", st)
	}
}

func TestReplacedEtcdIsNoticedWithoutAnyEvent(t *testing.T) {
	t.Parallel()
	server := startServer(t, devetcd.Config{Dir: t.TempDir()})
	f := fixtureOn(t, server)
	f.putMany("filler", 300)
	f.put(discoverytest.Instance("user", addr1))
	s := f.source()
	w := discoverytest.NewWatcher(t, s, "user", nil)
	w.WaitAddrs(addr1)
	_ = server.Close()
	// The new one is prepared on another port, so that the watch never sees its events happen.
	dir := t.TempDir()
	prep := startServer(t, devetcd.Config{Dir: dir})
	g := fixtureOn(t, prep)
	g.prefix = f.prefix
	g.put(discoverytest.Instance("user", "10.0.0.2:9000"))
	_ = prep.Close()
	startServer(t, devetcd.Config{Dir: dir, ClientAddr: server.Addr()})
	w.WaitAddrs("10.0.0.2:9000")
	if n := listed(s, "reset"); n != 1 {
		t.Errorf("listed %d times for the reset, want once; state: %+v", n, s.State())
	}
	f.put(discoverytest.Instance("user", "10.0.0.3:9000"))
	w.WaitAddrs("10.0.0.2:9000", "10.0.0.3:9000")
}

func TestListsMoreThanAPage(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	want := f.putMany("user", 2345)
	f.putMany("user-admin", 3)
	s := f.source()
	discoverytest.NewWatcher(t, s, "user", nil).WaitAddrs(want...)
	small := f.source(func(o *etcd.Options) { o.Timing.PageSize = 100 })
	discoverytest.NewWatcher(t, small, "user", nil).WaitAddrs(want...)
	f.putRaw(f.prefix+"/Not-A-Service/x", "y")
	got, err := small.Services(f.ctx())
	if err != nil || !slices.Equal(got, []etcd.ServiceCount{{"user", 2345}, {"user-admin", 3}}) {
		t.Errorf("Services = %v, %v", got, err)
	}
}

func TestServicesWithoutEtcdSaysSo(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.proxy.setCut(true)
	ctx, cancel := context.WithTimeout(f.ctx(), 100*time.Millisecond)
	defer cancel()
	_, err := f.source().Services(ctx)
	if err == nil || !strings.Contains(err.Error(), f.proxy.addr()) || !strings.Contains(err.Error(), f.prefix) {
		t.Errorf("Services = %v, want an error that names etcd and the prefix", err)
	}
}

func TestB13CorruptValuesAreIsolated(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	core, logs := observer.New(zap.WarnLevel)
	s := f.source(func(o *etcd.Options) { o.Log = zap.New(core) })
	f.putRaw(f.key("user", "bad-from-the-start"), "{")
	f.put(discoverytest.Instance("user", addr1))
	f.put(discoverytest.Instance("user", "10.0.0.2:9000"))
	w := discoverytest.NewWatcher(t, s, "user", nil)
	w.WaitAddrs(addr1, "10.0.0.2:9000")
	junk := []string{
		"{", "", `{"Addr":"0.0.0.0:0"}`, `{"Addr":"x"}`, `{"Addr":7}`, `[]`, "x", "0.0.0.0:0", `{"Addr":"` + addr1 + `","Metadata":{"incarnation":"a","weight":"7"}}`,
		strings.Repeat("x", 1<<20), `{"Addr":"` + strings.Repeat("1", 1<<20) + `:1"}`,
	}
	for _, bad := range junk {
		f.putRaw(f.key("user", addr1), bad)
	}
	f.put(discoverytest.Instance("user", "10.0.0.3:9000"))
	w.WaitAddrs(addr1, "10.0.0.2:9000", "10.0.0.3:9000") // the last good one stays
	// A list in between, on a busy machine, would show the last of several.
	if n := logs.FilterMessageSnippet("can't be read").Len(); n > 1+len(junk) || n < 1+len(junk) && lists(s.State()[0]) == 1 {
		t.Errorf("%d warnings for %d bad values, want one for each", n, 1+len(junk))
	}
	if st := s.State(); st[0].Unreadable != 2 {
		t.Errorf("state = %+v, want 2 unreadable", st)
	}
	f.del(f.key("user", addr1))
	w.WaitAddrs("10.0.0.2:9000", "10.0.0.3:9000")
	good := discoverytest.Instance("user", "10.0.0.9:9000")
	value, err := discovery.Encode(good)
	if err != nil {
		t.Fatal(err)
	}
	f.putRaw(f.key("user", "bad-from-the-start"), string(value))
	w.WaitAddrs("10.0.0.2:9000", "10.0.0.3:9000", "10.0.0.9:9000")
}

func TestOfTwoKeysWithOneAddressTheNewestCounts(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	w := discoverytest.NewWatcher(t, f.source(), "user", nil)
	for n, suffix := range []string{"b", "c", "a"} {
		f.putRaw(f.key("user", suffix), fmt.Sprintf(`{"Addr":%q,"Metadata":{"incarnation":"i%d"}}`, addr1, n))
	}
	isFrom := func(inc string) func(discovery.Update) bool {
		return func(u discovery.Update) bool { return len(u.Instances) == 1 && u.Instances[0].Incarnation == inc }
	}
	w.Wait("the newest", isFrom("i2"))
	late := discoverytest.NewWatcher(t, f.source(), "user", nil)
	late.Wait("the newest, by list", isFrom("i2"))
	f.del(f.key("user", "a"))
	w.Wait("the newest of the rest", isFrom("i1"))
	f.del(f.key("user", "c"))
	w.Wait("the last one", isFrom("i0"))
}

func TestAntiEntropyListsBesideTheWatch(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	s := f.source(func(o *etcd.Options) { o.Timing.AntiEntropy = 30 * time.Millisecond })
	w := discoverytest.NewWatcher(t, s, "user", nil)
	w.WaitAddrs()
	var want []string
	for n := range 200 {
		want = append(want, fmt.Sprintf("10.0.0.1:%d", 9000+n))
		f.put(discoverytest.Instance("user", want[n]))
		if n%3 == 0 {
			f.del(f.key("user", want[n]))
			f.put(discoverytest.Instance("user", want[n]))
		}
	}
	w.WaitAddrs(want...)
	f.eventually("some lists", func() bool { return listed(s, "anti-entropy") >= 3 })
	if st := s.State(); st[0].Missed != 0 || st[0].Lists["first"] != 1 || st[0].Lists["reset"] != 0 {
		t.Errorf("state = %+v, want nothing missed and no other lists", st)
	}
	last, _ := w.Last()
	if len(last.Instances) != len(want) {
		t.Errorf("%d instances at the end, want %d", len(last.Instances), len(want))
	}
}

func TestRefreshFindsOutThatAllIsWell(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	s := f.source(func(o *etcd.Options) { o.Timing.Probe = time.Hour })
	w := discoverytest.NewWatcher(t, s, "user", nil)
	w.WaitAddrs()
	before := s.State()[0].LastSeen
	f.eventually("a sign of life", func() bool {
		s.Refresh("user")
		s.Refresh("other")
		return s.State()[0].LastSeen.After(before)
	})
	if st := s.State(); lists(st[0]) != 1 {
		t.Errorf("lists = %v, want the first one only", st[0].Lists)
	}
}

func TestFewerUpdatesThanEventsInAStorm(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	var last discovery.Update
	w := discoverytest.NewWatcher(t, f.source(), "user", func(u discovery.Update) { last = u })
	w.WaitAddrs()
	want := f.putMany("user", 1000)
	w.WaitAddrs(want...)
	if n := len(w.Updates()); n > 100 {
		t.Errorf("%d updates for 10 transactions of 100 instances each", n)
	}
	_ = w.Stop(nil)
	if last.Err != nil {
		t.Errorf("Err = %v", last.Err)
	}
}

func TestEveryWatchEndsItsStreamWithItsContext(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	s := f.source()
	for range 20 {
		ctx, cancel := context.WithCancel(f.ctx())
		_ = s.Watch(ctx, "user", func(discovery.Update) { cancel() })
	}
	f.proxy.setCut(true)
	for range 5 {
		ctx, cancel := context.WithTimeout(f.ctx(), 20*time.Millisecond)
		start := time.Now()
		_ = s.Watch(ctx, "user", func(discovery.Update) {})
		cancel()
		if d := time.Since(start); d > 2*time.Second {
			t.Errorf("Watch ended %v after its context", d)
		}
	}
	if st := s.State(); len(st) != 0 {
		t.Errorf("State = %+v after all watches ended", st)
	}
}

func TestQuietEtcdNeedsNoListAndIsNoOutage(t *testing.T) {
	t.Parallel()
	f := newOwnFixture(t, devetcd.Config{})
	f.put(discoverytest.Instance("user", addr1))
	s := f.source(func(o *etcd.Options) { o.Timing.Probe = 20 * time.Millisecond })
	w := discoverytest.NewWatcher(t, s, "user", nil)
	w.WaitAddrs(addr1)
	for range 5 { // etcd answers no question while nothing at all is written
		before := time.Now()
		f.eventually("a sign of life", func() bool { return s.State()[0].LastSeen.After(before) })
	}
	if st := s.State()[0]; lists(st) != 1 || st.Lists["first"] != 1 || st.Err != nil {
		t.Errorf("state = %+v, want one first list and no error", st)
	}
	if n := len(w.Updates()); n != 1 {
		t.Errorf("%d updates, want 1", n)
	}
}
