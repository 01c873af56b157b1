package balancer_test

import (
	"context"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"testing"

	grpcbalancer "google.golang.org/grpc/balancer"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/resolver"
	"pgregory.net/rapid"

	"github.com/newsvc/newsvc/framework/client/internal/balancer"
	"github.com/newsvc/newsvc/framework/discovery"
	"github.com/newsvc/newsvc/framework/grpcresolver"
)

// endpoints is what a resolver makes of instances.
func endpoints(instances []*discovery.Instance) []resolver.Endpoint {
	var s sink
	b := grpcresolver.NewBuilder(known(instances), grpcresolver.Options{Subset: grpcresolver.AllInstances})
	r, err := b.Build(resolver.Target{URL: url.URL{Scheme: grpcresolver.Scheme, Host: "caller", Path: "/callee"}}, &s, resolver.BuildOptions{})
	if err != nil {
		panic(err) // the target above is wrong
	}
	r.Close()
	return s.state.Endpoints
}

// machine is a callee whose instances come, go, fail and return while the rule changes, and what is expected of the picks.
type machine struct {
	cc     *clientConn
	policy grpcbalancer.Balancer
	filter *recorder
	config balancer.Config
	there  map[string]*process
	made   int // processes so far
}

// process is an instance in the machine's eyes.
type process struct {
	instance  *discovery.Instance
	sc        *subConn // the present connection
	connected bool
	known     bool // its health was told on this connection, or it counts as well since it joined
	serves    bool
	served    bool // on this connection
}

func (m *machine) push() {
	var list []*discovery.Instance
	for _, addr := range slices.Sorted(maps.Keys(m.there)) {
		list = append(list, m.there[addr].instance)
	}
	c := m.config
	s := balancer.WithFilter(resolver.State{Endpoints: endpoints(list)}, m.filter)
	_ = m.policy.UpdateClientConnState(grpcbalancer.ClientConnState{ResolverState: s, BalancerConfig: &c})
}

// takers are those that may be picked, as the documentation says it.
func (m *machine) takers() []string {
	pick := func(want func(p *process) bool) []string {
		var all []string
		for addr, p := range m.there {
			if want(p) {
				all = append(all, addr)
			}
		}
		slices.Sort(all)
		return all
	}
	ready := pick(func(p *process) bool { return p.connected && p.known && p.serves })
	if len(ready) == 0 {
		return pick(func(p *process) bool { return p.connected && p.known && p.served })
	}
	in := slices.DeleteFunc(slices.Clone(ready), func(a string) bool { return m.filter.out[a] })
	if len(in) == 0 {
		in = ready
	}
	own := slices.DeleteFunc(slices.Clone(in), func(a string) bool { return m.there[a].instance.Zone != m.config.Zone })
	if m.config.Zone != "" && len(own) > 0 && m.config.ZoneMinShare == 0 && m.config.ZoneMinInstances <= len(own) {
		return own
	}
	return in
}

