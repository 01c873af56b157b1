package balancer_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	grpcbalancer "google.golang.org/grpc/balancer"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/experimental/balancer/weight"
	"google.golang.org/grpc/resolver"
	"pgregory.net/rapid"

	"github.com/newsvc/newsvc/framework/client/internal/balancer"
	"github.com/newsvc/newsvc/framework/internal/backoff"
)

// world is a policy in a world where the test speaks for resolver and connections.
type world struct {
	cc     *clientConn
	policy grpcbalancer.Balancer
	filter balancer.Filter
	config balancer.Config
	addrs  []string
	weight map[string]uint32
	of     map[grpcbalancer.SubConn]string
}

func newWorld(c balancer.Config, f balancer.Filter) *world {
	w := &world{cc: &clientConn{}, config: c, filter: f, weight: map[string]uint32{}, of: map[grpcbalancer.SubConn]string{}}
	w.policy = grpcbalancer.Get(balancer.Name).Build(w.cc, grpcbalancer.BuildOptions{})
	return w
}

// set makes addrs the instances and lets new ones connect and serve.
func (w *world) set(addrs ...string) {
	w.addrs = addrs
	w.push()
	for _, sc := range w.cc.conns {
		if !sc.up && !sc.down {
			sc.up = true
			w.of[sc] = sc.addr
			sc.tell(in(connectivity.Connecting))
			sc.tell(in(connectivity.Ready))
			sc.health(in(connectivity.Ready))
		}
	}
}

func (w *world) push() {
	var s resolver.State
	for _, a := range w.addrs {
		e := resolver.Endpoint{Addresses: []resolver.Address{{Addr: a}}}
		if n := w.weight[a]; n > 0 {
			e = weight.Set(e, weight.EndpointInfo{Weight: n})
		}
		s.Endpoints = append(s.Endpoints, e)
	}
	if w.filter != nil {
		s = balancer.WithFilter(s, w.filter)
	}
	c := w.config
	_ = w.policy.UpdateClientConnState(grpcbalancer.ClientConnState{ResolverState: s, BalancerConfig: &c})
}

func (w *world) pick(ctx context.Context) (string, func(grpcbalancer.DoneInfo), error) {
	r, err := w.cc.state.Picker.Pick(grpcbalancer.PickInfo{Ctx: ctx, FullMethodName: "/s/M"})
	return w.of[r.SubConn], r.Done, err
}

func (w *world) picks(ctx context.Context, n int) map[string]int {
	by := map[string]int{}
	for range n {
		addr, done, err := w.pick(ctx)
		if err != nil {
			addr = err.Error()
		}
		if done != nil {
			done(grpcbalancer.DoneInfo{BytesSent: true})
		}
		by[addr]++
	}
	return by
}

func addrs(n int) []string {
	all := make([]string, n)
	for i := range all {
		all[i] = fmt.Sprintf("10.0.0.%d:1", i+1)
	}
	return all
}

// Each instance is picked in proportion to its weight, to within one round, and evenly over time: the gap between two
// of its picks is never much longer than its share says.
func TestWeightedRoundRobinIsExactAndSmooth(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		weights := rapid.SliceOfN(rapid.Uint32Range(1, 20), 1, 12).Draw(t, "weights")
		w := newWorld(balancer.Config{Rule: balancer.RoundRobin}, nil)
		defer w.policy.Close()
		all, sum := addrs(len(weights)), uint32(0)
		for i, a := range all {
			w.weight[a] = weights[i]
			sum += weights[i]
		}
		w.set(all...)
		const cycles = 20
		n := int(sum) * cycles
		count, last, gap := map[string]int{}, map[string]int{}, map[string]int{}
		for at := range n {
			addr, done, err := w.pick(context.Background())
			if err != nil || done != nil {
				t.Fatalf("pick: %v, done callback: %v", err, done != nil)
			}
			if count[addr] > 0 {
				gap[addr] = max(gap[addr], at-last[addr])
			}
			count[addr]++
			last[addr] = at
		}
		for i, a := range all {
			want := int(weights[i]) * cycles
			if d := count[a] - want; max(d, -d) > 2+want/100 {
				t.Fatalf("weight %d of %v: %d picks, want %d", weights[i], weights, count[a], want)
			}
			if fair := int(sum/weights[i]) + 1; gap[a] > 2*fair+len(all) {
				t.Fatalf("weight %d of %v: %d picks without it, its share is one of %d", weights[i], weights, gap[a], fair)
			}
		}
	})
}

// A key stays where it is unless its instance goes, or one comes that takes it over; whatever the weights.
func TestKeysMoveOnlyWithTheirInstance(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(2, 10).Draw(t, "instances")
		w := newWorld(balancer.Config{Rule: balancer.RingHash}, nil)
		defer w.policy.Close()
		all := addrs(n)
		for _, a := range all {
			w.weight[a] = rapid.Uint32Range(1, 5).Draw(t, "weight")
		}
		at := func() map[int]string {
			homes := map[int]string{}
			for key := range 100 {
				homes[key], _, _ = w.pick(balancer.WithKey(context.Background(), fmt.Sprint(key)))
			}
			return homes
		}
		w.set(all...)
		before := at()
		gone := rapid.IntRange(0, n-1).Draw(t, "gone")
		w.set(slices.Delete(slices.Clone(all), gone, gone+1)...)
		for key, home := range at() {
			if before[key] != all[gone] && home != before[key] {
				t.Fatalf("the key %d moved from %s to %s when %s went", key, before[key], home, all[gone])
			}
		}
		w.set(all...)
		for key, home := range at() {
			if home != before[key] {
				t.Fatalf("the key %d is at %s, was at %s before %s went and came", key, home, before[key], all[gone])
			}
		}
	})
}

