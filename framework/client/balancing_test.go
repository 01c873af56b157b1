package client_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/newsvc/newsvc/framework/client"
	"github.com/newsvc/newsvc/framework/discovery"
	"github.com/newsvc/newsvc/framework/discovery/cache"
	"github.com/newsvc/newsvc/framework/discovery/discoverytest"
	"github.com/newsvc/newsvc/framework/grpcresolver"
	"github.com/newsvc/newsvc/framework/internal/loop"
	"github.com/newsvc/newsvc/framework/internal/notprocessed"
)

// fleet is a callee with instances that say more of themselves than their address.
type fleet struct {
	*discoverytest.Registry
	params client.Params
}

func newFleet(t *testing.T) *fleet {
	t.Helper()
	r := discoverytest.NewRegistry()
	known := cache.New(r, cache.Options{HoldTTL: -1})
	t.Cleanup(known.Close)
	return &fleet{Registry: r, params: client.Params{
		Caller: "caller", Resolver: grpcresolver.NewBuilder(known, grpcresolver.Options{MinGap: time.Millisecond}),
	}}
}

func (f *fleet) put(s *server, zone string, weight int) {
	f.Put(&discovery.Instance{Service: "user-service", Addr: s.addr, Incarnation: s.addr, State: discovery.StateUp, Zone: zone, Weight: weight})
}

// start announces n servers of a zone.
func (f *fleet) start(t *testing.T, n int, zone string, h handler) []*server {
	t.Helper()
	all := make([]*server, n)
	for i := range all {
		all[i] = startServer(t, "127.0.0.1:0", h)
		f.put(all[i], zone, 0)
	}
	return all
}

// connect returns a factory and a connection of which n instances take calls.
func (f *fleet) connect(t *testing.T, n int, change func(*client.Policy)) (*client.Factory, *client.Conn) {
	t.Helper()
	p := f.params
	p.Default = client.DefaultPolicy()
	change(&p.Default)
	factory := newFactoryOf(t, p)
	c := mustConn(t, factory, "user-service")
	c.Connect()
	awaitTakers(t, c, n)
	return factory, c
}

func awaitTakers(t *testing.T, c *client.Conn, n int) {
	t.Helper()
	eventually(t, fmt.Sprintf("%d instances take calls", n), func() bool { return takers(c) == n })
}

func takers(c *client.Conn) int {
	n := 0
	for _, e := range c.Endpoints() {
		if e.Connectivity == "READY" {
			n++
		}
	}
	return n
}

// answers makes n calls, one after the other, and counts who answered.
func answers(t *testing.T, c *client.Conn, n int) map[string]int {
	t.Helper()
	by := map[string]int{}
	for range n {
		by[mustCall(t, c)]++
	}
	return by
}

func rule(name string) func(*client.Policy) {
	return func(p *client.Policy) { p.Balancer = name }
}

// about says whether got is want, give or take a part of it.
func about(got, want int, part float64) bool {
	d := float64(got - want)
	return max(d, -d) <= part*float64(want)
}

// exact are the rules that count, the others draw.
func exact(name string) bool { return name == client.RoundRobin || name == client.WeightedRoundRobin }

func TestEachRuleSpreadsCallsEvenlyOverEqualInstances(t *testing.T) {
	t.Parallel()
	for _, name := range []string{client.RoundRobin, client.WeightedRoundRobin, client.LeastRequest, client.RingHash} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFleet(t)
			servers := f.start(t, 3, "", nil)
			_, c := f.connect(t, 3, rule(name))
			by := answers(t, c, 600)
			for _, s := range servers {
				if part := 0.35; exact(name) && by[s.addr] != 200 || !about(by[s.addr], 200, part) {
					t.Errorf("of 600 calls to three %d went to one of them: %v", by[s.addr], by)
				}
			}
		})
	}
}

