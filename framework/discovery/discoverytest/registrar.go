package discoverytest

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/newsvc/newsvc/framework/discovery"
	"github.com/newsvc/newsvc/framework/internal/loop"
)

// RegistrarHarness is one registrar under test together with a source that reads what it writes. Every harness starts
// with no instance and shares nothing with the others.
type RegistrarHarness struct {
	// Registrar is the implementation under test.
	Registrar discovery.Registrar
	// Source reads the same backend. A new watch of it starts from what is stored at that moment.
	Source discovery.Source
	// Lose removes an instance behind the registrar's back. Nil skips the tests that need it.
	Lose func(t *testing.T, service, addr string)
	// Break makes the backend unreachable for the registrar until heal is called. Nil skips the tests that need it.
	Break func(t *testing.T) (heal func())
}

// TestRegistrar runs the conformance suite of [discovery.Registrar]. newHarness is called once for each test of the
// suite, with that test's own t for cleanups.
func TestRegistrar(t *testing.T, newHarness func(t *testing.T) RegistrarHarness) {
	t.Helper()
	for _, tc := range []struct {
		name string
		test func(*testing.T, RegistrarHarness)
	}{
		{"a registered instance is announced as it is", registrarAnnounces},
		{"the context of Register bounds only the call", registrarContext},
		{"wrong arguments are errors at once", registrarArguments},
		{"Update changes what is announced", registrarUpdates},
		{"Close withdraws and can be repeated", registrarCloses},
		{"Update after Close is refused", registrarUpdateClosed},
		{"Close leaves a successor on the same address alone", registrarSuccessor},
		{"an address is taken back when its successor leaves", registrarReturns},
		{"what is removed by others comes back", registrarLost},
		{"an outage ends by itself", registrarOutage},
		{"many registrations work at once", registrarMany},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			tc.test(t, newHarness(t))
		})
	}
}

// register announces an instance and waits until it is up; it is closed at the end of the test.
func register(t *testing.T, h RegistrarHarness, i *discovery.Instance) discovery.Registration {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	reg, err := h.Registrar.Register(ctx, *i)
	if err != nil {
		t.Fatalf("Register: %v", err)
	}
	t.Cleanup(func() { closeRegistration(t, reg) })
	if err := discovery.WaitUp(ctx, reg); err != nil {
		t.Fatalf("WaitUp: %v", err)
	}
	return reg
}

func closeRegistration(t *testing.T, reg discovery.Registration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), patience)
	defer cancel()
	if err := reg.Close(ctx); err != nil {
		t.Errorf("Close = %v, want nil", err)
	}
}

// awaitStatus waits until the registration's status satisfies the condition.
func awaitStatus(t *testing.T, reg discovery.Registration, what string, satisfied func(discovery.RegistrationStatus) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for {
		changed := reg.Changed()
		st := reg.Status()
		if satisfied(st) {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			t.Fatalf("waiting for %s: not within %v; the status is %+v", what, patience, st)
		}
	}
}

func awaitState(t *testing.T, reg discovery.Registration, want discovery.RegistrationState) {
	t.Helper()
	awaitStatus(t, reg, fmt.Sprintf("state %q", want), func(st discovery.RegistrationStatus) bool { return st.State == want })
}

func registrarAnnounces(t *testing.T, h RegistrarHarness) {
	want := Instance("user", "10.0.0.1:9000")
	want.Weight, want.Zone, want.Version, want.Admin = 7, "z1", "v1.2.3", "10.0.0.1:9001"
	want.Metadata = map[string]string{"team": "blue"}
	reg := register(t, h, want)
	u := NewWatcher(t, h.Source, "user", nil).WaitAddrs(want.Addr)
	if got := u.Instances[0]; !got.Equal(want) {
		t.Errorf("announced %+v, want %+v", got, want)
	}
	if st := reg.Status(); st.State != discovery.RegistrationUp || st.Err != nil || st.Count != 1 || st.Since.IsZero() {
		t.Errorf("status = %+v, want up, announced once", st)
	}
}

