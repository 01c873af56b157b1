package client

import (
	"fmt"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/serviceconfig"

	"github.com/newsvc/newsvc/framework/client/internal/balancer"
)

// pushBuilder wraps a resolver.Builder so that every state it sends carries the service config of the policy,
// whatever the resolver itself says: discovery, DNS and fixed lists are all told how to balance, retry and wait.
type pushBuilder struct {
	resolver.Builder
	hub *hub
}

// Build implements [resolver.Builder].
func (b pushBuilder) Build(target resolver.Target, cc resolver.ClientConn, opts resolver.BuildOptions) (resolver.Resolver, error) {
	// The service config is ours alone: DNS need not ask for TXT records that would be thrown away.
	opts.DisableServiceConfig = true
	pushed := &pushConn{ClientConn: cc, hub: b.hub}
	b.hub.attach(pushed)
	r, err := b.Builder.Build(target, pushed, opts)
	if err != nil {
		b.hub.note(nil, err)
		return nil, err
	}
	return r, nil
}

// hub stands between the resolver of one grpc.ClientConn and that ClientConn: it adds the service config to what
// passes and remembers the last of it.
type hub struct {
	// send is held while a state is handed to gRPC, so that a push of a new service config can't overtake, with old
	// addresses, the resolver's own newer state. Waiting for it is waiting for UpdateState or ReportError of another
	// goroutine, which wait for neither this lock's holders nor the resolver. Taken before mu.
	send sync.Mutex

	mu      sync.Mutex
	json    string                     // the service config to send
	parsed  *serviceconfig.ParseResult // of json; nil until a ClientConn is there to parse it
	conn    *pushConn                  // the present one; nil before the first Build
	state   resolver.State             // the last one, as the resolver sent it
	known   bool                       // whether state is one
	changed chan struct{}              // closed and replaced at each change of state, lastErr and observer

	heard     atomic.Bool           // whether the resolver has said anything, good or bad
	endpoints atomic.Int64          // of state
	lastErr   atomic.Pointer[error] // of the resolver since the last state; nil when all is well

	observer balancer.Observer // how each endpoint of state is doing, when the policy is the one that tells
	filter   balancer.Filter   // which of them calls may take; nil for all. Not changed once the hub is in use.
}

// dress adds what the policy is to find.
func (h *hub) dress(s resolver.State) resolver.State {
	s = h.observer.With(s)
	if h.filter != nil {
		s = balancer.WithFilter(s, h.filter)
	}
	return s
}

func newHub(json string) *hub {
	h := &hub{json: json, changed: make(chan struct{})}
	h.observer.Notify(h.wake)
	return h
}

func (h *hub) attach(c *pushConn) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.conn = c
	h.parsed = nil // a result belongs to the ClientConn that parsed it
}

// config returns the parsed service config; it is parsed once per ClientConn and policy.
func (h *hub) config(c *pushConn) *serviceconfig.ParseResult {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.parsed == nil {
		h.parsed = c.ClientConn.ParseServiceConfig(h.json)
	}
	return h.parsed
}

// note remembers a state (or nil) and an error (or nil) and wakes who waits for changes.
func (h *hub) note(s *resolver.State, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if s != nil {
		h.state, h.known = *s, true
		n := len(s.Endpoints)
		if s.Endpoints == nil {
			n = len(s.Addresses)
		}
		h.endpoints.Store(int64(n))
		h.lastErr.Store(nil)
	}
	if err != nil {
		h.lastErr.Store(&err)
	}
	h.wakeLocked()
}

func (h *hub) wake() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.wakeLocked()
}

func (h *hub) wakeLocked() {
	close(h.changed)
	h.changed = make(chan struct{})
}

// watch returns the number of known instances and a channel that is closed when that, or how they are doing, may have
// changed.
func (h *hub) watch() (instances int, changed <-chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return int(h.endpoints.Load()), h.changed
}

// err is the resolver's last complaint, or nil.
func (h *hub) err() error {
	if p := h.lastErr.Load(); p != nil {
		return *p
	}
	return nil
}

// push makes json the service config and sends it with the last state at once.
func (h *hub) push(json string) error {
	h.send.Lock()
	defer h.send.Unlock()
	h.mu.Lock()
	h.json, h.parsed = json, nil
	conn, state, known := h.conn, h.state, h.known
	h.mu.Unlock()
	if conn == nil {
		return nil // not connecting yet: Build will send it
	}
	sc := h.config(conn)
	if sc.Err != nil {
		return fmt.Errorf("pushing the service config %s: %w", json, sc.Err)
	}
	lastErr := h.err()
	if !known && lastErr == nil {
		return nil // nothing was sent yet; the first state will carry it
	}
	state = h.dress(state)
	state.ServiceConfig = sc
	// gRPC's error says that it dislikes the addresses, which it said when they first came.
	_ = conn.ClientConn.UpdateState(state)
	if lastErr != nil {
		conn.ClientConn.ReportError(lastErr) // keeps the reason of a missing state in the errors of calls
	}
	return nil
}

// pushConn is the resolver.ClientConn that resolvers see.
type pushConn struct {
	resolver.ClientConn
	hub *hub
}

// UpdateState implements [resolver.ClientConn].
func (c *pushConn) UpdateState(s resolver.State) error {
	c.hub.send.Lock()
	defer c.hub.send.Unlock()
	c.hub.note(&s, nil)
	s = c.hub.dress(s)
	s.ServiceConfig = c.hub.config(c)
	err := c.ClientConn.UpdateState(s)
	c.hub.heard.Store(true) // only now calls no longer wait for it
	return err
}

// ReportError implements [resolver.ClientConn].
func (c *pushConn) ReportError(err error) {
	c.hub.send.Lock()
	defer c.hub.send.Unlock()
	c.hub.note(nil, err)
	c.ClientConn.ReportError(err)
	c.hub.heard.Store(true)
}

// NewAddress implements [resolver.ClientConn] for resolvers that still use it.
func (c *pushConn) NewAddress(addrs []resolver.Address) {
	_ = c.UpdateState(resolver.State{Addresses: addrs})
}
