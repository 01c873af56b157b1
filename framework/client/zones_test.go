package client_test

import (
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/newsvc/newsvc/framework/client"
)

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