func registrarContext(t *testing.T, h RegistrarHarness) {
	ctx, cancel := context.WithCancel(t.Context())
	reg, err := h.Registrar.Register(ctx, *Instance("user", "10.0.0.1:9000"))
	if err != nil {
		t.Fatalf("Register: %v", err)
	}
	t.Cleanup(func() { closeRegistration(t, reg) })
	cancel()
	awaitState(t, reg, discovery.RegistrationUp)
	NewWatcher(t, h.Source, "user", nil).WaitAddrs("10.0.0.1:9000")
}

func registrarArguments(t *testing.T, h RegistrarHarness) {
	for _, i := range []*discovery.Instance{
		Instance("", "10.0.0.1:9000"),
		Instance("User", "10.0.0.1:9000"),
		Instance("user", ""),
		Instance("user", "10.0.0.1"),
		Instance("user", "0.0.0.0:9000"),
		Instance("user", "10.0.0.1:0"),
	} {
		if _, err := h.Registrar.Register(t.Context(), *i); err == nil {
			t.Errorf("Register of service %q on %q succeeded, want an error", i.Service, i.Addr)
		}
	}
}

func registrarUpdates(t *testing.T, h RegistrarHarness) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	reg := register(t, h, Instance("user", "10.0.0.1:9000"))
	calls := 0
	err := reg.Update(ctx, func(i *discovery.Instance) {
		calls++
		i.State, i.Weight = discovery.StateDraining, 3
		i.Addr, i.Service, i.Incarnation = "10.0.0.9:1", "other", "other"
	})
	if err != nil || calls != 1 {
		t.Fatalf("Update = %v after %d calls, want nil after 1", err, calls)
	}
	u := NewWatcher(t, h.Source, "user", nil).WaitAddrs("10.0.0.1:9000")
	got := u.Instances[0]
	if got.State != discovery.StateDraining || got.Weight != 3 {
		t.Errorf("announced %+v, want draining with weight 3", got)
	}
	if got.Incarnation != "inc-10.0.0.1:9000" {
		t.Errorf("incarnation = %q, want it unchanged", got.Incarnation)
	}
	if st := reg.Status(); st.Count != 1 {
		t.Errorf("count = %d, want 1: a change is no new announcement", st.Count)
	}
}

func registrarCloses(t *testing.T, h RegistrarHarness) {
	register(t, h, Instance("user", "10.0.0.2:9000"))
	reg := register(t, h, Instance("user", "10.0.0.1:9000"))
	changed := reg.Changed()
	closeRegistration(t, reg)
	await(t, changed, "the change of status")
	NewWatcher(t, h.Source, "user", nil).WaitAddrs("10.0.0.2:9000")
	closeRegistration(t, reg)
	if st := reg.Status(); st.State != discovery.RegistrationClosed {
		t.Errorf("state = %q, want closed", st.State)
	}
	if err := discovery.WaitUp(t.Context(), reg); !errors.Is(err, discovery.ErrClosed) {
		t.Errorf("WaitUp = %v, want ErrClosed", err)
	}
}

func registrarUpdateClosed(t *testing.T, h RegistrarHarness) {
	reg := register(t, h, Instance("user", "10.0.0.1:9000"))
	closeRegistration(t, reg)
	err := reg.Update(t.Context(), func(i *discovery.Instance) { i.Weight = 9 })
	if !errors.Is(err, discovery.ErrClosed) {
		t.Errorf("Update = %v, want ErrClosed", err)
	}
	NewWatcher(t, h.Source, "user", nil).WaitAddrs()
}

