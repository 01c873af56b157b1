// Package app is the edge: it puts the framework into Fx and turns the list of options in a service's main into a
// running process. With apptest and gatewayfx it is the only package that imports Fx, and it holds wiring alone; the
// work is done by package stack and below.
//
//	func main() {
//		app.Run("user-service",
//			app.Config("user", user.DefaultConfig()),
//			app.Provide(user.NewStore),
//			app.Serve(userv1.RegisterUserServiceServer, user.NewServer),
//		)
//	}
//
// Constructors are plain functions: they take what they need as parameters and know nothing of Fx. Besides what the
// options provide they may ask for *slog.Logger (what is logged with a call's context carries its trace), *zap.Logger,
// *clientv3.Client, *client.Factory, discovery.Source, prometheus.Registerer, trace.TracerProvider, [Draining] and func(context.Context) (string, bool), which tells who makes
// the call of a context. Plain Fx options work beside those of this package.
package app

import (
	"context"
	"errors"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/fx"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	"github.com/newsvc/newsvc/framework/config"
	"github.com/newsvc/newsvc/framework/stack"
)

// Draining is what a handler that wants to know early that the server is about to stop takes as a constructor
// parameter; it may use the bare function type instead, so that it need not import this package. The channel is
// closed when the server begins to drain; the handler's context is cancelled only later.
type Draining = func(context.Context) <-chan struct{}

// Stack is what an app is built on; programs that own their fx.New, and tests, may ask for it.
type Stack = stack.Stack

// Clients makes connections by callee name, for callees that are known only at run time.
type Clients = stack.Clients

// Dev is true under newsvc dev; constructors may ask for it.
type Dev bool

// Module is everything that Run puts into Fx, for programs that own their fx.New. List it last, and not within an
// fx.Module. The configuration is read from the process as Run does it; supply an *[Environment] to change that. Fx's own
// limits hold: give fx.StopTimeout 15 s more than app.stop_timeout, or hooks are skipped.
func Module(service string, opts ...fx.Option) fx.Option {
	if err := checkClients(opts); err != nil {
		return fx.Error(err)
	}
	f := &failed{}
	return fx.Options(
		fx.ErrorHook(f),
		// Listed first: the invokes of the first module run before all others, so that the configuration is checked
		// and questions are answered before the first constructor of the service.
		fx.Module("newsvc",
			fx.Provide(
				func(p bootParams) (*boot, error) {
					var err error
					f.boot, err = newBoot(service, p)
					return f.boot, err
				},
				func(b *boot) (*config.Config, *zap.Logger, *slog.Logger) {
					return b.Live.Current(), b.Log, stack.Slog(b.Log)
				},
				newStack,
				provided,
				func(s *stack.Stack) (*clientv3.Client, error) { return s.NeedEtcd() },
			),
			fx.Invoke(func(*boot) {}),
			fx.Invoke(connect),
		),
		fx.Options(opts...),
		// A root invoke runs after those of all modules: what it starts is started last and stopped first.
		fx.Invoke(serve),
	)
}

// stackParams is what the stack is made from.
type stackParams struct {
	fx.In
	Boot    *boot
	Down    fx.Shutdowner
	Options []serverOption `group:"newsvc.server"`
}

func newStack(p stackParams) (*stack.Stack, error) {
	b := p.Boot
	opts := make([]stack.ServerOption, 0, len(p.Options))
	for _, o := range p.Options {
		opts = append(opts, o.option)
	}
	var err error
	b.down = p.Down
	b.stack, err = b.New(opts, b.partFailed)
	return b.stack, err
}

// provisions is what the stack offers to constructors.
type provisions struct {
	fx.Out
	Clients  *stack.Clients
	Source   stack.Source
	Metrics  prometheus.Registerer
	Tracer   trace.TracerProvider
	Draining Draining
	Subject  func(context.Context) (string, bool)
	Dev      Dev
}

func provided(b *boot, s *stack.Stack) provisions {
	p := provisions{
		Clients: s.Clients(), Source: s.Source(),
		Metrics: s.Telemetry().Registerer(), Tracer: s.Telemetry().TracerProvider(),
		Draining: func(context.Context) <-chan struct{} { return nil }, Dev: Dev(b.Env.Process.Dev), Subject: stack.Subject,
	}
	if s.Server() != nil {
		p.Draining = s.Server().DrainSignal()
	}
	return p
}

// connect appends a hook before all hooks of the service: its start connects to the callees, its stop closes what was
// provided, the connections, etcd and telemetry after everything else has stopped. Fx does not stop a hook that did not
// start.
func connect(lc fx.Lifecycle, b *boot, s *stack.Stack) {
	own(lc, fx.Hook{
		OnStart: func(ctx context.Context) error {
			err := s.Connect(ctx)
			if err != nil {
				err = errors.Join(err, b.close())
			}
			return err
		},
		OnStop: func(context.Context) error { return b.close() },
	})
}

// serveParams is everything that is served, checked or run.
type serveParams struct {
	fx.In
	Boot     *boot
	Stack    *stack.Stack
	LC       fx.Lifecycle
	Bindings []binding `group:"newsvc.bindings"`
	Handlers []handler `group:"newsvc.handlers"`
	Workers  []worker  `group:"newsvc.workers"`
	Checks   []check   `group:"newsvc.checks"`
}

// serve hands the service's parts to the stack and appends the hook that starts last and stops first.
func serve(p serveParams) error {
	for _, b := range p.Bindings {
		b.register(grpc.ServiceRegistrar(p.Stack.Server()))
	}
	for _, h := range p.Handlers {
		if err := p.Stack.Handle(h.where, h.Handler); err != nil {
			return err
		}
	}
	for _, c := range p.Checks {
		p.Stack.Readiness().Add(c.name, c.run)
	}
	for _, w := range p.Workers {
		p.Stack.Work(w.name, w.Run)
	}
	own(p.LC, fx.Hook{OnStart: p.Stack.Start, OnStop: p.Boot.drain})
	return nil
}