func TestWeightsHoldForEachRule(t *testing.T) {
	t.Parallel()
	for _, name := range []string{client.RoundRobin, client.WeightedRoundRobin, client.LeastRequest, client.RingHash} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFleet(t)
			servers := f.start(t, 3, "", nil)
			f.put(servers[0], "", 50)  // half of the two that do not say
			f.put(servers[1], "", 150) // half as much again
			_, c := f.connect(t, 3, rule(name))
			by := answers(t, c, 600)
			for i, want := range []int{100, 300, 200} {
				got, part := by[servers[i].addr], 0.4
				if exact(name) {
					part = 0.02
				}
				if !about(got, want, part) {
					t.Errorf("instance %d of weight %v got %d of 600 calls, want about %d", i, []int{50, 150, 100}[i], got, want)
				}
			}
		})
	}
}

func TestAChangedWeightNeedsNoNewConnection(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	servers := f.start(t, 2, "", nil)
	_, c := f.connect(t, 2, rule(client.RoundRobin))
	f.put(servers[0], "", 300)
	eventually(t, "the heavier one has three of four calls", func() bool { return about(answers(t, c, 40)[servers[0].addr], 30, 0.04) })
	for _, s := range servers {
		if n := s.conns.Load(); n != 1 {
			t.Errorf("%d connections to one instance, want 1", n)
		}
	}
}

func TestLeastRequestKeepsCallsFromABusyInstance(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	quick := f.start(t, 2, "", nil)
	stuck := f.start(t, 1, "", hang)[0]
	_, c := f.connect(t, 3, rule(client.LeastRequest))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var callers loop.Group
	defer callers.Stop()
	for stuck.runs.Load() == 0 { // until one call hangs there
		done := make(chan struct{})
		callers.Start(ctx, func(ctx context.Context) {
			_, _ = call(ctx, c, methodPut)
			close(done)
		})
		eventually(t, "the call has ended or hangs", func() bool {
			select {
			case <-done:
				return true
			default:
				return stuck.runs.Load() > 0
			}
		})
	}
	by := answers(t, c, 200)
	if by[quick[0].addr]+by[quick[1].addr] != 200 || stuck.runs.Load() != 1 {
		t.Errorf("an instance with a call in flight got %d more while two were idle: %v", stuck.runs.Load()-1, by)
	}
	cancel()
}

// homes returns who answers each key.
func homes(t *testing.T, c *client.Conn, keys int) map[string]string {
	t.Helper()
	at := map[string]string{}
	for n := range keys {
		key := fmt.Sprintf("user-%d", n)
		addr, err := call(client.WithHashKey(t.Context(), key), c, methodPut)
		if err != nil {
			t.Fatal(err)
		}
		at[key] = addr
	}
	return at
}

func TestCallsOfOneKeyGoToOneInstanceFromAllCallers(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	f.start(t, 4, "", nil)
	_, c := f.connect(t, 4, rule(client.RingHash))
	_, other := f.connect(t, 4, func(p *client.Policy) { p.Balancer, p.RingHash.Header = client.RingHash, "x-user-id" })
	at := homes(t, c, 60)
	if again := homes(t, c, 60); !maps.Equal(at, again) {
		t.Error("keys did not stay where they were")
	}
	by := map[string]int{}
	for key, addr := range at {
		by[addr]++
		got, err := call(metadata.AppendToOutgoingContext(t.Context(), "X-User-Id", key), other, methodPut)
		if err != nil || got != addr {
			t.Errorf("with the key %s in a header another caller was answered by %s, %v; want %s", key, got, err, addr)
		}
	}
	if len(by) != 4 {
		t.Errorf("60 keys are at %d of 4 instances: %v", len(by), by)
	}
}

func TestOnlyTheKeysOfWhoComesOrGoesMove(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	servers := f.start(t, 4, "", nil)
	_, c := f.connect(t, 4, rule(client.RingHash))
	before := homes(t, c, 100)
	f.Drop("user-service", servers[0].addr)
	awaitTakers(t, c, 3)
	without := homes(t, c, 100)
	for key, addr := range before {
		if moved := without[key] != addr; moved != (addr == servers[0].addr) {
			t.Errorf("the key %s was at %s and is at %s, after %s went", key, addr, without[key], servers[0].addr)
		}
	}
	f.put(servers[0], "", 0)
	awaitTakers(t, c, 4)
	if back := homes(t, c, 100); !maps.Equal(before, back) {
		t.Error("keys did not return with their instance")
	}
}

