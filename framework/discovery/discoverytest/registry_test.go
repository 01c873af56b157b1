package discoverytest_test

import (
	"context"
	"errors"
	"slices"
	"testing"

	"go.uber.org/goleak"

	"github.com/newsvc/newsvc/framework/discovery"
	"github.com/newsvc/newsvc/framework/discovery/discoverytest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var errAway = errors.New("the registry is away")

func TestRegistryAsSource(t *testing.T) {
	t.Parallel()
	discoverytest.TestSource(t, func(*testing.T) discoverytest.SourceHarness {
		r := discoverytest.NewRegistry()
		return discoverytest.SourceHarness{
			Source: r,
			Put:    func(_ *testing.T, i *discovery.Instance) { r.Put(i) },
			Remove: func(_ *testing.T, service, addr string) { r.Drop(service, addr) },
			Break: func(*testing.T) func() {
				r.SetErr(errAway)
				return func() { r.SetErr(nil) }
			},
		}
	})
}

func TestRegistryAsRegistrar(t *testing.T) {
	t.Parallel()
	discoverytest.TestRegistrar(t, func(*testing.T) discoverytest.RegistrarHarness {
		r := discoverytest.NewRegistry()
		return discoverytest.RegistrarHarness{
			Registrar: r,
			Source:    r,
			Lose:      func(_ *testing.T, service, addr string) { r.Lose(service, addr) },
			Break: func(*testing.T) func() {
				r.SetErr(errAway)
				return func() { r.SetErr(nil) }
			},
		}
	})
}

func TestDropEndsARegistrationForGood(t *testing.T) {
	t.Parallel()
	r := discoverytest.NewRegistry()
	reg, err := r.Register(t.Context(), *discoverytest.Instance("user", "10.0.0.1:9000"))
	if err != nil {
		t.Fatal(err)
	}
	if !r.Drop("user", "10.0.0.1:9000") || r.Drop("user", "10.0.0.1:9000") {
		t.Error("Drop did not report that there was an instance, once")
	}
	r.SetErr(errAway)
	r.SetErr(nil)
	if st := reg.Status(); st.State != discovery.RegistrationLost || len(r.Instances("user")) != 0 {
		t.Errorf("state = %q with %d instances, want lost and none", st.State, len(r.Instances("user")))
	}
	if err := reg.Close(t.Context()); err != nil {
		t.Errorf("Close = %v", err)
	}
}

func TestABrokenRegistryCannotConfirmAClose(t *testing.T) {
	t.Parallel()
	r := discoverytest.NewRegistry()
	reg, err := r.Register(t.Context(), *discoverytest.Instance("user", "10.0.0.1:9000"))
	if err != nil {
		t.Fatal(err)
	}
	r.SetErr(errAway)
	if st := reg.Status(); st.State != discovery.RegistrationSuspect || !errors.Is(st.Err, errAway) {
		t.Errorf("status = %+v, want suspect with the registry's error", st)
	}
	if err := reg.Close(t.Context()); !errors.Is(err, errAway) {
		t.Errorf("Close = %v, want %v", err, errAway)
	}
	r.SetErr(nil)
	if n := len(r.Instances("user")); n != 0 {
		t.Errorf("%d instances are left, want none", n)
	}
}

func TestWatchesAreCounted(t *testing.T) {
	t.Parallel()
	r := discoverytest.NewRegistry()
	w := discoverytest.NewWatcher(t, r, "user", nil)
	w.WaitAddrs()
	if n := r.Watches("user"); n != 1 {
		t.Errorf("%d watches, want 1", n)
	}
	_ = w.Stop(nil)
	if n := r.Watches("user"); n != 0 {
		t.Errorf("%d watches after the end, want 0", n)
	}
}

func TestAnOrphanStaysUntilItIsDropped(t *testing.T) {
	t.Parallel()
	r := discoverytest.NewRegistry()
	reg, err := r.Register(t.Context(), *discoverytest.Instance("user", "10.0.0.1:9000"))
	if err != nil {
		t.Fatal(err)
	}
	if !r.Orphan("user", "10.0.0.1:9000") || r.Orphan("user", "10.0.0.2:9000") {
		t.Error("Orphan did not report whether there was an instance")
	}
	if err := reg.Update(t.Context(), func(i *discovery.Instance) { i.Weight = 7 }); !errors.Is(err, discovery.ErrClosed) {
		t.Errorf("Update = %v, want ErrClosed", err)
	}
	if err := reg.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if all := r.Instances("user"); len(all) != 1 || all[0].Weight == 7 {
		t.Errorf("instances = %v, want the one as it was", all)
	}
	if !r.Drop("user", "10.0.0.1:9000") {
		t.Error("the orphan was not there to be dropped")
	}
}

func TestWhatWasDroppedMayReturn(t *testing.T) {
	t.Parallel()
	r := discoverytest.NewRegistry()
	reg, err := r.Register(t.Context(), *discoverytest.Instance("user", "10.0.0.1:9000"))
	if err != nil {
		t.Fatal(err)
	}
	if r.Return("user", "10.0.0.1:9000") {
		t.Error("an instance returned that was there")
	}
	r.Drop("user", "10.0.0.1:9000")
	if !r.Return("user", "10.0.0.1:9000") || len(r.Instances("user")) != 1 || reg.Status().State != discovery.RegistrationUp {
		t.Errorf("after Return: %v, registration %s", r.Instances("user"), reg.Status().State)
	}
	if err := reg.Close(t.Context()); err != nil || len(r.Instances("user")) != 0 {
		t.Errorf("after Close: %v, %v", r.Instances("user"), err)
	}
}

func TestAWatchThatIsBehindIsToldOfTheDrainBeforeTheLeave(t *testing.T) {
	t.Parallel()
	r := discoverytest.NewRegistry()
	reg, err := r.Register(t.Context(), *discoverytest.Instance("user", "10.0.0.1:9000"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var states []discovery.State
	_ = r.Watch(ctx, "user", func(u discovery.Update) {
		if len(u.Instances) == 0 {
			cancel()
			return
		}
		states = append(states, u.Instances[0].State)
		if len(states) > 1 {
			return
		}
		// Both happen while the watch is busy.
		if err := reg.Update(ctx, func(i *discovery.Instance) { i.State = discovery.StateDraining }); err != nil {
			t.Error(err)
		}
		if err := reg.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	if !slices.Equal(states, []discovery.State{discovery.StateUp, discovery.StateDraining}) {
		t.Errorf("the watch was told %v before the leave", states)
	}
}
