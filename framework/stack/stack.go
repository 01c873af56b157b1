// Package stack assembles a service from the framework's rooms: the gRPC server and the client factory with their
// default chains, discovery, readiness, telemetry and the admin server, and the order in which all of it starts and
// stops. It is what package app puts into Fx, and it works without Fx:
//
//	s, err := stack.New(stack.Params{...})
//	userv1.RegisterUserServiceServer(s.Server(), impl)
//	err = s.Connect(ctx) // clients
//	err = s.Start(ctx)   // server, then registration in the background
//	...
//	err = s.Drain(ctx)   // leave the registry, let calls finish
//	err = s.Close(ctx)   // connections, etcd, telemetry
package stack

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.uber.org/zap"

	"github.com/newsvc/newsvc/framework/admin"
	"github.com/newsvc/newsvc/framework/auth"
	"github.com/newsvc/newsvc/framework/client"
	"github.com/newsvc/newsvc/framework/config"
	"github.com/newsvc/newsvc/framework/discovery"
	"github.com/newsvc/newsvc/framework/discovery/cache"
	"github.com/newsvc/newsvc/framework/discovery/etcd"
	"github.com/newsvc/newsvc/framework/etcdclient"
	"github.com/newsvc/newsvc/framework/grpcresolver"
	"github.com/newsvc/newsvc/framework/httpserver"
	"github.com/newsvc/newsvc/framework/internal/closers"
	"github.com/newsvc/newsvc/framework/internal/loop"
	"github.com/newsvc/newsvc/framework/logging"
	"github.com/newsvc/newsvc/framework/readiness"
	"github.com/newsvc/newsvc/framework/server"
	"github.com/newsvc/newsvc/framework/telemetry"
)

// Params is what a service is assembled from.
type Params struct {
	// Service is the service's name; see [discovery.CheckService].
	Service string
	// Version is the service's own version, told in the registry and in logs. May be empty.
	Version string
	// Config is the framework's part of the configuration; [ReadConfig] and [DefaultConfig] make one.
	Config Config
	// Settings is where Config was read from, for the admin page and for errors that say where a limit was set. May be nil.
	Settings *config.Config
	// Live is the same configuration, kept current while the service runs; it takes the place of Settings. May be nil.
	Live *Live
	// Callees are the services that will be called; their connections are opened by Connect.
	Callees []string
	// Serves says that gRPC services will be registered on Server: the process then listens and registers itself.
	Serves bool
	// ServerOptions adjust the gRPC server beyond its configuration.
	ServerOptions []server.Option
	// Log takes everything that is to be told, nil for silence; Levels change what it shows at run time, nil for levels that
	// nobody follows. [NewLog] makes both.
	Log    *zap.Logger
	Levels *logging.Levels
	// Process is what the environment says.
	Process Process
	// Replace puts other parts in the place of the real ones, for tests.
	Replace Replace
	// Failed is called, once, when a listener stops serving by itself or a task ends too early: the service is then to be
	// stopped. It must not block, and not stop the stack itself. May be nil.
	Failed func(error)
}

// Process is what a process is told by its environment rather than by its configuration.
type Process struct {
	// Dev is true under newsvc dev (NEWSVC_DEV=1): loopback may be advertised, a busy HTTP port falls back to a free one.
	Dev bool
	// PodIP is POD_IP as Kubernetes' downward API gives it.
	PodIP string
	// ReadyFile is NEWSVC_READY_FILE; empty for none.
	ReadyFile string
	// HTTPSocket is the listening socket in NEWSVC_HTTP_FD, which takes the place of http.listen. newsvc dev opens it and
	// passes it to an instance and to its successor. Nil for none.
	HTTPSocket *os.File
}

// Replace holds replacements for the parts that reach out of the process. Nil fields keep the real ones.
type Replace struct {
	Source    discovery.Source
	Registrar discovery.Registrar
	// Listener takes the place of the one that server.listen names.
	Listener net.Listener
	// Dial opens connections to callees.
	Dial func(ctx context.Context, addr string) (net.Conn, error)
	// Spans takes each sampled span besides the collector, if there is one.
	Spans sdktrace.SpanProcessor
}

