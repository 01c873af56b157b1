package grpcresolver_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/experimental/balancer/weight"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/status"

	"github.com/newsvc/newsvc/framework/discovery"
	"github.com/newsvc/newsvc/framework/discovery/discoverytest"
	"github.com/newsvc/newsvc/framework/grpcresolver"
)

func TestOnlyAWrongNameIsABuildError(t *testing.T) {
	t.Parallel()
	b := grpcresolver.NewBuilder(newFed(), grpcresolver.Options{})
	for _, text := range []string{"etcd://gateway/", "etcd://gateway/User", "etcd://gateway/user-service/v1", "etcd:///a.b"} {
		_, err := b.Build(target(t, text), newStub(), resolver.BuildOptions{})
		if err == nil || !strings.Contains(err.Error(), "etcd://caller/callee") || !strings.Contains(err.Error(), text) {
			t.Errorf("Build of %q = %v, want an error with the target and how one is written", text, err)
		}
	}
	for _, text := range []string{"etcd://gateway/user-service", "etcd:///user-service", "etcd:user-service"} {
		r, err := b.Build(target(t, text), newStub(), resolver.BuildOptions{})
		if err != nil {
			t.Errorf("Build of %q = %v, want nil", text, err)
			continue
		}
		r.Close()
	}
}

func TestTheAuthorityIsTheCallee(t *testing.T) {
	t.Parallel()
	b := grpcresolver.NewBuilder(newFed(), grpcresolver.Options{})
	o, ok := b.(resolver.AuthorityOverrider)
	if !ok || o.OverrideAuthority(target(t, "etcd://gateway/user-service")) != "user-service" || b.Scheme() != "etcd" {
		t.Error("the authority is not the callee's name, or the scheme not etcd")
	}
}

func TestASnapshotIsUsedWithinBuild(t *testing.T) {
	t.Parallel()
	i := instance("10.0.0.1:9000")
	i.Weight, i.Zone = 7, "z1"
	_, c := primed(t, i, instance("[2001:db8::1]:9000"))
	cc, _ := build(t, c, grpcresolver.Options{})
	states, _ := cc.seen()
	if len(states) == 0 {
		t.Fatal("Build returned before gRPC was told")
	}
	st := states[0]
	if got := addrsOf(st); !slices.Equal(got, []string{"10.0.0.1:9000", "[2001:db8::1]:9000"}) || len(st.Addresses) != 2 {
		t.Errorf("endpoints %v and %d addresses, want both in both forms", got, len(st.Addresses))
	}
	got, ok := grpcresolver.InstanceOf(st.Endpoints[0])
	if !ok || !got.Equal(i) || weight.FromEndpoint(st.Endpoints[0]).Weight != 7 {
		t.Errorf("InstanceOf = %+v, %v with weight %d, want %+v with weight 7", got, ok, weight.FromEndpoint(st.Endpoints[0]).Weight, i)
	}
	if _, ok := grpcresolver.InstanceOf(resolver.Endpoint{}); ok {
		t.Error("InstanceOf knows an endpoint of another resolver")
	}
}

func TestAnAddressInALogLineShowsItsIncarnation(t *testing.T) {
	t.Parallel()
	i := instance("10.0.0.1:9000")
	_, c := primed(t, i)
	cc, _ := build(t, c, grpcresolver.Options{})
	text := cc.last().Endpoints[0].Addresses[0].String()
	if !strings.Contains(text, "incarnation") || !strings.Contains(text, i.Incarnation) || strings.Contains(text, "%!") {
		t.Errorf("gRPC shows an address as %s, want its incarnation %q in it", text, i.Incarnation)
	}
}

func TestOnlyTheIncarnationTellsConnectionsApart(t *testing.T) {
	t.Parallel()
	r, c := primed(t, instance("10.0.0.1:9000"))
	cc, _ := build(t, c, grpcresolver.Options{})
	change := func(what string, alter func(*discovery.Instance)) (before, after resolver.Endpoint) {
		states, _ := cc.seen()
		before = states[len(states)-1].Endpoints[0]
		next := r.Instances(callee)[0].Clone()
		alter(next)
		r.Put(next)
		cc.wait(t, what, func(s []resolver.State, _ []error) bool { return len(s) > len(states) })
		return before, cc.last().Endpoints[0]
	}
	before, after := change("a change of metadata", func(i *discovery.Instance) {
		i.Weight, i.Zone, i.Metadata = 5, "z2", map[string]string{"team": "red"}
	})
	if !before.Addresses[0].Equal(after.Addresses[0]) || before.Attributes.Equal(after.Attributes) {
		t.Error("new metadata has to alter the endpoint and leave its address as it is")
	}
	before, after = change("a restart", func(i *discovery.Instance) { i.Incarnation = "next" })
	if before.Addresses[0].Equal(after.Addresses[0]) {
		t.Error("a new incarnation has to alter the address")
	}
}

