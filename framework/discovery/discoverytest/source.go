package discoverytest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/newsvc/newsvc/framework/discovery"
)

// SourceHarness is one source under test together with the means to change what it reads. Every harness starts with no
// instance at all and shares nothing with the others: the suite uses the same service names in each.
type SourceHarness struct {
	// Source is the implementation under test.
	Source discovery.Source
	// Put stores an instance, new or changed, so that the source sees it soon.
	Put func(t *testing.T, i *discovery.Instance)
	// Remove takes an instance away in the way a graceful leave does.
	Remove func(t *testing.T, service, addr string)
	// Break makes the source's backend unreachable until heal is called. Nil skips the tests that need it.
	Break func(t *testing.T) (heal func())
}

// TestSource runs the conformance suite of [discovery.Source]. newHarness is called once for each test of the suite,
// with that test's own t for cleanups.
func TestSource(t *testing.T, newHarness func(t *testing.T) SourceHarness) {
	t.Helper()
	for _, tc := range []struct {
		name string
		test func(*testing.T, SourceHarness)
	}{
		{"the first update comes at once", sourceFirst},
		{"no instances is an answer", sourceKnownEmpty},
		{"joins, changes and leaves are seen", sourceFollows},
		{"a new process on an old address is seen", sourceRestart},
		{"updates are sorted and immutable", sourceImmutable},
		{"a slow yield then sees the newest state", sourceSlow},
		{"services with a common prefix do not mix", sourcePrefix},
		{"watches of one service are independent", sourceIndependent},
		{"Watch returns the cause of its context", sourceCause},
		{"a wrong name is an error at once", sourceWrongName},
		{"the last set survives an outage", sourceOutage},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			tc.test(t, newHarness(t))
		})
	}
}

// Instance returns an instance that is up, for tests.
func Instance(service, addr string) *discovery.Instance {
	return &discovery.Instance{Service: service, Addr: addr, Incarnation: "inc-" + addr, State: discovery.StateUp}
}

func sourceFirst(t *testing.T, h SourceHarness) {
	want := Instance("user", "10.0.0.1:9000")
	want.Weight, want.Zone, want.Version = 7, "z1", "v1.2.3"
	want.Metadata = map[string]string{"team": "blue"}
	h.Put(t, want)
	u := NewWatcher(t, h.Source, "user", nil).WaitAddrs(want.Addr)
	if got := u.Instances[0]; !got.Equal(want) {
		t.Errorf("instance = %+v, want %+v", got, want)
	}
	if u.Err != nil || u.AsOf.IsZero() {
		t.Errorf("update has Err %v and AsOf %v, want nil and a time", u.Err, u.AsOf)
	}
}

func sourceKnownEmpty(t *testing.T, h SourceHarness) {
	w := NewWatcher(t, h.Source, "user", nil)
	if u := w.WaitAddrs(); u.Err != nil {
		t.Errorf("Err = %v, want nil: that there are none is an answer", u.Err)
	}
	h.Put(t, Instance("user", "10.0.0.1:9000"))
	w.WaitAddrs("10.0.0.1:9000")
}

func sourceFollows(t *testing.T, h SourceHarness) {
	w := NewWatcher(t, h.Source, "user", nil)
	w.WaitAddrs()
	h.Put(t, Instance("user", "10.0.0.2:9000"))
	w.WaitAddrs("10.0.0.2:9000")
	h.Put(t, Instance("user", "10.0.0.1:9000"))
	h.Put(t, Instance("user", "10.0.0.3:9000"))
	before := w.WaitAddrs("10.0.0.1:9000", "10.0.0.2:9000", "10.0.0.3:9000")
	changed := Instance("user", "10.0.0.2:9000")
	changed.Weight = 42
	h.Put(t, changed)
	after := w.Wait("weight 42", func(u discovery.Update) bool {
		return len(u.Instances) == 3 && u.Instances[1].Weight == 42
	})
	if after.Revision <= before.Revision {
		t.Errorf("revision went from %d to %d, want it to grow", before.Revision, after.Revision)
	}
	h.Remove(t, "user", "10.0.0.3:9000")
	w.WaitAddrs("10.0.0.1:9000", "10.0.0.2:9000")
	h.Put(t, Instance("user", "10.0.0.3:9000"))
	w.WaitAddrs("10.0.0.1:9000", "10.0.0.2:9000", "10.0.0.3:9000")
}

func sourceRestart(t *testing.T, h SourceHarness) {
	first := Instance("user", "10.0.0.1:9000")
	h.Put(t, first)
	w := NewWatcher(t, h.Source, "user", nil)
	w.WaitAddrs(first.Addr)
	second := Instance("user", first.Addr)
	second.Incarnation = "the-next-process"
	h.Put(t, second)
	w.Wait("the new incarnation", func(u discovery.Update) bool {
		return len(u.Instances) == 1 && u.Instances[0].Incarnation == second.Incarnation
	})
}