func TestARepeatOfACallWithAKeyGoesToAnotherInstance(t *testing.T) {
	t.Parallel()
	unavailable := func(*server, string, string, grpc.ServerStream) error {
		return status.Error(codes.Unavailable, "broken")
	}
	for name, c := range map[string]struct {
		h      handler
		method string
	}{
		"after a refusal": {func(*server, string, string, grpc.ServerStream) error { return notprocessed.Error("not now") }, methodPut},
		"by gRPC":         {unavailable, methodGet},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFleet(t)
			good, bad := f.start(t, 1, "", nil)[0], f.start(t, 1, "", c.h)[0]
			_, conn := f.connect(t, 2, rule(client.RingHash))
			for n := range 20 {
				addr, err := call(client.WithHashKey(t.Context(), fmt.Sprint(n)), conn, c.method)
				if err != nil || addr != good.addr {
					t.Errorf("key %d: %q, %v; want the answer of the other instance", n, addr, err)
				}
			}
			if bad.runs.Load() == 0 {
				t.Error("no key was at the bad instance")
			}
		})
	}
}

// Two of three refuse, and many call: without a memory of who refused it one call in five would meet nobody else in four
// attempts.
func TestRepeatsGoToInstancesThatHaveNotRefusedTheCallYet(t *testing.T) {
	t.Parallel()
	for _, name := range []string{client.RoundRobin, client.LeastRequest, client.RingHash} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFleet(t)
			busy := func(*server, string, string, grpc.ServerStream) error { return notprocessed.Error("busy") }
			good := f.start(t, 1, "", nil)[0]
			f.start(t, 2, "", busy)
			_, c := f.connect(t, 3, func(p *client.Policy) {
				p.Balancer, p.NotProcessed.BudgetRatio, p.Ejection.Enabled = name, 4, false
			})
			var callers loop.Group
			defer callers.Stop()
			failed := make(chan error, 80)
			for range 8 {
				callers.Start(t.Context(), func(ctx context.Context) {
					for range 5 {
						addr, err := call(ctx, c, methodPut)
						if err == nil && addr != good.addr {
							err = fmt.Errorf("answered by %s", addr)
						}
						failed <- err
						s, err := list(ctx, c)
						if err == nil {
							err = s.RecvMsg(&wrapperspb.StringValue{})
						}
						failed <- err
					}
				})
			}
			for range cap(failed) {
				if err := <-failed; err != nil {
					t.Errorf("a call that another instance could have answered: %v", err)
				}
			}
		})
	}
}

func TestMaxLoadSendsTheCallsOfAHotKeyElsewhere(t *testing.T) {
	t.Parallel()
	for load, spread := range map[float64]bool{0: false, 1.25: true} {
		t.Run(fmt.Sprint(load), func(t *testing.T) {
			t.Parallel()
			f := newFleet(t)
			servers := f.start(t, 4, "", hang)
			_, c := f.connect(t, 4, func(p *client.Policy) { p.Balancer, p.RingHash.MaxLoad = client.RingHash, load })
			ctx, cancel := context.WithCancel(client.WithHashKey(t.Context(), "hot"))
			var streams []grpc.ClientStream
			for range 12 {
				s, err := list(ctx, c)
				if err != nil {
					t.Fatal(err)
				}
				streams = append(streams, s)
			}
			total, most := int64(0), int64(0)
			eventually(t, "all calls run", func() bool {
				total, most = 0, 0
				for _, s := range servers {
					total += s.runs.Load()
					most = max(most, s.runs.Load())
				}
				return total == 12
			})
			if most > 4 == spread {
				t.Errorf("with max_load %v one instance has %d of 12 calls of one key", load, most)
			}
			cancel()
			for _, s := range streams {
				_ = s.RecvMsg(nil)
			}
		})
	}
}

func zoned(change ...func(*client.Policy)) func(*client.Policy) {
	return func(p *client.Policy) {
		p.Zone.Prefer = true
		for _, f := range change {
			f(p)
		}
	}
}

