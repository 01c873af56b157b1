// Package server is a gRPC server with a fixed chain of named interceptor slots, a health service that follows
// readiness, and a stop that is bounded. It is the serving half of a service; it registers nothing in a registry and
// reads no configuration by itself.
//
// A server is built by [New], takes services through [Server.RegisterService], binds in [Server.Listen], serves from
// [Server.Start] on and ends with [Server.Stop]. The chain, outermost first: telemetry, access_log, recovery,
// authority, deadline, shedding, authentication, rate_limit, authorization, validation.
package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"reflect"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"

	"github.com/newsvc/newsvc/framework/certs"
	"github.com/newsvc/newsvc/framework/internal/confined"
	"github.com/newsvc/newsvc/framework/internal/loop"
	"github.com/newsvc/newsvc/framework/readiness"
)

// Params are what a server is made of.
type Params struct {
	// Service is the own name, the only one it answers for unless accept_names says more. Required.
	Service string
	// Config usually starts from [DefaultConfig].
	Config Config
	// Log may be nil: nothing is logged.
	Log *zap.Logger
	// LogContext, if not nil, returns a field that names the call in log lines, for example its trace.
	LogContext func(context.Context) zap.Field
	// Readiness, if not nil, decides together with [Server.SetServing] what the health service answers.
	Readiness *readiness.Gate
	// Fill puts interceptors into slots, by slot name; it replaces the server's own in recovery, authority, deadline,
	// access_log, shedding, rate_limit and validation.
	Fill map[string]Interceptor
	// Caller names who makes a call, for rate limits per caller, for example by the identity that authentication found.
	// Where it is nil or answers "", the IP address that the call came from does.
	Caller func(context.Context) string
	// Options place further interceptors and the rarer settings.
	Options []Option
}

// Server is a gRPC server. Its methods may be called from any goroutine. It is a [grpc.ServiceRegistrar].
type Server struct {
	params Params
	opts   *options
	stages []stage
	log    logs

	drain     chan struct{} // closed by BeginDrain
	drainOnce sync.Once
	done      chan struct{} // closed when serving has ended, or by a Stop before Start
	stopOnce  sync.Once
	stopErr   error
	stopped   chan struct{} // closed when Stop is through

	access  *accessLog
	streams *streams
	health  *health.Server

	mu         sync.Mutex
	pending    []registration // services, until Start
	regErrs    []error
	started    bool
	stopping   bool
	listener   *listener
	tls        *tls.Config
	grpc       *grpc.Server // nil until Start
	calls      *calls       // nil until Start
	shedding   *shedding    // nil until Start, and without that slot
	err        error        // why serving ended by itself
	allowed    bool         // health: SetServing
	unready    bool         // health of Readiness alone: SetReadiness
	ready      bool         // health: the readiness gate
	unfollow   func()
	serve      *loop.Loop
	unaryRoot  grpc.UnaryServerInterceptor
	streamRoot grpc.StreamServerInterceptor
}

var _ grpc.ServiceRegistrar = (*Server)(nil)

type registration struct {
	desc *grpc.ServiceDesc
	impl any
}

// New checks the parameters and returns a server that does nothing yet.
func New(p Params) (*Server, error) {
	if !isServiceName(p.Service) {
		return nil, fmt.Errorf("making a server: %q is no service name; use lower-case letters, digits and single dashes, beginning with a letter", p.Service)
	}
	if err := p.Config.Validate(); err != nil {
		return nil, fmt.Errorf("making the server of %q: %w", p.Service, err)
	}
	o := &options{before: map[string][]Interceptor{}, after: map[string][]Interceptor{}}
	for _, opt := range p.Options {
		opt.apply(o)
	}
	stages, err := plan(p, o)
	if err != nil {
		return nil, fmt.Errorf("making the server of %q: %w", p.Service, err)
	}
	if p.Log == nil {
		p.Log = zap.NewNop()
	}
	s := &Server{
		params: p, opts: o, stages: stages, log: logs{Logger: p.Log, fields: p.LogContext},
		drain: make(chan struct{}), done: make(chan struct{}), stopped: make(chan struct{}),
		streams: &streams{open: map[*stream]struct{}{}, abandoned: make(chan struct{})},
		health:  health.NewServer(),
		// With a gate, the gate alone decides until somebody calls SetServing.
		allowed: p.Readiness != nil, ready: p.Readiness == nil,
	}
	s.access = newAccessLog(p.Config.AccessLog, s.log, s.drain)
	s.health.SetServingStatus("", healthpb.HealthCheckResponse_NOT_SERVING)
	return s, nil
}

