package etcd_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/newsvc/newsvc/framework/discovery"
	"github.com/newsvc/newsvc/framework/discovery/discoverytest"
	"github.com/newsvc/newsvc/framework/discovery/etcd"
)

// Whoever reads slowly may miss states in between, but never that an instance said goodbye before it went: the guard
// tells a graceful leave from a disappearance by it.
func TestGoodbyesReachSlowReaders(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	src := f.source()
	up := discoverytest.Instance("user", "10.0.0.1:1")
	f.put(up)
	release, busy := make(chan struct{}), make(chan struct{})
	ctx, cancel := context.WithCancel(f.ctx())
	defer cancel()
	var seen []string
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = src.Watch(ctx, "user", func(u discovery.Update) {
			state := "none"
			if len(u.Instances) > 0 {
				state = string(u.Instances[0].State)
			}
			if seen = append(seen, state); len(seen) == 1 {
				close(busy)
				<-release
			} else if state == "none" {
				cancel()
			}
		})
	}()
	f.wait("the reader to be busy", func() bool {
		select {
		case <-busy:
			return true
		default:
			return false
		}
	})
	inst := up.Clone()
	inst.State = discovery.StateDraining
	f.put(inst)
	if _, err := f.admin.Delete(f.ctx(), f.key("user", inst.Addr)); err != nil {
		t.Fatal(err)
	}
	f.wait("both changes to arrive", func() bool { return src.State()[0].Instances == 0 })
	close(release)
	<-done
	want := []string{"up", "draining", "none"}
	for i := range want {
		if i >= len(seen) || seen[i] != want[i] {
			t.Fatalf("a slow reader saw %q, want %q", seen, want)
		}
	}
}

// A list that is made beside the watch may already lack what the watch has not told yet; it must not take the goodbye's place.
func TestGoodbyesDuringAnAntiEntropyListAreTold(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	src := f.source(func(o *etcd.Options) { o.Timing.AntiEntropy = 20 * time.Millisecond })
	up := discoverytest.Instance("user", "10.0.0.1:1")
	f.put(up)
	w := discoverytest.NewWatcher(t, src, "user", nil)
	w.WaitAddrs(up.Addr)
	release := src.HoldLists()
	markers := f.untilStuck(src)
	inst := up.Clone()
	inst.State = discovery.StateDraining
	f.put(inst)
	f.del(f.key("user", inst.Addr))
	release()
	w.WaitAddrs(markers...)
	for _, u := range w.Updates() {
		for _, i := range u.Instances {
			if i.Addr == up.Addr && i.State == discovery.StateDraining {
				return
			}
		}
	}
	t.Error("the instance is gone, and nobody was told that it was draining")
}

// untilStuck puts instances until the watch does not tell of one any more, because it waits for a list.
func (f *fixture) untilStuck(src *etcd.Source) (addrs []string) {
	f.t.Helper()
	for n := 2; n < 100; n++ {
		i := discoverytest.Instance("user", fmt.Sprintf("10.0.1.%d:1", 100+n)) // in the order of their addresses
		addrs = append(addrs, i.Addr)
		f.put(i)
		ctx, cancel := context.WithTimeout(f.t.Context(), 100*time.Millisecond)
		tick := time.NewTicker(time.Millisecond)
		for ctx.Err() == nil && src.State()[0].Instances < n {
			select {
			case <-tick.C:
			case <-ctx.Done():
			}
		}
		stuck := ctx.Err() != nil
		tick.Stop()
		cancel()
		if stuck {
			return addrs
		}
	}
	f.t.Fatal("the watch waits for no list")
	return nil
}

func (f *fixture) wait(what string, ok func() bool) {
	f.t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	ctx := f.ctx()
	for !ok() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			f.t.Fatalf("waited in vain for %s", what)
		}
	}
}