func TestChangesAreFoldedWithoutDelayingTheFirst(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r, c := primed(t, instance("10.0.0.1:9000"))
		cc, _ := build(t, c, grpcresolver.Options{})
		wait(t, time.Minute)
		r.Put(instance("10.0.0.2:9000"))
		synctest.Wait() // no time passes
		if states, _ := cc.seen(); len(states) != 2 {
			t.Fatalf("%d updates after the first change, want 2: it goes through at once", len(states))
		}
		wait(t, time.Minute)
		for n := range 1000 {
			i := instance("10.0.0.3:9000")
			i.Weight = n
			r.Put(i)
			wait(t, time.Millisecond)
		}
		wait(t, time.Second)
		states, _ := cc.seen()
		if n := len(states) - 2; n < 9 || n > 13 {
			t.Errorf("%d updates for 1000 changes within a second, want one for each 100 ms", n)
		}
		last := cc.last().Endpoints[2]
		if i, _ := grpcresolver.InstanceOf(last); i.Weight != 999 {
			t.Errorf("the last update has weight %d, want the newest", i.Weight)
		}
	})
}

func wait(t *testing.T, d time.Duration) {
	t.Helper()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-t.Context().Done():
	}
	synctest.Wait()
}

func TestEqualStatesAreNotRepeated(t *testing.T) {
	t.Parallel()
	f := newFed()
	cc, _ := build(t, f, grpcresolver.Options{MinGap: time.Nanosecond})
	for range 5 {
		f.feed([]*discovery.Instance{instance("10.0.0.1:9000"), instance("10.0.0.2:9000")})
	}
	if states, errs := cc.seen(); len(states) != 1 || len(errs) != 0 {
		t.Errorf("%d updates and %d errors, want 1 and none", len(states), len(errs))
	}
}

func TestTheReasonIsReportedOnceAndAsText(t *testing.T) {
	t.Parallel()
	r := discoverytest.NewRegistry()
	r.SetErr(status.Error(codes.PermissionDenied, "etcd: permission denied"))
	c := newCache(t, r)
	cc, _ := build(t, c, grpcresolver.Options{Where: `etcd under "/newsvc/default"`, Patience: time.Hour})
	cc.wait(t, "the reason", func(_ []resolver.State, errs []error) bool { return len(errs) == 1 })
	_, errs := cc.seen()
	for _, part := range []string{callee, "/newsvc/default", "permission denied"} {
		if !strings.Contains(errs[0].Error(), part) {
			t.Errorf("error %q does not name %q", errs[0], part)
		}
	}
	if errors.Unwrap(errs[0]) != nil || status.Code(errs[0]) != codes.Unknown {
		t.Errorf("error %v carries a status, which would end calls that wait", errs[0])
	}
	r.SetErr(nil)
	cc.wait(t, "that there are none", func(_ []resolver.State, errs []error) bool {
		return len(errs) == 2 && strings.HasPrefix(errs[1].Error(), `no instances of "user-service"`)
	})
	r.Put(instance("10.0.0.1:9000"))
	cc.wait(t, "the instance", func(s []resolver.State, _ []error) bool { return len(s) == 1 })
	r.SetErr(errors.New("away again"))
	r.Put(instance("10.0.0.2:9000"))
	r.SetErr(nil)
	cc.wait(t, "the second instance", func(s []resolver.State, _ []error) bool { return len(s) == 2 })
	if _, errs := cc.seen(); len(errs) != 2 {
		t.Errorf("errors %v: an outage is no news for a connection that has instances", errs)
	}
}

func TestASilentSourceIsAReasonToo(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		cc, _ := build(t, newFed(), grpcresolver.Options{Where: "etcd"})
		wait(t, 199*time.Millisecond)
		if _, errs := cc.seen(); len(errs) != 0 {
			t.Errorf("errors %v before the patience is over", errs)
		}
		wait(t, time.Hour)
		if _, errs := cc.seen(); len(errs) != 1 || !strings.Contains(errs[0].Error(), "no answer after 200ms") {
			t.Errorf("errors %v, want one that says how long there was no answer", errs)
		}
	})
}