func sourceImmutable(t *testing.T, h SourceHarness) {
	w := NewWatcher(t, h.Source, "user", nil) // it checks each update, and at its end all of them again
	w.WaitAddrs()
	var want []string
	for n := range 20 {
		addr := fmt.Sprintf("10.0.0.%d:9000", (n*7)%20+10)
		h.Put(t, Instance("user", addr))
		want = append(want, addr)
	}
	slices.Sort(want)
	w.WaitAddrs(want...)
	h.Remove(t, "user", want[10])
	w.WaitAddrs(slices.Delete(want, 10, 11)...)
	if err := w.Stop(nil); !errors.Is(err, context.Canceled) {
		t.Errorf("Watch = %v, want context canceled", err)
	}
}

func sourceSlow(t *testing.T, h SourceHarness) {
	entered, release := make(chan struct{}), make(chan struct{})
	var once bool
	w := NewWatcher(t, h.Source, "user", func(discovery.Update) {
		if !once {
			once = true
			close(entered)
			<-release
		}
	})
	await(t, entered, "the first yield")
	quick := NewWatcher(t, h.Source, "user", nil)
	const n = 50
	last := Instance("user", "10.0.0.1:9000")
	for weight := range n {
		last.Weight = weight + 1
		h.Put(t, last)
	}
	newest := func(u discovery.Update) bool { return len(u.Instances) == 1 && u.Instances[0].Weight == n }
	quick.Wait("the newest state, while another yield is stuck", newest)
	close(release)
	w.Wait("the newest state", newest)
	if got := len(w.Updates()); got > 5 {
		t.Errorf("the slow watcher saw %d updates, want the states in between to be left out", got)
	}
}

func sourcePrefix(t *testing.T, h SourceHarness) {
	h.Put(t, Instance("user", "10.0.0.1:9000"))
	h.Put(t, Instance("user-admin", "10.0.0.2:9000"))
	h.Put(t, Instance("use", "10.0.0.3:9000"))
	user, admin, use := NewWatcher(t, h.Source, "user", nil), NewWatcher(t, h.Source, "user-admin", nil), NewWatcher(t, h.Source, "use", nil)
	user.WaitAddrs("10.0.0.1:9000")
	admin.WaitAddrs("10.0.0.2:9000")
	use.WaitAddrs("10.0.0.3:9000")
	h.Put(t, Instance("user-admin", "10.0.0.4:9000"))
	admin.WaitAddrs("10.0.0.2:9000", "10.0.0.4:9000")
	for _, u := range user.Updates() {
		if len(u.Instances) > 1 {
			t.Errorf("user has %v, want its own instance only", addrs(u.Instances))
		}
	}
}

func sourceIndependent(t *testing.T, h SourceHarness) {
	a, b := NewWatcher(t, h.Source, "user", nil), NewWatcher(t, h.Source, "user", nil)
	a.WaitAddrs()
	b.WaitAddrs()
	_ = a.Stop(nil)
	_, seen := a.Last()
	h.Put(t, Instance("user", "10.0.0.1:9000"))
	b.WaitAddrs("10.0.0.1:9000")
	if _, n := a.Last(); n != seen {
		t.Error("the ended watch was told of a change")
	}
	NewWatcher(t, h.Source, "user", nil).WaitAddrs("10.0.0.1:9000")
}

func sourceCause(t *testing.T, h SourceHarness) {
	w := NewWatcher(t, h.Source, "user", nil)
	w.WaitAddrs()
	cause := errors.New("the caller has had enough")
	if err := w.Stop(cause); !errors.Is(err, cause) {
		t.Errorf("Watch = %v, want %v", err, cause)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(cause)
	if err := h.Source.Watch(ctx, "user", func(discovery.Update) {}); !errors.Is(err, cause) {
		t.Errorf("Watch with an ended context = %v, want %v", err, cause)
	}
}

func sourceWrongName(t *testing.T, h SourceHarness) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for _, name := range []string{"", "User", "user/admin", "user.v1"} {
		err := h.Source.Watch(ctx, name, func(discovery.Update) { t.Errorf("an update of service %q", name) })
		if err == nil || ctx.Err() != nil {
			t.Errorf("Watch of %q = %v, want an error at once", name, err)
		}
	}
}

func sourceOutage(t *testing.T, h SourceHarness) {
	if h.Break == nil {
		t.Skip("the harness cannot break its backend")
	}
	h.Put(t, Instance("user", "10.0.0.1:9000"))
	w := NewWatcher(t, h.Source, "user", nil)
	w.WaitAddrs("10.0.0.1:9000")
	heal := h.Break(t)
	u := w.Wait("an update that says why", func(u discovery.Update) bool { return u.Err != nil })
	if got := addrs(u.Instances); !slices.Equal(got, []string{"10.0.0.1:9000"}) {
		t.Errorf("during the outage the set is %v, want the last good one", got)
	}
	heal()
	w.Wait("an update without error", func(u discovery.Update) bool { return u.Err == nil && len(u.Instances) == 1 })
	h.Put(t, Instance("user", "10.0.0.2:9000"))
	w.WaitAddrs("10.0.0.1:9000", "10.0.0.2:9000")
}

func await(t *testing.T, ch <-chan struct{}, what string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	select {
	case <-ch:
	case <-ctx.Done():
		t.Fatalf("waiting for %s: not within %v", what, patience)
	}
}
