package balancer_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	grpcbalancer "google.golang.org/grpc/balancer"
	"google.golang.org/grpc/connectivity"

	"github.com/newsvc/newsvc/framework/client/internal/balancer"
)

// recorder is a filter of which the test says whom it keeps out.
type recorder struct {
	active  bool
	out     map[string]bool
	trial   *balancer.Instance
	all     map[string]*balancer.Instance
	changed func()
	told    []string
}

func (r *recorder) Active() bool { return r.active }

func (r *recorder) Join(i *balancer.Instance, changed func()) balancer.Record {
	if r.all == nil {
		r.all = map[string]*balancer.Instance{}
	}
	r.all[i.Addr()], r.changed = i, changed
	r.told = append(r.told, "join "+i.Addr())
	return &record{r, i}
}

func (r *recorder) Eligible(ready []*balancer.Instance) []*balancer.Instance {
	return slices.DeleteFunc(slices.Clone(ready), func(i *balancer.Instance) bool { return r.out[i.Addr()] })
}

func (r *recorder) Trial(string) *balancer.Instance { return r.trial }

type record struct {
	r *recorder
	i *balancer.Instance
}

func (r *record) Begin(method string, trial bool, slot *any) {
	*slot = r.i.Addr()
	r.r.told = append(r.r.told, fmt.Sprintf("begin %s %s %v", r.i.Addr(), method, trial))
}

func (r *record) Done(method string, _ time.Duration, info grpcbalancer.DoneInfo, slot *any) {
	r.r.told = append(r.r.told, fmt.Sprintf("done %v %s %v", *slot, method, info.Err))
}

func (r *record) Out() error {
	if r.r.out[r.i.Addr()] {
		return errors.New("ejected")
	}
	return nil
}

func (r *record) Leave() { r.r.told = append(r.r.told, "leave "+r.i.Addr()) }

func TestAFilterNarrowsThePicksOfEachRule(t *testing.T) {
	t.Parallel()
	for _, name := range balancer.Rules() {
		f := &recorder{active: true, out: map[string]bool{"10.0.0.1:1": true}}
		w := newWorld(balancer.Config{Rule: name}, f)
		w.set(addrs(3)...)
		if by := w.picks(t.Context(), 60); by["10.0.0.1:1"] != 0 || len(by) != 2 {
			t.Errorf("%s: picks %v, want none of the first", name, by)
		}
		f.out = nil
		f.changed()
		if by := w.picks(t.Context(), 60); len(by) != 3 {
			t.Errorf("%s: picks %v, want all", name, by)
		}
		w.policy.Close()
	}
}

func TestAFilterThatKeepsAllOutIsNotHeard(t *testing.T) {
	t.Parallel()
	f := &recorder{out: map[string]bool{"10.0.0.1:1": true, "10.0.0.2:1": true}}
	w := newWorld(balancer.Config{Rule: balancer.RoundRobin}, f)
	defer w.policy.Close()
	w.set(addrs(2)...)
	if by := w.picks(t.Context(), 10); by["10.0.0.1:1"] != 5 || by["10.0.0.2:1"] != 5 {
		t.Errorf("picks %v, want all", by)
	}
}

func TestAFilterIsToldOfInstancesAndCalls(t *testing.T) {
	t.Parallel()
	f := &recorder{}
	w := newWorld(balancer.Config{Rule: balancer.RoundRobin}, f)
	w.set("10.0.0.1:1")
	w.picks(t.Context(), 1) // not active: not told
	f.active = true
	f.changed()
	_, done, _ := w.pick(t.Context())
	if n := f.all["10.0.0.1:1"].InFlight(); n != 1 {
		t.Errorf("%d calls in flight, want 1", n)
	}
	done(grpcbalancer.DoneInfo{Err: errors.New("no")})
	f.trial = f.all["10.0.0.1:1"]
	_, done, _ = w.pick(t.Context())
	w.policy.Close()
	done(grpcbalancer.DoneInfo{})
	want := []string{
		"join 10.0.0.1:1", "begin 10.0.0.1:1 /s/M false", "done 10.0.0.1:1 /s/M no",
		"begin 10.0.0.1:1 /s/M true", "leave 10.0.0.1:1", "done 10.0.0.1:1 /s/M <nil>",
	}
	if !slices.Equal(f.told, want) {
		t.Errorf("told %q\nwant %q", f.told, want)
	}
}

func TestATrialGoesToOneThatIsKeptOut(t *testing.T) {
	t.Parallel()
	f := &recorder{active: true, out: map[string]bool{"10.0.0.1:1": true}}
	w := newWorld(balancer.Config{Rule: balancer.RoundRobin}, f)
	defer w.policy.Close()
	w.set(addrs(2)...)
	f.trial = f.all["10.0.0.1:1"]
	if addr, _, _ := w.pick(t.Context()); addr != "10.0.0.1:1" {
		t.Errorf("the trial went to %s", addr)
	}
	f.trial = nil
	if addr, _, _ := w.pick(t.Context()); addr != "10.0.0.2:1" {
		t.Errorf("after the trial %s was picked", addr)
	}
}

func TestObserversAreToldWhoIsKeptOut(t *testing.T) {
	t.Parallel()
	f := &recorder{active: true, out: map[string]bool{"10.0.0.1:1": true}}
	var o balancer.Observer
	s := of("10.0.0.1:1")
	s.ResolverState = o.With(balancer.WithFilter(s.ResolverState, f))
	cc, b := build(t, s)
	defer b.Close()
	cc.conns[0].tell(in(connectivity.Connecting))
	cc.conns[0].tell(in(connectivity.Ready))
	cc.conns[0].health(in(connectivity.Ready))
	if e := o.Endpoints(); len(e) != 1 || e[0].Out == nil || e[0].State != connectivity.Ready {
		t.Errorf("endpoints %+v, want one that is READY and kept out", e)
	}
}
