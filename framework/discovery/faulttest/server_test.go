package faulttest_test

import (
	"testing"
	"time"

	"github.com/newsvc/newsvc/framework/discovery/faulttest"
	"github.com/newsvc/newsvc/framework/discovery/faulttest/newsvc"
)

func TestOnlyALeaveThatEtcdAnsweredIsConfirmed(t *testing.T) {
	t.Parallel()
	ctx := within(t, time.Minute)
	lab := newLab(t)
	c, err := lab.StartCluster(ctx, faulttest.ClusterConfig{Members: 1})
	must(t, err)
	start := func() *faulttest.ServerProc {
		p, err := lab.StartServer(ctx, faulttest.ServerOptions{Adapter: newsvc.Name, Service: "probe-server", Etcd: faulttest.Etcd{Endpoints: c.Endpoints()}})
		must(t, err)
		key := newsvc.Adapter().Keys("probe-server") + p.Addr()
		eventually(ctx, t, "the server is not announced", func() bool {
			got, err := c.Admin().Get(ctx, key)
			return err == nil && got.Count == 1
		})
		return p
	}
	first, second := start(), start()
	must(t, first.Stop(ctx))
	if first.Unconfirmed() {
		t.Error("etcd answered, and the leave is not confirmed")
	}
	must(t, c.Member(0).Kill(ctx))
	must(t, second.Stop(ctx)) // it ends in good order
	if !second.Unconfirmed() {
		t.Error("etcd was away, and the leave is confirmed")
	}
}