func TestAnEmptyServiceIsPushedOnlyWhenItReallyIsEmpty(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r, c := primed(t, instance("10.0.0.1:9000"), instance("10.0.0.2:9000"))
		cc, _ := build(t, c, grpcresolver.Options{})
		r.DropAll(callee)
		wait(t, 4*time.Minute)
		if st, errs := cc.seen(); len(st) != 1 || len(errs) != 0 {
			t.Fatalf("%d updates and errors %v while the guard holds, want 1 and none", len(st), errs)
		}
		wait(t, 2*time.Minute)
		st, errs := cc.seen()
		if len(st) != 2 || len(st[1].Endpoints) != 0 || st[1].Endpoints == nil || len(errs) != 1 {
			t.Fatalf("%d updates and errors %v, want the empty set and one reason", len(st), errs)
		}
		r.Put(instance("10.0.0.1:9000"))
		wait(t, time.Second)
		if got := addrsOf(cc.last()); len(got) != 1 {
			t.Errorf("endpoints %v after the return, want it", got)
		}
	})
}

func TestAClosedCacheIsAReason(t *testing.T) {
	t.Parallel()
	c := newCache(t, discoverytest.NewRegistry())
	c.Close()
	cc, _ := build(t, c, grpcresolver.Options{})
	cc.wait(t, "the reason", func(_ []resolver.State, errs []error) bool {
		return len(errs) == 1 && strings.Contains(errs[0].Error(), "closed")
	})
}

// hinted counts hints.
type hinted struct {
	*fed
	hints atomic.Int32
}

func (h *hinted) Refresh(service string) {
	if service == callee {
		h.hints.Add(1)
	}
}

func TestResolveNowIsAHintForTheCache(t *testing.T) {
	t.Parallel()
	h := &hinted{fed: newFed()}
	_, r := build(t, h, grpcresolver.Options{})
	r.ResolveNow(resolver.ResolveNowOptions{})
	if n := h.hints.Load(); n != 1 {
		t.Errorf("%d hints, want 1", n)
	}
}

// stuck is gRPC's side when its balancer hangs.
type stuck struct {
	*stub
	entered chan struct{} // 1 slot
	release chan struct{}
}

func (s *stuck) UpdateState(st resolver.State) error {
	select {
	case s.entered <- struct{}{}:
	default:
	}
	<-s.release
	return s.stub.UpdateState(st)
}

func TestB22ASlowBalancerThenGetsTheNewestState(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := discoverytest.NewRegistry()
		c := newCache(t, r)
		cc := &stuck{stub: newStub(), entered: make(chan struct{}, 1), release: make(chan struct{})}
		res, err := grpcresolver.NewBuilder(c, grpcresolver.Options{}).Build(target(t, "etcd://a/"+callee), cc, resolver.BuildOptions{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(res.Close)
		r.Put(instance("10.0.0.1:9000"))
		<-cc.entered
		for n := range 10_000 {
			r.Put(instance(fmt.Sprintf("10.1.%d.%d:9000", n/250, n%250)))
		}
		wait(t, 10*time.Second)
		close(cc.release)
		wait(t, time.Second)
		states, _ := cc.seen()
		if len(states) != 2 || len(states[1].Endpoints) != 100 {
			t.Errorf("%d updates, the last with %d endpoints; want the one that hung and the newest", len(states), len(cc.last().Endpoints))
		}
	})
}

func TestB27ManyBuildsLeaveNothingBehind(t *testing.T) {
	t.Parallel()
	r, c := primed(t, instance("10.0.0.1:9000"))
	b := grpcresolver.NewBuilder(c, grpcresolver.Options{})
	for range 1000 {
		res, err := b.Build(target(t, "etcd://gateway/user-service"), newStub(), resolver.BuildOptions{})
		if err != nil {
			t.Fatal(err)
		}
		res.Close()
		res.Close()
	}
	if st := c.State(); len(st) != 1 || st[0].Watchers != 1 || r.Watches(callee) != 1 {
		t.Errorf("state = %+v with %d watches of the source, want the test's own watcher on one watch", st, r.Watches(callee))
	}
}
