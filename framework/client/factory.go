package client

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	_ "google.golang.org/grpc/health" // without it gRPC skips client-side health checking in silence
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/resolver"
)

// Interceptor is a pair of client interceptors; either may be nil.
type Interceptor struct {
	Unary  grpc.UnaryClientInterceptor
	Stream grpc.StreamClientInterceptor
}

// Params is what a factory is made of.
type Params struct {
	// Caller is the name of this service. Required.
	Caller string
	// Zone is where this process runs; policies may prefer instances there. Empty when it does not know.
	Zone string
	// Resolver looks callees up; its scheme must be "etcd" and its targets are etcd://caller/callee. It may be nil
	// when every callee has a target of its own.
	Resolver resolver.Builder
	// Policies holds the whole policy of a callee by its name; nothing is inherited.
	Policies map[string]Policy
	// Default is the policy of all other callees. The zero value stands for [DefaultPolicy].
	Default Policy
	// Log may be nil for silence.
	Log *zap.Logger
	// Interceptors returns, outermost first, what runs around each call to callee: once per call, outside of the
	// timeout and of all repeats. The *grpc.ClientConn that they are given is for looking at only. May be nil.
	Interceptors func(callee string) []Interceptor
	// Dialer connects to an address; nil means TCP that finds dead peers. The context's deadline is to be obeyed.
	Dialer func(ctx context.Context, addr string) (net.Conn, error)
	// Origin says where a setting of a callee was set, for example "clients.defaults.timeout, config.yaml:12" for
	// the key "timeout"; error texts quote it. May be nil.
	Origin func(callee, key string) string
	// Why says in one line why no instance of a callee takes calls, for the errors of calls; endpoints is what
	// [Conn.Endpoints] tells. It is asked only after a call has failed, a few times a second at most, for callees that
	// Resolver looks up, and must not wait. Nil: errors say what the resolver said.
	Why func(callee string, endpoints []EndpointState) string
}

// Factory makes and owns the connections to callees. Its methods are safe for concurrent use.
type Factory struct {
	p       Params
	log     *zap.Logger
	methods methods

	mu       sync.Mutex // taken before a Conn's
	policies map[string]Policy
	conns    map[string]*Conn
	closed   bool
}

// NewFactory checks its parameters and returns a factory without a connection. It reads from
// the protos linked into the process which methods are unary and which are idempotent. The errors name the key at
// fault, below "clients".
func NewFactory(p Params) (*Factory, error) {
	if err := checkName(p.Caller, false); err != nil {
		return nil, fmt.Errorf("client factory: caller %w", err)
	}
	if p.Resolver != nil && p.Resolver.Scheme() != schemeDiscovery {
		return nil, fmt.Errorf("client factory: the resolver's scheme is %q; it must be %q", p.Resolver.Scheme(), schemeDiscovery)
	}
	if p.Default == (Policy{}) {
		p.Default = DefaultPolicy()
	}
	if p.Log == nil {
		p.Log = zap.NewNop()
	}
	if p.Dialer == nil {
		p.Dialer = dialTCP
	}
	errs := []error{prefixed("clients.defaults", p.Default.Validate())}
	for _, callee := range slices.Sorted(maps.Keys(p.Policies)) {
		errs = append(errs, prefixed("clients."+callee, p.Policies[callee].Validate()))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	policies := maps.Clone(p.Policies)
	if policies == nil {
		policies = map[string]Policy{}
	}
	return &Factory{
		p: p, log: p.Log, methods: linkedMethods(), policies: policies, conns: map[string]*Conn{},
	}, nil
}

// Conn returns the connection to callee, the same one each time. It does no I/O besides reading TLS files; see
// [Conn.Connect]. The error is that of a name that can't be one, a policy without a resolver, unreadable files, or a
// closed factory.
func (f *Factory) Conn(callee string) (*Conn, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if c := f.conns[callee]; c != nil {
		return c, nil
	}
	if f.closed {
		return nil, fmt.Errorf("connecting to %q: the client factory is closed", callee)
	}
	policy := f.policyLocked(callee)
	ch, err := f.dial(callee, policy)
	if err != nil {
		return nil, err
	}
	c := &Conn{factory: f, callee: callee, policy: policy, retiring: map[*channel]struct{}{}}
	c.live.Store(liveOf(policy))
	f.warnZone(callee, policy)
	c.budget.fill(limitsOf(policy.NotProcessed))
	c.hedges.budget.fill(hedgeLimits(policy.Hedging.BudgetRatio))
	c.cur.Store(ch)
	c.chain(f.p.Interceptors)
	f.conns[callee] = c
	return c, nil
}

func (f *Factory) policyLocked(callee string) Policy {
	if p, ok := f.policies[callee]; ok {
		return p
	}
	return f.p.Default
}

// Update makes p the policy of callee, whether it is connected yet or not. Live and pushed keys hold for the next
// call. A change of a redial key makes a new connection, which takes over when it is ready, or at once when the
// present one is not ready itself; the old one is closed when its last call has ended. On an error the old policy
// stays.
func (f *Factory) Update(callee string, p Policy) error {
	if err := prefixed("clients."+callee, p.Validate()); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if c := f.conns[callee]; c != nil {
		if err := c.update(p); err != nil {
			return fmt.Errorf("updating the policy of %q: %w", callee, err)
		}
	}
	f.policies[callee] = p
	return nil
}

// UpdateDefault makes p the policy of all callees that have none of their own, as Update does. On an error some of them may have it
// and others not; callees that are first connected later have the old one.
func (f *Factory) UpdateDefault(p Policy) error {
	if err := prefixed("clients.defaults", p.Validate()); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, callee := range slices.Sorted(maps.Keys(f.conns)) {
		if _, own := f.policies[callee]; own {
			continue
		}
		if err := f.conns[callee].update(p); err != nil {
			return fmt.Errorf("updating the policy of %q: %w", callee, err)
		}
	}
	f.p.Default = p
	return nil
}

// Callees returns the names of all connections made so far, sorted.
func (f *Factory) Callees() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Sorted(maps.Keys(f.conns))
}