func registrarSuccessor(t *testing.T, h RegistrarHarness) {
	older := register(t, h, Instance("user", "10.0.0.1:9000"))
	next := Instance("user", "10.0.0.1:9000")
	next.Incarnation = "the-next-process"
	newer := register(t, h, next)
	awaitState(t, older, discovery.RegistrationConflict)
	closeRegistration(t, older)
	u := NewWatcher(t, h.Source, "user", nil).WaitAddrs("10.0.0.1:9000")
	if got := u.Instances[0].Incarnation; got != next.Incarnation {
		t.Errorf("incarnation = %q, want %q", got, next.Incarnation)
	}
	if st := newer.Status(); st.State != discovery.RegistrationUp || st.Count != 1 {
		t.Errorf("the newer one's status = %+v, want up, announced once", st)
	}
}

func registrarReturns(t *testing.T, h RegistrarHarness) {
	first := Instance("user", "10.0.0.1:9000")
	older := register(t, h, first)
	next := Instance("user", "10.0.0.1:9000")
	next.Incarnation = "the-next-process"
	newer := register(t, h, next)
	awaitState(t, older, discovery.RegistrationConflict)
	closeRegistration(t, newer)
	awaitState(t, older, discovery.RegistrationUp)
	NewWatcher(t, h.Source, "user", nil).Wait("the older incarnation", func(u discovery.Update) bool {
		return len(u.Instances) == 1 && u.Instances[0].Incarnation == first.Incarnation
	})
}

func registrarLost(t *testing.T, h RegistrarHarness) {
	if h.Lose == nil {
		t.Skip("the harness cannot remove an instance behind the registrar's back")
	}
	reg := register(t, h, Instance("user", "10.0.0.1:9000"))
	w := NewWatcher(t, h.Source, "user", nil)
	w.WaitAddrs("10.0.0.1:9000")
	h.Lose(t, "user", "10.0.0.1:9000")
	awaitStatus(t, reg, "a second announcement", func(st discovery.RegistrationStatus) bool {
		return st.State == discovery.RegistrationUp && st.Count == 2
	})
	w.WaitAddrs("10.0.0.1:9000")
}

func registrarOutage(t *testing.T, h RegistrarHarness) {
	if h.Break == nil {
		t.Skip("the harness cannot break its backend")
	}
	heal := h.Break(t)
	reg, err := h.Registrar.Register(t.Context(), *Instance("user", "10.0.0.1:9000"))
	if err != nil {
		t.Fatalf("Register during an outage = %v, want nil: it goes on in the background", err)
	}
	t.Cleanup(func() { closeRegistration(t, reg) })
	awaitStatus(t, reg, "the reason why it is not up", func(st discovery.RegistrationStatus) bool {
		return st.State == discovery.RegistrationPending && st.Err != nil
	})
	heal()
	awaitState(t, reg, discovery.RegistrationUp)
	NewWatcher(t, h.Source, "user", nil).WaitAddrs("10.0.0.1:9000")
}

func registrarMany(t *testing.T, h RegistrarHarness) {
	const n = 30
	regs, errs := make([]discovery.Registration, n), make([]error, n)
	want, opening := make([]string, n), make([]*loop.Loop, n)
	for k := range n {
		want[k] = fmt.Sprintf("10.0.0.1:%d", 9000+k)
		opening[k] = loop.Start(t.Context(), func(ctx context.Context) {
			regs[k], errs[k] = h.Registrar.Register(ctx, *Instance("user", want[k]))
		})
	}
	for _, l := range opening {
		await(t, l.Done(), "Register")
	}
	if err := errors.Join(errs...); err != nil {
		t.Fatalf("Register: %v", err)
	}
	w := NewWatcher(t, h.Source, "user", nil)
	w.WaitAddrs(want...)
	closing := make([]*loop.Loop, 0, n)
	for _, reg := range regs[:n-1] {
		closing = append(closing, loop.Start(context.WithoutCancel(t.Context()), func(context.Context) { closeRegistration(t, reg) }))
	}
	for _, l := range closing {
		await(t, l.Done(), "Close")
	}
	w.WaitAddrs(want[n-1:]...)
	closeRegistration(t, regs[n-1])
	w.Wait("none", func(u discovery.Update) bool { return u.Known() && len(u.Instances) == 0 })
}
