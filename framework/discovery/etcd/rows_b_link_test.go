package etcd_test

import (
	"context"
	"testing"
	"time"

	"github.com/newsvc/newsvc/framework/discovery/cache"
	"github.com/newsvc/newsvc/framework/discovery/discoverytest"
)

// The connection is swallowed and stays so, as by a firewall that forgot it; a new one gets through.
func TestB08AConnectionThatSwallowsEverythingIsReplaced(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	callees := f.serve(2)
	f.putAll(callees[0])
	c := f.cached(f.source(asShipped), cache.Options{})
	l := f.callOn(f.connect(c))
	w := discoverytest.NewWatcher(t, c, "user", nil)
	w.WaitAddrs(callees[0].addr)
	f.proxy.swallow()
	f.putAll(callees[1])
	f.soon(15*time.Second, "the new instance", func(context.Context) error {
		w.Wait("both", inUse(2))
		return nil
	})
	l.noneFailed()
}
