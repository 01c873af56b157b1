package etcd_test

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/newsvc/newsvc/framework/devetcd"
	"github.com/newsvc/newsvc/framework/discovery"
	"github.com/newsvc/newsvc/framework/discovery/cache"
	"github.com/newsvc/newsvc/framework/discovery/discoverytest"
	"github.com/newsvc/newsvc/framework/discovery/etcd"
)

// restorable is an etcd of which a copy was made when only one callee of four was announced.
type restorable struct {
	*fixture
	server  *devetcd.Server
	backup  string
	callees []*callee
	src     *etcd.Source
	cache   *cache.Cache
	load    *load
}

func newRestorable(t *testing.T, change func(*etcd.Options)) *restorable {
	t.Helper()
	r := &restorable{backup: t.TempDir()}
	dir := t.TempDir()
	r.server = startServer(t, devetcd.Config{Dir: dir})
	r.fixture = fixtureOn(t, r.server)
	r.callees = r.serve(4)
	r.putAll(r.callees[0])
	_ = r.server.Close()
	if err := os.CopyFS(r.backup, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	r.server = startServer(t, devetcd.Config{Dir: dir, ClientAddr: r.server.Addr()})
	r.putAll(r.callees...)
	for n := range 100 {
		r.putRaw(fmt.Sprintf("%s-other/%d", r.prefix, n), "x")
	}
	r.src = r.source(change)
	r.cache = r.cached(r.src, cache.Options{})
	r.load = r.callOn(r.connect(r.cache))
	r.eventually("all to be known", func() bool { return r.src.State()[0].Instances == 4 })
	return r
}

// restore puts the copy in the place of etcd, at the same port.
func (r *restorable) restore() {
	r.t.Helper()
	_ = r.server.Close()
	r.server = startServer(r.t, devetcd.Config{Dir: r.backup, ClientAddr: r.server.Addr()})
}

// wantNew waits until an instance that was announced after the restoration is in use, and checks that none of those
// that the copy lacks was dropped.
func (r *restorable) wantNew(addr string) {
	r.t.Helper()
	w := discoverytest.NewWatcher(r.t, r.cache, "user", nil)
	defer func() {
		if r.t.Failed() {
			r.t.Logf("state: %+v", r.src.State())
		}
	}()
	u := w.Wait("the new one", func(u discovery.Update) bool {
		for _, i := range u.Instances {
			if i.Addr == addr {
				return true
			}
		}
		return false
	})
	if want := len(r.callees) + 1; len(u.Instances) != want {
		r.t.Errorf("%d instances are in use, want %d: those that etcd has, and those that were there before", len(u.Instances), want)
	}
	if st := r.src.State()[0]; st.Instances != 2 {
		r.t.Errorf("the source knows %d, want the 2 that etcd has", st.Instances)
	}
	r.load.noneFailed()
}

// With the waits as they are shipped: 35 s are the limit, of which a reconnection that is seen takes most away.
func TestB10AnEtcdThatWasRestoredIsNoticed(t *testing.T) {
	t.Parallel()
	r := newRestorable(t, asShipped)
	r.restore()
	late := r.serve(1)[0]
	r.putAll(late)
	r.soon(20*time.Second, "the instance that is new after the restoration", func(context.Context) error {
		r.wantNew(late.addr)
		return nil
	})
	if n := r.src.State()[0].Lists["reset"]; n != 1 {
		t.Errorf("listed %d times for a reset, want once", n)
	}
}

// Once it has got as far as the one before, its revisions tell nothing any more, and the watch goes on from the middle
// of another history.
func TestB10ARestoredEtcdThatHasCaughtUpIsNoticed(t *testing.T) {
	t.Parallel()
	r := newRestorable(t, func(o *etcd.Options) { o.Timing.Recheck = 500 * time.Millisecond })
	r.proxy.setCut(true)
	r.restore()
	late := r.serve(1)[0]
	r.putAll(late)
	for n := range 200 {
		r.putRaw(fmt.Sprintf("%s-another/%d", r.prefix, n), "x")
	}
	r.proxy.setCut(false)
	r.soon(reconnect+time.Second, "the instance that is new after the restoration", func(context.Context) error {
		r.wantNew(late.addr)
		return nil
	})
}