func TestKeysSpreadByWeight(t *testing.T) {
	t.Parallel()
	w := newWorld(balancer.Config{Rule: balancer.RingHash}, nil)
	defer w.policy.Close()
	all := addrs(4)
	w.weight[all[0]] = 400
	w.set(all...)
	by := map[string]int{}
	for key := range 7000 {
		addr, _, _ := w.pick(balancer.WithKey(t.Context(), fmt.Sprint(key)))
		by[addr]++
	}
	if by[all[0]] < 3600 || by[all[0]] > 4400 || by[all[1]] < 800 || by[all[1]] > 1200 {
		t.Errorf("7000 keys over weights 400, 100, 100, 100: %v", by)
	}
}

func TestARepeatPassesOverWhoHadTheCall(t *testing.T) {
	t.Parallel()
	for _, name := range balancer.Rules() {
		w := newWorld(balancer.Config{Rule: name}, nil)
		w.set(addrs(4)...)
		for range 20 {
			ctx := balancer.WithAttempts(balancer.WithKey(t.Context(), "key"))
			var had []string
			for range 5 {
				addr, _, _ := w.pick(ctx)
				had = append(had, addr)
				w.picks(t.Context(), 3) // others call, too
			}
			if slices.Sort(had[:4]); len(slices.Compact(had[:4])) != 4 {
				t.Errorf("%s: four attempts at four instances went to %v", name, had)
			}
		}
		w.policy.Close()
	}
}

func TestLeastRequestLeavesABusyInstanceAlone(t *testing.T) {
	t.Parallel()
	w := newWorld(balancer.Config{Rule: balancer.LeastRequest}, nil)
	defer w.policy.Close()
	w.set(addrs(3)...)
	busy, done, _ := w.pick(t.Context())
	if by := w.picks(t.Context(), 100); by[busy] != 0 {
		t.Errorf("an instance with a call in flight got %d of 100 while two were idle", by[busy])
	}
	done(grpcbalancer.DoneInfo{})
	if by := w.picks(t.Context(), 100); by[busy] == 0 {
		t.Error("an instance whose call has ended gets none")
	}
}

func TestAJoinersShareGrowsOverTheSlowStart(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(balancer.Config{Rule: balancer.RoundRobin, SlowStart: 100 * time.Second}, nil)
		defer w.policy.Close()
		all := addrs(3)
		w.set(all[:2]...)
		w.picks(t.Context(), 2)
		w.set(all...)
		if addr, _, _ := w.pick(t.Context()); addr != all[2] {
			t.Errorf("the first pick is %s, want the joiner", addr)
		}
		for age, share := range []float64{0.1, 0.25, 0.5, 0.75, 1} {
			want := share / (2 + share) * 1000
			if got := float64(w.picks(t.Context(), 1000)[all[2]]); got < want-25 || got > want+25 {
				t.Errorf("after %d s the joiner got %v of 1000 picks, want about %v", 25*age, got, want)
			}
			if err := backoff.Sleep(t.Context(), 25*time.Second); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func TestAConfigIsReadStrictly(t *testing.T) {
	t.Parallel()
	parser := grpcbalancer.Get(balancer.Name).(grpcbalancer.ConfigParser)
	for text, want := range map[string]string{
		`{}`: "", `{"rule":"least_request"}`: "",
		`{"rule":"best"}`:        `rule "best" is not known; write one of`,
		`{"rules":"best"}`:       `unknown field "rules"`,
		`{"slowStart":-1}`:       "negative",
		`{"hashMaxLoad":0.5}`:    "less than the average",
		`{"zoneMinInstances":""`: "config",
	} {
		_, err := parser.ParseConfig(json.RawMessage(text))
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}

func TestPicksAllocateNothing(t *testing.T) {
	for _, active := range []bool{false, true} {
		w := newWorld(balancer.Config{Rule: balancer.LeastRequest}, &quiet{active})
		w.set(addrs(5)...)
		if n := testing.AllocsPerRun(1000, func() { w.picks1(t.Context()) }); n >= 1 {
			t.Errorf("a pick with a filter that is active=%v allocates %v objects", active, n)
		}
		w.policy.Close()
	}
}

func (w *world) picks1(ctx context.Context) {
	r, _ := w.cc.state.Picker.Pick(grpcbalancer.PickInfo{Ctx: ctx, FullMethodName: "/s/M"})
	if r.Done != nil {
		r.Done(grpcbalancer.DoneInfo{BytesSent: true})
	}
}

// quiet is a filter and a record that keep nobody out.
type quiet struct{ active bool }

func (q *quiet) Active() bool                                             { return q.active }
func (q *quiet) Join(*balancer.Instance, func()) balancer.Record          { return q }
func (q *quiet) Eligible(ready []*balancer.Instance) []*balancer.Instance { return ready }
func (q *quiet) Trial(string) *balancer.Instance                          { return nil }
func (q *quiet) Begin(string, bool, *any)                                 {}
func (q *quiet) Done(string, time.Duration, grpcbalancer.DoneInfo, *any)  {}
func (q *quiet) Out() error                                               { return nil }
func (q *quiet) Leave()                                                   {}

func BenchmarkPick(b *testing.B) {
	for _, name := range balancer.Rules() {
		for _, n := range []int{3, 100} {
			for _, active := range []bool{false, true} {
				b.Run(fmt.Sprintf("%s/%d/filter=%v", name, n, active), func(b *testing.B) {
					w := newWorld(balancer.Config{Rule: name}, &quiet{active})
					defer w.policy.Close()
					w.set(addrs(n)...)
					b.ReportAllocs()
					for b.Loop() {
						w.picks1(b.Context())
					}
				})
			}
		}
	}
}