// inside counts the calls that stayed with these servers.
func inside(by map[string]int, servers []*server) int {
	n := 0
	for _, s := range servers {
		n += by[s.addr]
	}
	return n
}

func TestCallsStayInTheCallersZone(t *testing.T) {
	t.Parallel()
	for _, name := range []string{client.RoundRobin, client.LeastRequest, client.RingHash} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFleet(t)
			f.params.Zone = "a"
			own := f.start(t, 2, "a", nil)
			f.start(t, 2, "b", nil)
			f.start(t, 1, "", nil)
			_, c := f.connect(t, 5, zoned(rule(name)))
			if by := answers(t, c, 60); inside(by, own) != 60 || len(by) != 2 {
				t.Errorf("who answered a caller in zone a: %v, want its two instances %s and %s", by, own[0].addr, own[1].addr)
			}
		})
	}
}

func TestEndpointsTellWhatShareOfTheCallsIsWhose(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	f.params.Zone = "a"
	own, other := f.start(t, 2, "a", nil), f.start(t, 1, "b", nil)[0]
	f.put(own[0], "a", 300)
	_, c := f.connect(t, 3, zoned())
	want := map[string]float64{own[0].addr: 0.75, own[1].addr: 0.25, other.addr: 0}
	for _, e := range c.Endpoints() {
		if e.Share != want[e.Addr] {
			t.Errorf("%s is said to have %v of the calls, want %v", e.Addr, e.Share, want[e.Addr])
		}
	}
}

func TestACallerOfNoZoneOrOfOneWithoutInstancesCallsAll(t *testing.T) {
	t.Parallel()
	for _, zone := range []string{"", "elsewhere"} {
		t.Run(zone, func(t *testing.T) {
			t.Parallel()
			f := newFleet(t)
			f.params.Zone = zone
			f.start(t, 1, "a", nil)
			f.start(t, 1, "b", nil)
			f.start(t, 1, "", nil)
			_, c := f.connect(t, 3, zoned())
			if by := answers(t, c, 30); len(by) != 3 {
				t.Errorf("who answered: %v, want all three", by)
			}
		})
	}
}

func TestACallerThatPrefersItsZoneAndKnowsNoneSaysSo(t *testing.T) {
	t.Parallel()
	for zone, lines := range map[string]int{"": 1, "a": 0} {
		core, logs := observer.New(zap.WarnLevel)
		p := client.DefaultPolicy()
		p.Zone.Prefer = true
		f := newFactoryOf(t, client.Params{Caller: "caller", Zone: zone, Resolver: newRegistry(), Default: p, Log: zap.New(core)})
		mustConn(t, f, "user-service")
		if n := logs.FilterMessageSnippet("registration.zone").Len(); n != lines {
			t.Errorf("in zone %q %d lines say that it is not known, want %d", zone, n, lines)
		}
	}
}

func TestTheZoneOfThePolicyWins(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	f.params.Zone = "a"
	f.start(t, 1, "a", nil)
	other := f.start(t, 1, "b", nil)
	_, c := f.connect(t, 2, zoned(func(p *client.Policy) { p.Zone.Name = "b" }))
	if by := answers(t, c, 10); inside(by, other) != 10 {
		t.Errorf("who answered: %v, want zone b only", by)
	}
}

func TestAZoneThatLosesInstancesSpillsOver(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	f.params.Zone = "a"
	own, other := f.start(t, 4, "a", nil), f.start(t, 3, "b", nil)
	_, c := f.connect(t, 7, zoned(func(p *client.Policy) { p.Zone.MinShare = 0.75 }))
	for lost, want := range []int{300, 300, 200, 100, 0} { // of 300: all with three of four, then 0.5/0.75, 0.25/0.75
		if lost > 0 {
			own[lost-1].health.SetServingStatus("", healthpb.HealthCheckResponse_NOT_SERVING)
			awaitTakers(t, c, 7-lost)
		}
		by := answers(t, c, 300)
		if got := inside(by, own); max(got-want, want-got) > 4 {
			t.Errorf("with %d of 4 instances lost %d of 300 calls stayed in the zone, want %d: %v", lost, got, want, by)
		}
		for _, s := range other {
			if each := (300 - want) / 3; max(by[s.addr]-each, each-by[s.addr]) > 4 {
				t.Errorf("with %d of 4 instances lost an instance elsewhere got %d calls, want %d", lost, by[s.addr], each)
			}
		}
	}
	for _, s := range own {
		s.health.SetServingStatus("", healthpb.HealthCheckResponse_SERVING)
	}
	awaitTakers(t, c, 7)
	if by := answers(t, c, 30); inside(by, own) != 30 {
		t.Errorf("calls did not return into the zone: %v", by)
	}
}

