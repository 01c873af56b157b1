package grpcresolver_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/newsvc/newsvc/framework/discovery"
	"github.com/newsvc/newsvc/framework/grpcresolver"
)

func sorted(instances []*discovery.Instance) []*discovery.Instance {
	slices.SortFunc(instances, func(a, b *discovery.Instance) int { return strings.Compare(a.Addr, b.Addr) })
	return instances
}

func fleet(n int) []*discovery.Instance {
	out := make([]*discovery.Instance, n)
	for k := range out {
		out[k] = instance(fmt.Sprintf("10.%d.%d.%d:9000", k/62500, k/250%250, k%250))
	}
	return sorted(out)
}

func with(instances []*discovery.Instance, i *discovery.Instance) []*discovery.Instance {
	return sorted(append(slices.Clone(instances), i))
}

// chosen is what a new caller with the seed uses of the set.
func chosen(t *testing.T, seed string, instances []*discovery.Instance) []string {
	t.Helper()
	f := newFed()
	cc, r := build(t, f, grpcresolver.Options{Seed: seed})
	f.feed(instances)
	r.Close()
	return addrsOf(cc.last())
}

func changed(a, b []string) int {
	n := 0
	for _, x := range a {
		if !slices.Contains(b, x) {
			n++
		}
	}
	return n
}

func TestSmallCalleesAreUsedWhole(t *testing.T) {
	t.Parallel()
	if n := len(chosen(t, "seed", fleet(100))); n != 100 {
		t.Errorf("%d of 100 are used, want all", n)
	}
	if n := len(chosen(t, "seed", fleet(101))); n != 100 {
		t.Errorf("%d of 101 are used, want 100", n)
	}
	f := newFed()
	cc, _ := build(t, f, grpcresolver.Options{Subset: grpcresolver.AllInstances})
	f.feed(fleet(500))
	if n := len(cc.last().Endpoints); n != 500 {
		t.Errorf("%d of 500 are used without a subset, want all", n)
	}
}

func TestB21OneChangeIsAtMostOneNewConnection(t *testing.T) {
	t.Parallel()
	all := fleet(200)
	before := chosen(t, "seed", all)
	if again := chosen(t, "seed", all); !slices.Equal(before, again) {
		t.Error("the same seed and set gave another subset")
	}
	for k := range 50 {
		if n := changed(before, chosen(t, "seed", with(all, instance(fmt.Sprintf("10.9.9.%d:9000", k))))); n > 1 {
			t.Errorf("one that joined replaced %d", n)
		}
	}
	for k := range 50 {
		without := slices.Delete(slices.Clone(all), k, k+1)
		if n := changed(chosen(t, "seed", without), before); n > 1 {
			t.Errorf("one that left brought %d new ones", n)
		}
	}
}

func TestCallersSpreadOverTheCallee(t *testing.T) {
	t.Parallel()
	all := fleet(1000)
	load := map[string]int{}
	for range 300 {
		for _, a := range chosen(t, discovery.NewIncarnation(), all) {
			load[a]++
		}
	}
	// 30 on average; the standard deviation is about 5.2.
	for _, i := range all {
		if n := load[i.Addr]; n < 5 || n > 60 {
			t.Errorf("instance %q has %d callers, want about 30", i.Addr, n)
		}
	}
}

func TestTheSubsetDoesNotDependOnHistory(t *testing.T) {
	t.Parallel()
	f := newFed()
	cc, _ := build(t, f, grpcresolver.Options{Seed: "seed", MinGap: time.Nanosecond})
	rnd := rand.New(rand.NewPCG(1, 2))
	all := fleet(300)
	f.feed(all)
	for step := range 400 {
		all = slices.Clone(all)
		for range 1 + rnd.IntN(8) {
			k := rnd.IntN(len(all))
			switch rnd.IntN(4) {
			case 0:
				all = with(all, instance(fmt.Sprintf("10.8.%d.%d:9000", step%250, rnd.IntN(250))))
				all = slices.CompactFunc(all, func(a, b *discovery.Instance) bool { return a.Addr == b.Addr })
			case 1, 2:
				if len(all) > 60 {
					all = slices.Delete(all, k, k+1)
				}
			default:
				next := all[k].Clone()
				next.Incarnation = fmt.Sprint("step", step)
				all[k] = next
			}
		}
		if step == 200 {
			all = fleet(600)
		}
		f.feed(all)
		if step%10 == 0 {
			if got, want := addrsOf(cc.last()), chosen(t, "seed", all); !slices.Equal(got, want) {
				t.Fatalf("step %d with %d instances: %d differ from what a new caller uses", step, len(all), changed(got, want))
			}
		}
	}
}

func TestAChangeOutsideTheSubsetDoesNotReachGRPC(t *testing.T) {
	t.Parallel()
	f := newFed()
	cc, _ := build(t, f, grpcresolver.Options{Seed: "seed", MinGap: time.Nanosecond})
	all := fleet(2000)
	f.feed(all)
	used := addrsOf(cc.last())
	if len(used) != 100 {
		t.Fatalf("%d instances are used, want 100", len(used))
	}
	for k, i := range all {
		if !slices.Contains(used, i.Addr) {
			f.feed(slices.Delete(slices.Clone(all), k, k+1))
			f.feed(all)
		}
		if k > 200 {
			break
		}
	}
	if states, _ := cc.seen(); len(states) != 1 {
		t.Errorf("%d updates, want 1", len(states))
	}
}

func BenchmarkJoin(b *testing.B) {
	for _, size := range []int{1000, 10_000} {
		for name, subset := range map[string]int{"subset=100": 100, "all": grpcresolver.AllInstances} {
			b.Run(fmt.Sprintf("%d/%s", size, name), func(b *testing.B) {
				f := newFed()
				cc := &forgetful{}
				buildFor(b, cc, f, grpcresolver.Options{Subset: subset, Seed: "seed", MinGap: time.Nanosecond})
				all := fleet(size)
				f.feed(all)
				joined := make([][]*discovery.Instance, 64)
				for k := range joined {
					joined[k] = with(all, instance(fmt.Sprintf("10.9.9.%d:9000", k)))
				}
				b.ReportAllocs()
				for n := 0; b.Loop(); n++ {
					f.feed(joined[n%len(joined)]) // one joins and the one before leaves
				}
				b.ReportMetric(float64(cc.updates)/float64(b.N), "updates/op")
			})
		}
	}
}

func BenchmarkFirstState(b *testing.B) {
	for _, size := range []int{1000, 10_000} {
		for name, subset := range map[string]int{"subset=100": 100, "all": grpcresolver.AllInstances} {
			b.Run(fmt.Sprintf("%d/%s", size, name), func(b *testing.B) {
				all := fleet(size)
				b.ReportAllocs()
				for b.Loop() {
					f := newFed()
					r := buildFor(b, &forgetful{}, f, grpcresolver.Options{Subset: subset, Seed: "seed"})
					f.feed(all)
					r.Close()
				}
			})
		}
	}
}