// Whatever happens, and whatever the rule, picks go to who may have them, to each of those, and to nobody else; and
// nobody but a process that is new or was lost is connected to.
func TestPicksGoToExactlyThoseThatMayHaveThem(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m := &machine{cc: &clientConn{}, filter: &recorder{active: true, out: map[string]bool{}}, there: map[string]*process{}}
		m.config.Rule = balancer.RoundRobin
		m.policy = grpcbalancer.Get(balancer.Name).Build(m.cc, grpcbalancer.BuildOptions{})
		defer m.policy.Close()
		some := func(t *rapid.T) *process {
			if len(m.there) == 0 {
				t.Skip("nobody is there")
			}
			return m.there[rapid.SampledFrom(slices.Sorted(maps.Keys(m.there))).Draw(t, "who")]
		}
		begun := false
		t.Repeat(map[string]func(*rapid.T){
			"come": func(t *rapid.T) {
				addr := fmt.Sprintf("10.0.0.%d:1", rapid.IntRange(1, 6).Draw(t, "host"))
				if m.there[addr] != nil {
					t.Skip("it is there")
				}
				m.made++
				before := len(m.cc.conns)
				p := &process{instance: &discovery.Instance{
					Service: "callee", Addr: addr, State: discovery.StateUp, Incarnation: fmt.Sprint(m.made),
					Zone: rapid.SampledFrom([]string{"", "a", "b"}).Draw(t, "zone"),
				}, known: begun, serves: begun, served: begun}
				m.there[addr] = p
				m.push()
				if len(m.cc.conns) != before+1 {
					t.Fatalf("%d connections were made for a newcomer", len(m.cc.conns)-before)
				}
				p.sc = m.cc.conns[before]
				p.sc.tell(in(connectivity.Connecting))
				p.sc.tell(in(connectivity.Ready))
				p.connected, begun = true, true
			},
			"go": func(t *rapid.T) {
				delete(m.there, some(t).instance.Addr)
				m.push()
			},
			"health": func(t *rapid.T) {
				p := some(t)
				p.known, p.serves = true, rapid.Bool().Draw(t, "serves")
				p.served = p.served || p.serves
				state := connectivity.TransientFailure
				if p.serves {
					state = connectivity.Ready
				}
				p.sc.health(in(state))
			},
			"say": func(t *rapid.T) { // nothing of this may connect anew
				p := some(t)
				changed := *p.instance
				was := m.filter.all[changed.Addr]
				changed.Weight = rapid.IntRange(0, 300).Draw(t, "weight")
				changed.Zone = rapid.SampledFrom([]string{"", "a", "b"}).Draw(t, "zone")
				p.instance = &changed
				m.push()
				if m.filter.all[changed.Addr] != was {
					t.Fatal("an instance that says something else of itself is taken for another one")
				}
			},
			"restart": func(t *rapid.T) { // another process on the old address
				p := some(t)
				m.made++
				changed := *p.instance
				changed.Incarnation = fmt.Sprint(m.made)
				before, was := len(m.cc.conns), m.filter.all[changed.Addr]
				*p = process{instance: &changed}
				m.push()
				if len(m.cc.conns) != before+1 || m.filter.all[changed.Addr] == was {
					t.Fatalf("%d connections were made for a new process; the filter was told of it: %v", len(m.cc.conns)-before, m.filter.all[changed.Addr] != was)
				}
				p.sc, p.connected = m.cc.conns[before], true
				p.sc.tell(in(connectivity.Connecting))
				p.sc.tell(in(connectivity.Ready))
			},
			"rule": func(t *rapid.T) {
				m.config = balancer.Config{
					Rule:             rapid.SampledFrom(balancer.Rules()).Draw(t, "rule"),
					Zone:             rapid.SampledFrom([]string{"", "a"}).Draw(t, "own zone"),
					ZoneMinInstances: rapid.IntRange(0, 2).Draw(t, "min_instances"),
					HashMaxLoad:      rapid.SampledFrom([]float64{0, 1, 1.25}).Draw(t, "max_load"),
				}
				m.push()
			},
			"eject": func(t *rapid.T) {
				addr := some(t).instance.Addr
				m.filter.out[addr] = !m.filter.out[addr]
				m.filter.changed()
			},
			"": func(t *rapid.T) {
				want := m.takers()
				if len(want) == 0 {
					if m.cc.state.Picker != nil && m.cc.state.ConnectivityState == connectivity.Ready {
						t.Fatal("READY, and nobody takes calls")
					}
					return
				}
				got := map[string]int{}
				for range 200 * len(want) {
					r, err := m.cc.state.Picker.Pick(grpcbalancer.PickInfo{Ctx: t.Context(), FullMethodName: "/s/M"})
					if err != nil {
						t.Fatalf("pick: %v, while %v take calls", err, want)
					}
					got[r.SubConn.(*subConn).addr]++
					if r.Done != nil {
						r.Done(grpcbalancer.DoneInfo{BytesSent: true})
					}
				}
				for addr := range got {
					if !slices.Contains(want, addr) {
						t.Fatalf("%s: %s was picked, only %v may be: %v", m.config.Rule, addr, want, got)
					}
				}
				for _, addr := range want {
					if w := m.there[addr].instance.Weight; got[addr] == 0 && (w == 0 || w >= 100) {
						t.Fatalf("%s: %s was never picked of %v: %v", m.config.Rule, addr, want, got)
					}
				}
				if len(m.cc.conns) != m.made {
					t.Fatalf("%d connections were made to %d processes", len(m.cc.conns), m.made)
				}
			},
		})
	})
}

// known is a cache that knows one set.
type known []*discovery.Instance

func (k known) Watch(ctx context.Context, _ string, _ func(discovery.Update)) error {
	<-ctx.Done()
	return ctx.Err()
}

func (k known) Snapshot(string) (discovery.Update, bool) { return discovery.Update{Instances: k}, true }

func (k known) Refresh(string) {}

// sink keeps the state that a resolver sends.
type sink struct {
	resolver.ClientConn
	state resolver.State
}

func (s *sink) UpdateState(state resolver.State) error {
	s.state = state
	return nil
}

func (s *sink) ReportError(error) {}