func TestAZoneWithTooFewInstancesKeepsSoManyPartsOfTheCalls(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	f.params.Zone = "a"
	own := f.start(t, 1, "a", nil)
	f.start(t, 2, "b", nil)
	_, c := f.connect(t, 3, zoned(func(p *client.Policy) { p.Zone.MinInstances = 2 }))
	if got := inside(answers(t, c, 200), own); !about(got, 100, 0.04) {
		t.Errorf("one of two wanted instances kept %d of 200 calls, want half", got)
	}
}

func TestAJoinerHasItsFirstCallAtOnceAndThenASmallShare(t *testing.T) {
	t.Parallel()
	for _, name := range []string{client.RoundRobin, client.LeastRequest} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFleet(t)
			servers := f.start(t, 3, "", nil)
			_, c := f.connect(t, 3, func(p *client.Policy) { p.Balancer, p.SlowStart = name, time.Hour })
			if by := answers(t, c, 300); !about(by[servers[0].addr], 100, 0.4) {
				t.Errorf("instances that were there from the start are slowed: %v", by)
			}
			joined := f.start(t, 1, "", nil)[0]
			awaitTakers(t, c, 4)
			if addr := mustCall(t, c); addr != joined.addr {
				t.Errorf("the first call went to %s, not to the joiner", addr)
			}
			if got := answers(t, c, 620)[joined.addr]; got < 1 || got > 60 { // a tenth against three wholes: 20
				t.Errorf("a joiner got %d of 620 calls, want about 20", got)
			}
		})
	}
}

func TestWithoutSlowStartAJoinerTakesItsShareAtOnce(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	f.start(t, 3, "", nil)
	_, c := f.connect(t, 3, rule(client.RoundRobin))
	answers(t, c, 3)
	joined := f.start(t, 1, "", nil)[0]
	awaitTakers(t, c, 4)
	if got := answers(t, c, 40)[joined.addr]; got != 10 {
		t.Errorf("a joiner got %d of 40 calls, want 10", got)
	}
}

func TestTheRuleChangesUnderLoadWithoutALostCallOrANewConnection(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	f.params.Zone = "a"
	servers := slices.Concat(f.start(t, 2, "a", nil), f.start(t, 2, "b", nil))
	factory, c := f.connect(t, 4, func(p *client.Policy) { p.WaitForReady = false })
	failed := make(chan error, 1)
	var callers loop.Group
	for range 4 {
		callers.Start(t.Context(), func(ctx context.Context) {
			for ctx.Err() == nil {
				if _, err := call(ctx, c, methodPut); err != nil && ctx.Err() == nil {
					select {
					case failed <- err:
					default:
					}
				}
			}
		})
	}
	for n := range 40 {
		rules := []string{client.RoundRobin, client.LeastRequest, client.WeightedRoundRobin, client.RingHash}
		update(t, factory, func(p *client.Policy) {
			p.WaitForReady, p.Balancer = false, rules[n%len(rules)]
			p.Zone.Prefer, p.SlowStart = n%3 == 0, time.Duration(n%2)*time.Minute
		})
		f.put(servers[n%len(servers)], "", 50+n)
		pause(t, 2*time.Millisecond)
	}
	callers.Stop()
	select {
	case err := <-failed:
		t.Errorf("a call failed while the rule changed: %v", err)
	default:
	}
	for _, s := range servers {
		if n := s.conns.Load(); n != 1 {
			t.Errorf("%d connections to one instance, want 1", n)
		}
	}
}
