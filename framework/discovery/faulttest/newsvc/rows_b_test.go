package newsvc_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/newsvc/newsvc/framework/discovery"
	"github.com/newsvc/newsvc/framework/discovery/discoverytest"
	"github.com/newsvc/newsvc/framework/discovery/etcd"
	"github.com/newsvc/newsvc/framework/etcdclient"
)

func (f *field) etcdAt(endpoints ...string) *clientv3.Client {
	f.t.Helper()
	cfg := etcdclient.DefaultConfig()
	cfg.Endpoints = endpoints
	cli, err := etcdclient.New(cfg, nil)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { _ = cli.Close() })
	return cli
}

// source reads through the given members.
func (f *field) source(opt etcd.Options, endpoints ...string) *etcd.Source {
	f.t.Helper()
	s, err := etcd.NewSource(f.etcdAt(endpoints...), opt)
	if err != nil {
		f.t.Fatal(err)
	}
	return s
}

// others are the endpoints of all members but one.
func (f *field) others(but int) []string {
	return slices.Delete(slices.Clone(f.cluster.Endpoints()), but, but+1)
}

// announce writes an instance with the number through the given client.
func (f *field) announce(cli *clientv3.Client, number int) string {
	f.t.Helper()
	i := discoverytest.Instance(rowService, fmt.Sprintf("10.0.0.%d:9000", number))
	value, err := discovery.Encode(i)
	f.do(err)
	f.until("etcd to take the key of "+i.Addr, func() bool {
		ctx, cancel := context.WithTimeout(f.ctx, time.Second) // a member that has just lost the leader takes 7 s to say so
		defer cancel()
		_, err := cli.Put(ctx, discovery.Key(discovery.DefaultPrefix, i.Service, i.Addr), string(value))
		return err == nil
	})
	return i.Addr
}

func has(addr string) func(discovery.Update) bool {
	return func(u discovery.Update) bool {
		return slices.ContainsFunc(u.Instances, func(i *discovery.Instance) bool { return i.Addr == addr })
	}
}

// Each member is cut off from the others in turn, so one of them is the one that carries the watch, and one the leader.
func TestB07AMemberWithoutLeaderIsLeft(t *testing.T) {
	t.Parallel()
	f := newRow(t, 3)
	w := discoverytest.NewWatcher(t, f.source(etcd.Options{}, f.cluster.Endpoints()...), rowService, nil)
	w.Wait("the first answer", discovery.Update.Known)
	for n := range f.cluster.Members() {
		member := f.cluster.Member(n)
		member.Isolate()
		addr := f.announce(f.etcdAt(f.others(n)...), n+1)
		began := time.Now()
		w.Wait("the new instance", has(addr))
		took := time.Since(began)
		t.Logf("member %d cut off: %v", n, took)
		if took > 6*time.Second {
			t.Errorf("with member %d cut off the new instance was known after %v, want 6 s at most", n, took)
		}
		member.Join()
		f.do(f.cluster.WaitHealthy(f.ctx))
	}
}

func TestB30TheFirstSetIsCurrentUnlessNobodyCanTell(t *testing.T) {
	t.Parallel()
	f := newRow(t, 3)
	older := f.announce(f.cluster.Admin(), 1)
	const lagging = 2
	f.cluster.Member(lagging).Isolate()
	newer := f.announce(f.etcdAt(f.others(lagging)...), 2)

	// One that lags behind is asked too, and by half of the readers first.
	for n := range 4 {
		endpoints := []string{f.cluster.Endpoints()[lagging], f.cluster.Endpoints()[n%2]}
		if n >= 2 {
			slices.Reverse(endpoints)
		}
		w := discoverytest.NewWatcher(t, f.source(etcd.Options{CallTimeout: time.Second}, endpoints...), rowService, nil)
		w.Wait("the first set", discovery.Update.Known)
		for _, u := range w.Updates() {
			if u.Known() && (!has(older)(u) || !has(newer)(u)) {
				t.Errorf("reader %d: told a set of %d instances, and there are 2", n, len(u.Instances))
			}
		}
		_ = w.Stop(nil)
	}
	f.cluster.Member(lagging).Join()
	f.do(f.cluster.WaitHealthy(f.ctx))

	// Without a majority nobody knows what is current; an old set is better than none.
	f.do(f.cluster.Member(0).Kill(f.ctx))
	f.do(f.cluster.Member(1).Kill(f.ctx))
	s := f.source(etcd.Options{CallTimeout: 500 * time.Millisecond}, f.cluster.Endpoints()...)
	w := discoverytest.NewWatcher(t, s, rowService, nil)
	if u := w.Wait("a set", discovery.Update.Known); u.Err == nil || !has(newer)(u) {
		t.Errorf("without a majority: %d instances and error %v, want both and why they may be old", len(u.Instances), u.Err)
	}
	f.do(f.cluster.Member(0).Start(f.ctx))
	w.Wait("that all is well", func(u discovery.Update) bool { return u.Err == nil && has(newer)(u) })
}
