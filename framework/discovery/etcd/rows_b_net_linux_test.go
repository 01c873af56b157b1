package etcd_test

import (
	"context"
	"testing"
	"time"

	"github.com/newsvc/newsvc/framework/discovery/cache"
	"github.com/newsvc/newsvc/framework/discovery/discoverytest"
)

func TestB08ANetworkThatLosesEverythingIsOutlived(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t, 2)
	f := newFixture(t)
	p := newProxyAt(t, ns.listen(), f.server.Addr())
	f.cli = dial(t, p.addr())
	callees := f.serve(2)
	f.putAll(callees[0])
	c := f.cached(f.source(asShipped), cache.Options{})
	l := f.callOn(f.connect(c))
	w := discoverytest.NewWatcher(t, c, "user", nil)
	w.WaitAddrs(callees[0].addr)
	ns.cut(true)
	f.putAll(callees[1])
	f.pass(2 * time.Second)
	if u, _ := w.Last(); len(u.Instances) != 1 {
		t.Fatal("nothing was lost")
	}
	ns.cut(false)
	f.soon(15*time.Second, "the new instance", func(context.Context) error {
		w.Wait("both", inUse(2))
		return nil
	})
	l.noneFailed()
}