// Chain lists the names of the interceptors in use, outermost first.
func (s *Server) Chain() []string {
	names := make([]string, 0, len(s.stages))
	for _, st := range s.stages {
		names = append(names, st.Name)
	}
	return names
}

// RegisterService adds a service. It must be called before [Server.Start]. A mistake (a wrong implementation, a
// service registered twice) is reported by Start; one made later is logged, and the service is not served.
func (s *Server) RegisterService(desc *grpc.ServiceDesc, impl any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.checkLocked(desc, impl)
	switch {
	case err == nil:
		s.pending = append(s.pending, registration{desc, impl})
	case s.started:
		s.log.Error("a service was not registered", zap.Error(err))
	default:
		s.regErrs = append(s.regErrs, err)
	}
}

// checkLocked finds what would make grpc.Server.RegisterService end the process.
func (s *Server) checkLocked(desc *grpc.ServiceDesc, impl any) error {
	if s.started || s.stopping {
		return fmt.Errorf("registering service %q: the server has been started; register it before", desc.ServiceName)
	}
	for _, r := range s.pending {
		if r.desc.ServiceName == desc.ServiceName {
			return fmt.Errorf("registering service %q: it is registered already; register it once", desc.ServiceName)
		}
	}
	if desc.ServiceName == healthpb.Health_ServiceDesc.ServiceName {
		return fmt.Errorf("registering service %q: the server brings its own; use its readiness gate", desc.ServiceName)
	}
	if impl == nil || desc.HandlerType == nil {
		return nil // gRPC accepts both: there is nothing to compare
	}
	want := reflect.TypeOf(desc.HandlerType).Elem()
	if got := reflect.TypeOf(impl); !got.Implements(want) {
		return fmt.Errorf("registering service %q: %s does not implement %s; pass the implementation of this service", desc.ServiceName, got, want)
	}
	return nil
}

// Listen binds the address, so that Addr is known and a busy port is an error before anything else happens, and reads
// the certificates. Connections wait until [Server.Start].
func (s *Server) Listen(ctx context.Context) error {
	conf, err := certs.Server(s.params.Config.TLS, certs.LogTo(s.log.Logger))
	if err != nil {
		return fmt.Errorf("listening on %q: server.tls.%w", s.params.Config.Listen, err)
	}
	l := s.opts.listener
	if l == nil {
		l, err = new(net.ListenConfig).Listen(ctx, "tcp", s.params.Config.Listen)
		if err != nil {
			return fmt.Errorf("listening for gRPC: %w; free the port or change server.listen", err)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.listener != nil || s.stopping {
		if l != s.opts.listener {
			_ = l.Close()
		}
		return errors.New("listening for gRPC: the server listens already or was stopped; use a new one")
	}
	s.listener, s.tls = newListener(l), conf
	return nil
}

// Addr is the address that is listened on, with the real port; empty before [Server.Listen].
func (s *Server) Addr() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.listener == nil {
		return ""
	}
	return s.listener.Addr().String()
}

// Start compiles the chain and serves in the background. Its error tells of everything that was registered wrongly.
// Health answers NOT_SERVING until [Server.SetServing] or the readiness gate say otherwise.
func (s *Server) Start() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.listener == nil:
		return errors.New("starting the server: it does not listen; call Listen first")
	case s.started || s.stopping:
		return errors.New("starting the server: it was started or stopped before; use a new one")
	case len(s.regErrs) > 0:
		return errors.Join(s.regErrs...)
	}
	if err := s.buildLocked(); err != nil {
		return err
	}
	s.started = true
	if g := s.params.Readiness; g != nil {
		s.unfollow = g.Subscribe(s.follow)
	}
	s.serve = loop.Start(context.Background(), func(context.Context) {
		defer close(s.done)
		if err := s.grpc.Serve(s.listener); err != nil {
			s.mu.Lock()
			s.err = fmt.Errorf("serving gRPC on %q: %w", s.listener.Addr(), err)
			s.mu.Unlock()
		}
	})
	return nil
}