// Stack is one assembled service. Its methods are safe for concurrent use. Connect, Start, Drain and Close are steps
// that follow each other; each works once. Drain and Close are safe in any state: they end a Connect or Start that is
// under way, and none begins after them.
type Stack struct {
	p           Params
	incarnation string
	built       time.Time // when New made it
	log         *zap.Logger

	telemetry *telemetry.Telemetry
	etcd      *clientv3.Client // nil when source and registrar are replaced
	source    *etcd.Source     // nil when replaced
	leases    *etcd.Registrar  // nil when replaced
	registrar discovery.Registrar
	closeReg  func(context.Context) error
	near      *nearby
	cache     *cache.Cache
	clients   *client.Factory
	readiness *readiness.Gate
	serving   *readiness.Condition
	server    *server.Server     // nil without Serves
	auth      *auth.Auth         // nil when switched off
	admin     *httpserver.Server // nil when switched off
	levels    *logging.LevelHandler
	handler   http.Handler
	handlerAt string
	lastHTTP  atomic.Int64 // when the last request came, in Unix nanoseconds

	life    context.Context // ends when the stop begins; Connect and Start end with it
	endLife context.CancelFunc
	steps   sync.Mutex // held by each step, so that a stop waits until the start has noticed
	serves  bool       // Start has succeeded: others may know of this instance
	tasks   []*task
	closers closers.Set

	mu     sync.Mutex
	http   *httpserver.Server // nil until it listens
	member *membership        // nil while nothing registers

	coordination coordinationMetrics

	watch     loop.Group
	failOnce  sync.Once
	drainOnce sync.Once
	drainErr  error
	closeOnce sync.Once
	closeErr  error
}

// startCondition keeps an instance from being ready before Start has ended.
const startCondition = "start"

// New assembles a service. It reads certificates but opens no listener and sends nothing.
func New(p Params) (*Stack, error) {
	if err := discovery.CheckService(p.Service); err != nil {
		return nil, err
	}
	if p.Log == nil {
		p.Log = zap.NewNop()
	}
	if p.Levels == nil {
		p.Levels, _ = logging.NewLevels(logging.DefaultConfig()) // which are valid
	}
	s := &Stack{
		p: p, log: p.Log, incarnation: discovery.NewIncarnation(), built: time.Now(),
		readiness: readiness.New(),
	}
	s.life, s.endLife = context.WithCancel(context.Background())
	s.serving = s.readiness.Condition(startCondition)
	for _, step := range []func() error{s.buildTelemetry, s.buildDiscovery, s.buildClients, s.buildAuth, s.buildServer, s.buildAdmin, s.buildMetrics, s.buildReload} {
		if err := step(); err != nil {
			return nil, errors.Join(err, s.Close(context.Background())) // nothing runs yet, so nothing is waited for
		}
	}
	return s, nil
}

func (s *Stack) buildTelemetry() error {
	var opts []telemetry.Option
	if spans := s.p.Replace.Spans; spans != nil {
		opts = append(opts, telemetry.WithSpanProcessor(spans))
	}
	t, err := telemetry.New(context.Background(), s.p.Config.Telemetry, telemetry.Params{
		Service: s.p.Service, Version: s.p.Version, Incarnation: s.incarnation, Log: s.log.Named("telemetry"),
	}, opts...)
	if err != nil {
		return fmt.Errorf("telemetry: %w", err)
	}
	s.telemetry = t
	return t.Registerer().Register(newCertificateMetrics(s.p.Config))
}

// buildDiscovery makes the source behind its cache and the registrar, both on the process' one etcd client. Without
// callees and without a server nothing talks to etcd.
func (s *Stack) buildDiscovery() error {
	s.near = newNearby(s.log.Named("discovery"))
	source, registrar := s.p.Replace.Source, s.p.Replace.Registrar
	c := s.p.Config
	if source == nil || registrar == nil || s.p.Live != nil && s.p.Live.etcd != nil {
		cli, err := etcdclient.New(c.Etcd, s.log.Named("etcd"))
		if err != nil {
			return fmt.Errorf("etcd: %w", err)
		}
		s.etcd = cli
		opt := etcd.Options{Prefix: c.Discovery.Prefix, CallTimeout: c.Etcd.CallTimeout, TTL: c.Registration.TTL, Log: s.log.Named("discovery")}
		if source == nil {
			if s.source, err = etcd.NewSource(cli, opt); err != nil {
				return fmt.Errorf("discovery: %w", err)
			}
			source, s.near.source = s.source, s.source
		}
		if registrar == nil {
			r, err := etcd.NewRegistrar(cli, opt)
			if err != nil {
				return fmt.Errorf("registration: %w", err)
			}
			registrar, s.leases, s.closeReg = r, r, r.Close
		}
	}
	s.registrar = registrar
	g := c.Discovery.Guard
	s.cache = cache.New(source, cache.Options{
		GuardShare: g.Share, GuardWindow: g.Window, HoldTTL: g.Hold, Dir: c.Discovery.CacheDir, Log: s.log.Named("discovery"),
	})
	return nil
}

func (s *Stack) buildClients() error {
	subset := s.p.Config.Discovery.Subset
	if subset == 0 {
		subset = grpcresolver.AllInstances
	}
	f, err := client.NewFactory(client.Params{
		Caller: s.p.Service, Zone: s.p.Config.Registration.Zone,
		Resolver: grpcresolver.NewBuilder(s.cache, grpcresolver.Options{
			Subset: subset, Seed: s.incarnation, Log: s.log.Named("resolver"),
			Where: fmt.Sprintf("etcd under %q", s.p.Config.Discovery.Prefix), Missing: s.near.miss,
		}),
		Default: s.p.Config.ClientDefaults, Policies: s.p.Config.Clients, Log: s.log.Named("client"),
		Interceptors: func(callee string) []client.Interceptor {
			unary, stream := s.telemetry.ClientInterceptors(callee)
			return []client.Interceptor{{Unary: unary, Stream: stream}}
		},
		Dialer: s.p.Replace.Dial,
		Origin: s.origin, Why: s.why,
	})
	if err != nil {
		return err
	}
	s.clients = f
	for _, callee := range s.p.Callees {
		if _, err := f.Conn(callee); err != nil {
			return err
		}
	}
	return nil
}