// State returns the state of each connection, sorted by callee.
func (f *Factory) State() []State {
	f.mu.Lock()
	conns := slices.Collect(maps.Values(f.conns))
	f.mu.Unlock()
	slices.SortFunc(conns, func(a, b *Conn) int { return strings.Compare(a.callee, b.callee) })
	states := make([]State, 0, len(conns))
	for _, c := range conns {
		states = append(states, c.State())
	}
	return states
}

// Close takes no new call, waits for the running ones until ctx ends and then closes all connections, cutting what is
// left; the error says how many calls of which callee were cut. Only the first Close waits.
func (f *Factory) Close(ctx context.Context) error {
	f.mu.Lock()
	f.closed = true
	conns := slices.Collect(maps.Values(f.conns))
	f.mu.Unlock()
	waitFor := make(map[*Conn][]*channel, len(conns))
	for _, c := range conns {
		if channels := c.beginClose(); channels != nil {
			waitFor[c] = channels
		}
	}
	var errs []error
	for c, channels := range waitFor {
		errs = append(errs, c.finishClose(ctx, channels))
	}
	return errors.Join(errs...)
}

// dial makes a channel for callee; it does not connect.
func (f *Factory) dial(callee string, p Policy) (*channel, error) {
	if err := checkName(callee, p.Target != ""); err != nil {
		return nil, fmt.Errorf("connecting to a callee: %w", err)
	}
	target := p.Target
	if target == "" {
		if f.p.Resolver == nil {
			return nil, fmt.Errorf("connecting to %q: discovery is off; set clients.%s.target, for example \"dns:///%s:9000\"", callee, callee, callee)
		}
		target = schemeDiscovery + "://" + f.p.Caller + "/" + callee
	}
	creds, err := transportCredentials(p.TLS, callee, f.log)
	if err != nil {
		return nil, fmt.Errorf("connecting to %q: %w", callee, err)
	}
	json, err := serviceConfigJSON(p, f.p.Zone, f.methods)
	if err != nil {
		return nil, fmt.Errorf("connecting to %q: %w", callee, err)
	}
	h := newHub(json)
	e := newEjector(callee, p, func(method string) bool { return f.methods.byPath[method].unary }, f.log)
	h.filter = e
	opts := append(f.options(p, h, e),
		grpc.WithTransportCredentials(creds),
		grpc.WithAuthority(callee),
		// The resolver's states carry it too; this one is for calls before the first state.
		grpc.WithDefaultServiceConfig(json),
	)
	if p.TokenFile != "" {
		token, err := newTokenFile(p, f.log.With(zap.String("callee", callee)))
		if err != nil {
			e.close()
			return nil, fmt.Errorf("connecting to %q: %w", callee, err)
		}
		opts = append(opts, grpc.WithPerRPCCredentials(token))
	}
	cc, err := grpc.NewClient(target, opts...)
	if err != nil {
		e.close()
		return nil, fmt.Errorf("connecting to %q at %q: %w", callee, target, err)
	}
	return newChannel(cc, h, e, target), nil
}

// options are the dial options that do not depend on the callee's name.
func (f *Factory) options(p Policy, h *hub, e *ejector) []grpc.DialOption {
	builders := []resolver.Builder{
		pushBuilder{Builder: resolver.Get(schemeDNS), hub: h},
		pushBuilder{Builder: staticBuilder{}, hub: h},
	}
	if f.p.Resolver != nil {
		builders = append(builders, pushBuilder{Builder: f.p.Resolver, hub: h})
	}
	reconnect := backoff.DefaultConfig
	reconnect.BaseDelay = 100 * time.Millisecond
	reconnect.MaxDelay = 3 * time.Second
	opts := []grpc.DialOption{
		grpc.WithResolvers(builders...),
		grpc.WithContextDialer(e.dialer(f.p.Dialer)),
		grpc.WithNoProxy(),
		grpc.WithIdleTimeout(0), // an idle connection would drop its resolver, and its first call pay for both
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: reconnect, MinConnectTimeout: 3 * time.Second}),
		grpc.WithMaxCallAttempts(maxCallAttempts),
		grpc.WithUserAgent(f.p.Caller), // callees name us by it in logs, traces and metrics; gRPC adds itself
	}
	if k := p.KeepAlive; k.Time > 0 {
		opts = append(opts, grpc.WithKeepaliveParams(keepalive.ClientParameters{
			Time: k.Time, Timeout: k.Timeout, PermitWithoutStream: k.PermitWithoutStream,
		}))
	}
	return opts
}