func (s *Server) buildLocked() (err error) {
	own := segment{
		log:        s.access,
		recovery:   &recovery{log: s.log},
		authority:  newAuthority(s.params.Service, s.params.Config.AcceptNames),
		deadline:   newDeadline(s.params.Config.Limits),
		validation: &validation{log: s.log},
	}
	g := grpc.NewServer(s.grpcOptions()...)
	defer func() {
		if err != nil {
			g.Stop() // it has goroutines already
		}
	}()
	for _, r := range s.pending {
		g.RegisterService(r.desc, r.impl)
	}
	offered := g.GetServiceInfo()
	g.RegisterService(&healthpb.Health_ServiceDesc, s.health)
	if s.params.Config.Reflection {
		reflection.Register(g)
	}
	s.calls = newCalls(g.GetServiceInfo(), func(service string) bool { _, ours := offered[service]; return !ours })
	if s.uses(SlotValidation) {
		if err := own.validation.prepare(offered); err != nil {
			return err
		}
	}
	if s.uses(SlotShedding) {
		own.shedding = newShedding(s.params.Config.Shedding, s.calls)
		s.shedding = own.shedding
	}
	if s.uses(SlotRateLimit) {
		if own.rateLimits, err = newRateLimits(s.params.Config.RateLimits, s.calls, s.params.Caller); err != nil {
			return err
		}
	}
	s.unaryRoot, s.streamRoot = compile(s.stages, own)
	s.grpc = g
	for name := range offered {
		s.health.SetServingStatus(name, healthpb.HealthCheckResponse_NOT_SERVING)
	}
	s.health.SetServingStatus(Liveness, healthpb.HealthCheckResponse_SERVING)
	s.healthLocked()
	return nil
}

// uses reports whether one of our own slots is in the chain.
func (s *Server) uses(slot string) bool {
	return slices.ContainsFunc(s.stages, func(st stage) bool { return st.own && st.Name == slot })
}

func (s *Server) grpcOptions() []grpc.ServerOption {
	l := s.params.Config.Limits
	opts := []grpc.ServerOption{
		grpc.UnaryInterceptor(s.unary),
		grpc.StreamInterceptor(s.stream),
		grpc.ConnectionTimeout(l.ConnectionTimeout),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: l.KeepaliveMinTime, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{
			Time: l.KeepaliveTime, Timeout: l.KeepaliveTimeout,
			MaxConnectionAge: l.MaxConnectionAge, MaxConnectionAgeGrace: l.MaxConnectionAgeGrace,
		}),
		grpc.MaxRecvMsgSize(l.MaxRecvBytes),
		grpc.MaxHeaderListSize(uint32(l.MaxHeaderBytes)), // Validate bounds it
		grpc.MaxConcurrentStreams(uint32(l.MaxStreams)),  // Validate bounds it
		// Stop returns when handlers have; our own Stop does not wait for that one beyond its budget.
		grpc.WaitForHandlers(true),
	}
	if l.StreamWorkers > 0 {
		opts = append(opts, grpc.NumStreamWorkers(uint32(l.StreamWorkers))) // Validate bounds it
	}
	if s.tls != nil {
		opts = append(opts, grpc.Creds(toldCredentials{credentials.NewTLS(s.tls), &handshakeLog{log: s.log.Logger, told: map[string]*handshakeFailures{}}}))
	}
	return append(opts, s.opts.grpc...)
}

// unary is the interceptor gRPC calls: the account, then the chain.
func (s *Server) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	defer s.calls.enter(info.FullMethod).leave()
	resp, err := s.unaryRoot(ctx, req, info, handler)
	return resp, confined.Public(err)
}

func (s *Server) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	return s.streams.serve(srv, ss, s.calls.enter(info.FullMethod), func(srv any, ss grpc.ServerStream) error {
		return confined.Public(s.streamRoot(srv, ss, info, handler))
	})
}

// Done is closed when the server no longer serves, for whatever reason. It is never closed if the server was neither
// started nor stopped.
func (s *Server) Done() <-chan struct{} { return s.done }

// Err says why serving ended by itself; nil while it serves and after a [Server.Stop].
func (s *Server) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// ActiveCalls counts the calls that are running, those of the health and reflection services excepted.
func (s *Server) ActiveCalls() int {
	if c := s.account(); c != nil {
		return c.active()
	}
	return 0
}

// LastCall is when the last call came, with the same exceptions; the zero time if none has.
func (s *Server) LastCall() time.Time {
	c := s.account()
	if c == nil || c.last.Load() == 0 {
		return time.Time{}
	}
	return time.Unix(0, c.last.Load())
}

func (s *Server) account() *calls {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls
}