// origin tells which key holds a callee's setting and where that was set, for the errors of calls.
func (s *Stack) origin(callee, key string) string {
	settings := s.Settings()
	if settings == nil {
		return ""
	}
	whole := "clients." + callee + "." + key
	from := settings.Origin(whole)
	if from == "" { // a callee that no option names
		whole = "clients.defaults." + key
		from = settings.Origin(whole)
	}
	return whole + ", from " + from
}

func (s *Stack) buildServer() error {
	if !s.p.Serves {
		return nil
	}
	unary, stream := s.telemetry.ServerInterceptors()
	cfg := s.p.Config.Server
	cfg.Reflection = cfg.Reflection || s.p.Process.Dev // tools of a developer may look
	opts := slices.Clone(s.p.ServerOptions)
	if s.p.Replace.Listener != nil {
		opts = append(opts, server.Listener(s.p.Replace.Listener))
	}
	if s.p.Process.Dev {
		opts = append(opts, server.After(server.SlotTelemetry, s.sayInstance()))
	}
	fill := map[string]server.Interceptor{server.SlotTelemetry: {Name: "telemetry", Unary: unary, Stream: stream}}
	opts = s.fillAuth(fill, opts)
	srv, err := server.New(server.Params{
		Service: s.p.Service, Config: cfg, Log: s.log.Named("server"), Readiness: s.readiness,
		Fill: fill, Options: opts, LogContext: s.logContext(), Caller: rateLimitCaller,
	})
	if err != nil {
		return fmt.Errorf("server: %w", err)
	}
	s.server = srv
	srv.SetReadiness(!s.gatesReadiness()) // from the first announcement on
	return nil
}

func (s *Stack) buildAdmin() error {
	if !s.p.Config.Admin.Enabled {
		return nil
	}
	s.levels = logging.NewLevelHandler(s.p.Levels, s.log.Named("log"))
	h := admin.Handlers{
		Ready: http.HandlerFunc(s.serveReadyz), Metrics: s.telemetry.MetricsHandler(), LogLevel: s.levels,
		Discovery: http.HandlerFunc(s.serveDiscovery),
	}
	switch {
	case s.p.Live != nil:
		h.Config = s.p.Live.Handler(s.p.Live.configPage)
	case s.p.Settings != nil:
		h.Config = s.p.Settings.Handler()
	}
	a, err := admin.New(s.p.Config.Admin, h, s.log.Named("admin"))
	if err != nil {
		return fmt.Errorf("admin: %w", err)
	}
	s.admin = a
	return nil
}

// Server is where gRPC services are registered before Start; nil without Params.Serves.
func (s *Stack) Server() *server.Server { return s.server }

// Clients makes connections by callee name.
func (s *Stack) Clients() *client.Factory { return s.clients }

// Readiness is where more checks are added, before Start.
func (s *Stack) Readiness() *readiness.Gate { return s.readiness }

// Telemetry is where a service's own metrics and spans go.
func (s *Stack) Telemetry() *telemetry.Telemetry { return s.telemetry }

// Source reads instances through the process' cache.
func (s *Stack) Source() discovery.Source { return s.cache }

// Etcd is the process' one etcd client; nil when discovery was replaced.
func (s *Stack) Etcd() *clientv3.Client { return s.etcd }

// NeedEtcd is Etcd, with an error that says why there is none.
func (s *Stack) NeedEtcd() (*clientv3.Client, error) {
	if s.etcd == nil {
		return nil, errors.New("this process has no etcd client, because discovery was replaced; in a test, use apptest.WithEtcd()")
	}
	return s.etcd, nil
}

// Incarnation identifies this start of the process.
func (s *Stack) Incarnation() string { return s.incarnation }

// Handle sets what the HTTP listener serves; call it before Start. There is one handler; where says, for the error about
// a second one, where each comes from.
func (s *Stack) Handle(where string, h http.Handler) error {
	if s.handler != nil {
		return fmt.Errorf("%s: app.HTTP: a handler is given at %s already; mount both on one mux", where, s.handlerAt)
	}
	s.handler, s.handlerAt = h, where
	return nil
}

// Registration is where this instance's registration stands; false while it has none.
func (s *Stack) Registration() (discovery.RegistrationStatus, bool) {
	if m := s.membership(); m != nil {
		return m.status()
	}
	return discovery.RegistrationStatus{}, false
}

func (s *Stack) membership() *membership {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.member
}
