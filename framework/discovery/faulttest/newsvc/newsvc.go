// Package newsvc puts newsvc itself under the fault suite: its servers and clients are whole stacks with their default
// chains, as a service has them. It starts nothing; the suite calls its functions in the processes that it starts. The
// program in internal/subject is what those processes run.
package newsvc

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"google.golang.org/grpc"

	"github.com/newsvc/newsvc/framework/discovery"
	"github.com/newsvc/newsvc/framework/discovery/faulttest"
	"github.com/newsvc/newsvc/framework/stack"
)

// Names of adapters.
const (
	// Name is newsvc with its defaults.
	Name = "newsvc"
	// NoHealthChecks is newsvc with clients.defaults.health_check switched off, so that clients learn that a server
	// leaves from the registry and from the connection alone.
	NoHealthChecks = "newsvc-no-health-checks"
	// NoAuthority is newsvc with the authority check of its servers switched off: they answer for others. It shows that
	// the suite would notice.
	NoAuthority = "newsvc-no-authority"
	// DeafStreams is newsvc with handlers that do not ask for its drain signal, and a soft budget of two seconds: their
	// streams end with their contexts.
	DeafStreams = "newsvc-deaf-streams"
)

// closeTimeout bounds the end of a stack after its drain, which has a budget of its own.
const closeTimeout = 10 * time.Second

// Adapter is newsvc as it comes.
func Adapter() faulttest.Adapter { return variant(Name, nil, nil) }

// Adapters are all of this package; the first is [Adapter].
func Adapters() []faulttest.Adapter {
	return []faulttest.Adapter{
		Adapter(),
		variant(NoHealthChecks, func(c *stack.Config) { c.ClientDefaults.HealthCheck = false }, nil),
		variant(NoAuthority, func(c *stack.Config) { c.Server.Chain = map[string]bool{"authority": false} }, nil),
		variant(DeafStreams, func(c *stack.Config) { c.Server.Drain.Soft = 2 * time.Second },
			func(r grpc.ServiceRegistrar) grpc.ServiceRegistrar { return struct{ grpc.ServiceRegistrar }{r} }),
	}
}

// variant is newsvc with another configuration, and with something between its server and the handlers.
func variant(name string, change func(*stack.Config), between func(grpc.ServiceRegistrar) grpc.ServiceRegistrar) faulttest.Adapter {
	if change == nil {
		change = func(*stack.Config) {}
	}
	if between == nil {
		between = func(r grpc.ServiceRegistrar) grpc.ServiceRegistrar { return r }
	}
	return faulttest.Adapter{
		Name: name,
		Keys: func(service string) string { return discovery.ServicePrefix(discovery.DefaultPrefix, service) },
		Serve: func(ctx context.Context, cfg faulttest.ServeConfig) (faulttest.Server, error) {
			c := configFor(cfg.Etcd)
			c.Server.Listen = cfg.Listen
			if cfg.TTL > 0 {
				c.Registration.TTL = cfg.TTL
			}
			change(&c)
			return serve(ctx, cfg, c, between)
		},
		Dial: func(ctx context.Context, cfg faulttest.DialConfig) (faulttest.Conn, error) {
			c := configFor(cfg.Etcd)
			c.Discovery.CacheDir = cfg.CacheDir
			if cfg.Hold > 0 {
				c.Discovery.Guard.Hold = cfg.Hold
			}
			change(&c)
			return dial(ctx, cfg, c)
		},
	}
}

// configFor is the default configuration on an etcd; ports are free ones.
func configFor(e faulttest.Etcd) stack.Config {
	c := stack.DefaultConfig()
	c.Admin.Listen = "127.0.0.1:0"
	c.Etcd.Endpoints, c.Etcd.Username, c.Etcd.Password = e.Endpoints, e.Username, e.Password
	c.Log.Format = "json"
	return c
}

// build assembles a stack that logs to standard error.
func build(service string, watch func(zapcore.Entry) error, c stack.Config, serves bool, callees ...string) (*stack.Stack, error) {
	log, levels, err := stack.NewLog(c, service, false, zapcore.Lock(os.Stderr))
	if err != nil {
		return nil, err
	}
	log = log.WithOptions(zap.Hooks(watch))
	stack.TakeGRPCLog(log.Named("grpc"))
	s, err := stack.New(stack.Params{
		Service: service, Version: "faulttest", Config: c, Serves: serves, Callees: callees, Log: log, Levels: levels,
		Process: stack.Process{Dev: true}, // else a loopback address is refused
		Failed:  func(err error) { log.Error("the stack failed", zap.Error(err)) },
	})
	if err != nil {
		return nil, fmt.Errorf("assemble %q: %w", service, err)
	}
	return s, nil
}

// server is a stack that serves.
type server struct {
	*stack.Stack
	unconfirmed *atomic.Bool // what it says of its own leave
}

func serve(ctx context.Context, cfg faulttest.ServeConfig, c stack.Config, between func(grpc.ServiceRegistrar) grpc.ServiceRegistrar) (faulttest.Server, error) {
	unconfirmed := &atomic.Bool{}
	s, err := build(cfg.Service, func(e zapcore.Entry) error {
		if strings.Contains(e.Message, "could not be revoked") {
			unconfirmed.Store(true)
		}
		return nil
	}, c, true)
	if err != nil {
		return nil, err
	}
	cfg.Register(between(s.Server()))
	if err = s.Connect(ctx); err == nil {
		err = s.Start(ctx)
	}
	if err != nil {
		_ = s.Close(context.WithoutCancel(ctx)) // what is told is why it did not start
		return nil, err
	}
	return server{s, unconfirmed}, nil
}

// Addr is where the gRPC server listens.
func (s server) Addr() string {
	addr, _, _ := s.Addresses()
	return addr
}

// Stop is what a service does at SIGTERM.
func (s server) Stop(ctx context.Context) error {
	if err := s.Drain(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	if err := s.Close(ctx); err != nil || !s.unconfirmed.Load() {
		return err
	}
	return faulttest.ErrLeaveUnconfirmed
}

// conn is a stack that calls one service.
type conn struct {
	grpc.ClientConnInterface
	stack *stack.Stack
}

func dial(ctx context.Context, cfg faulttest.DialConfig, c stack.Config) (faulttest.Conn, error) {
	s, err := build(cfg.Caller, func(zapcore.Entry) error { return nil }, c, false, cfg.Service)
	if err != nil {
		return nil, err
	}
	if err := s.Connect(ctx); err != nil {
		_ = s.Close(context.WithoutCancel(ctx)) // what is told is why it did not connect
		return nil, err
	}
	cc, err := s.Clients().Conn(cfg.Service)
	if err == nil {
		err = s.Start(ctx)
	}
	if err != nil {
		_ = s.Close(context.WithoutCancel(ctx))
		return nil, err
	}
	return &conn{cc, s}, nil
}

// Close ends the stack, and with it the connection.
func (c *conn) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	return c.stack.Close(ctx)
}
