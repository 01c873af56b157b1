package client_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/newsvc/newsvc/framework/client"
	"github.com/newsvc/newsvc/framework/discovery"
	"github.com/newsvc/newsvc/framework/discovery/cache"
	"github.com/newsvc/newsvc/framework/discovery/discoverytest"
	"github.com/newsvc/newsvc/framework/grpcresolver"
	"github.com/newsvc/newsvc/framework/internal/loop"
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
	if got := answers(t, c, 40)[joined.addr]; got != 10 && got != 11 { // its first call comes before its turn
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
