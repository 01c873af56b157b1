package client

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/connectivity"
)

// State is what a connection knows of its callee at one moment, for people and for the admin page.
type State struct {
	Callee string `json:"callee"`
	// Target is what is resolved: "etcd://caller/callee" or the policy's own target.
	Target string `json:"target"`
	// Connectivity is gRPC's word for it: IDLE, CONNECTING, READY, TRANSIENT_FAILURE or SHUTDOWN. READY means that
	// one instance at least is connected.
	Connectivity string `json:"connectivity"`
	// Instances is how many the resolver gave last; with discovery that is the caller's subset.
	Instances int `json:"instances"`
	// ResolverError is the resolver's last complaint since then; empty when all is well.
	ResolverError string `json:"resolver_error,omitempty"`
	// RunningCalls counts unary calls and streams, those on a replaced connection too.
	RunningCalls int `json:"running_calls"`
	// Replacing is the target of a new connection that takes over once it is ready; empty mostly.
	Replacing string `json:"replacing,omitempty"`
	// Ejections counts how often an instance was ejected on the present connection.
	Ejections int64 `json:"ejections"`
	// Hedges counts the attempts that were made because an answer was late, and HedgesWon those of them whose answer came
	// first.
	Hedges    int64 `json:"hedges"`
	HedgesWon int64 `json:"hedges_won"`
	// Breaker says why the breaker holds calls back at present, see [BreakerPolicy]; empty when it lets all pass.
	Breaker string `json:"breaker,omitempty"`
	// Policy is the one in force.
	Policy Policy `json:"policy"`
}

// State returns the present state. It does not block on the network.
func (c *Conn) State() State {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := State{
		Callee: c.callee, Connectivity: connectivity.Shutdown.String(), Policy: c.policy,
		HedgesWon: c.hedges.won.Load(), Hedges: c.hedges.sent.Load(), // in this order: no more are won than were sent
	}
	if p := c.live.Load().breaker; p != nil {
		s.Breaker = c.breaker.holds(p, time.Now())
	}
	for old := range c.retiring {
		s.RunningCalls += old.active()
	}
	if c.next != nil {
		s.Replacing = c.next.target
	}
	ch := c.cur.Load()
	if ch == nil {
		return s
	}
	s.Target = ch.target
	s.Connectivity = ch.cc.GetState().String()
	s.Instances, _ = ch.hub.watch()
	s.RunningCalls += ch.active()
	s.Ejections = ch.ejector.total.Load()
	if err := ch.hub.err(); err != nil {
		s.ResolverError = err.Error()
	}
	return s
}

// EndpointState is how the connection to one address is doing.
type EndpointState struct {
	// Addr is host:port.
	Addr string `json:"addr"`
	// Connectivity is READY for one that takes calls; an instance whose health service says that it does not serve is
	// TRANSIENT_FAILURE, like one that can't be reached.
	Connectivity string `json:"connectivity"`
	// Error is why it is TRANSIENT_FAILURE.
	Error string `json:"error,omitempty"`
	// LastResort is set for an instance that served, says that it does not any more, and takes calls until it is gone
	// because no other does.
	LastResort bool `json:"last_resort,omitempty"`
	// Share is the part of the calls that it is to have, 0 to 1, by its weight, zone and slow start. One that is READY and
	// not ejected has none when it is kept in reserve, for callers in its own zone.
	Share float64 `json:"share"`
	// Ejected says how far an instance that gets no calls is on its way back, and why it was ejected, see [EjectionPolicy];
	// empty for one that gets calls.
	Ejected string `json:"ejected,omitempty"`
	// Ejection is the same in parts; nil for one that gets calls.
	Ejection *EjectionState `json:"ejection,omitempty"`
}

// Endpoints returns how the connection to each address is doing, ordered by address; nil when the balancer does not tell,
// as "pick_first" doesn't. Addresses outside the caller's subset are not among them. It does not block on the network.
func (c *Conn) Endpoints() []EndpointState {
	if ch := c.cur.Load(); ch != nil {
		return ch.endpoints()
	}
	return nil
}

func (ch *channel) endpoints() []EndpointState {
	var out []EndpointState
	for _, e := range ch.hub.observer.Endpoints() {
		s := EndpointState{Connectivity: e.State.String(), LastResort: e.LastResort, Share: e.Share}
		if len(e.Endpoint.Addresses) > 0 {
			s.Addr = e.Endpoint.Addresses[0].Addr
		}
		if e.Err != nil {
			s.Error = plain(e.Err)
		}
		if e.Out != nil {
			s.Ejected, s.Ejection = e.Out.Error(), ejectionOf(e.Out)
		}
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b EndpointState) int { return strings.Compare(a.Addr, b.Addr) })
	return out
}

// plain is the text of a connection's error without what gRPC wraps it in.
func plain(err error) string {
	text := err.Error()
	if desc, ok := strings.CutPrefix(text, "connection error: desc = "); ok {
		if inner, err := strconv.Unquote(desc); err == nil {
			return strings.TrimPrefix(strings.TrimPrefix(inner, "transport: "), "Error while dialing: ")
		}
	}
	return text
}
