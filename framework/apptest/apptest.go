// Package apptest starts whole services in a test: the same options that main passes to app.Run, in this process, with
// discovery in memory and calls over pipes in place of sockets, so that a test takes milliseconds. [WithEtcd] puts a real
// etcd and real sockets there instead.
//
//	apps := apptest.Start(t,
//		apptest.Service("user-service", service()...),
//		apptest.Fake("mail-service", func(r grpc.ServiceRegistrar) { mailv1.RegisterMailServiceServer(r, fake) }),
//	)
//	users := userv1.NewUserServiceClient(apps.Conn("user-service"))
//
// Services find each other and the fakes by name. No configuration file is read and no environment.
package apptest

import (
	"context"
	"fmt"
	"testing"
	"time"

	"go.uber.org/fx"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	"github.com/newsvc/newsvc/framework/app"
	"github.com/newsvc/newsvc/framework/config"
	"github.com/newsvc/newsvc/framework/devetcd"
	"github.com/newsvc/newsvc/framework/discovery"
	"github.com/newsvc/newsvc/framework/discovery/discoverytest"
	"github.com/newsvc/newsvc/framework/stack"
)

// patience bounds every wait; a test that needs it has failed.
const patience = 30 * time.Second

// Option says what [Start] starts.
type Option interface{ apply(*plan) }

type plan struct {
	services []*ServiceOption
	etcd     bool
}

// ServiceOption is the result of [Service].
type ServiceOption struct {
	name string
	opts []fx.Option
	args []string
}

func (s *ServiceOption) apply(p *plan) { p.services = append(p.services, s) }

// Service starts a service from the options that its main passes to app.Run.
func Service(name string, opts ...fx.Option) *ServiceOption {
	return &ServiceOption{name: name, opts: opts}
}

// Set gives the service a setting, as the flag --set key=value does. It returns the option for chaining.
func (s *ServiceOption) Set(key, value string) *ServiceOption {
	s.args = append(s.args, "--set", key+"="+value)
	return s
}

// Fake is a service that other services call, made of test code: register puts the fakes on the server. Calls to it go
// through the same client chain as in production.
func Fake(name string, register func(grpc.ServiceRegistrar)) Option {
	s := Service(name, app.Serve(func(r grpc.ServiceRegistrar, f fake) { f(r) }, func() fake { return register }))

	return s
}

type fake func(grpc.ServiceRegistrar)

type etcdOption struct{}

func (etcdOption) apply(p *plan) { p.etcd = true }

// WithEtcd uses a real etcd, in this process, and real sockets on the loopback interface.
func WithEtcd() Option { return etcdOption{} }

// Apps are the services that were started. Its methods may be called from any goroutine.
type Apps struct {
	t      testing.TB
	net    *network
	memory *discoverytest.Registry // nil with etcd
	etcd   *devetcd.Server         // nil without
	apps   map[string]*running
	caller *stack.Stack
}

type running struct {
	fx   *fx.App
	log  *logBuffer
	stop func()
}

// Start starts the services in the order given, each after the one before serves and can be found, and stops them in
// reverse order at the end of the test. What goes wrong ends the test, with the service's log.
func Start(t testing.TB, opts ...Option) *Apps {
	t.Helper()
	var p plan
	for _, o := range opts {
		o.apply(&p)
	}
	a := &Apps{t: t, net: newNetwork(), apps: make(map[string]*running)}
	if p.etcd {
		srv, err := devetcd.Start(t.Context(), devetcd.Config{Fast: true})
		if err != nil {
			t.Fatalf("apptest: %v", err)
		}
		t.Cleanup(func() {
			if err := srv.Close(); err != nil {
				t.Errorf("apptest: close etcd: %v", err)
			}
		})
		a.etcd = srv
	} else {
		a.memory = discoverytest.NewRegistry()
	}
	a.startCaller()
	for _, s := range p.services {
		a.start(s)
	}
	return a
}

// environment is what a service finds around it.
func (a *Apps) environment(name string, args []string, log *logBuffer) *app.Environment {
	settings := []string{
		"--set", "admin.enabled=false", "--set", "http.listen=127.0.0.1:0", "--set", "log.format=json",
		"--set", "server.drain.min_window=0s", "--set", "server.drain.max_window=0s",
	}
	if a.etcd != nil {
		settings = append(settings, "--set", "server.listen=127.0.0.1:0", "--set", "etcd.endpoints="+a.etcd.Addr())
	}
	return &app.Environment{
		Sources: config.Sources{Service: name, Args: append(settings, args...), NoFile: true},
		Process: stack.Process{Dev: true},
		Replace: a.replace(name),
		Log:     log,
	}
}

func (a *Apps) replace(name string) stack.Replace {
	if a.etcd != nil {
		return stack.Replace{}
	}
	return stack.Replace{Source: a.memory, Registrar: a.memory, Listener: a.net.listen(name), Dial: a.net.dial}
}

func (a *Apps) start(s *ServiceOption) {
	a.t.Helper()
	if _, ok := a.apps[s.name]; ok {
		a.t.Fatalf("apptest: service %q is started twice; start one and ask for it by name", s.name)
	}
	log := &logBuffer{}
	var st *stack.Stack
	fxApp := fx.New(
		fx.NopLogger,
		fx.Supply(a.environment(s.name, s.args, log)),
		app.Module(s.name, s.opts...),
		fx.Populate(&st),
	)
	ctx, cancel := context.WithTimeout(a.t.Context(), patience)
	defer cancel()
	err := fxApp.Err()
	if err == nil {
		err = fxApp.Start(ctx)
	}
	if err != nil {
		a.t.Fatalf("apptest: service %q does not start: %v\n%s", s.name, err, log)
	}
	r := &running{fx: fxApp, log: log}
	a.apps[s.name] = r
	stopped := false
	r.stop = func() {
		if stopped {
			return
		}
		stopped = true
		stop, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := fxApp.Stop(stop); err != nil {
			a.t.Errorf("apptest: service %q does not stop cleanly: %v\n%s", s.name, err, log)
		}
	}
	a.t.Cleanup(r.stop)
	if err := waitServing(ctx, st); err != nil {
		a.t.Fatalf("apptest: service %q is not ready: %v\n%s", s.name, err, log)
	}
}

// waitServing returns when the service is ready and, if it registers, registered.
func waitServing(ctx context.Context, s *stack.Stack) error {
	if err := s.Readiness().Wait(ctx); err != nil {
		return err
	}
	return s.WaitRegistered(ctx)
}

// startCaller makes the client side that tests call with, a service without a server.
func (a *Apps) startCaller() {
	a.t.Helper()
	cfg := stack.DefaultConfig()
	cfg.Admin.Enabled = false
	if a.etcd != nil {
		cfg.Etcd.Endpoints = a.etcd.Endpoints()
	}
	r := a.replace("apptest")
	r.Listener = nil
	s, err := stack.New(stack.Params{
		Service: "apptest", Config: cfg, Log: zap.NewNop(), Level: zap.NewAtomicLevel(),
		Process: stack.Process{Dev: true}, Replace: r,
	})
	if err != nil {
		a.t.Fatalf("apptest: %v", err)
	}
	a.caller = s
	a.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := s.Close(ctx); err != nil {
			a.t.Errorf("apptest: close the test's connections: %v", err)
		}
	})
}

// Conn returns a connection to a service by its name, through discovery and the same client chain that services use.
func (a *Apps) Conn(service string) grpc.ClientConnInterface {
	a.t.Helper()
	conn, err := a.caller.Clients().Conn(service)
	if err != nil {
		a.t.Fatalf("apptest: %v", err)
	}
	return conn
}

// Stop stops one service now, gracefully, as a signal would.
func (a *Apps) Stop(service string) {
	a.t.Helper()
	r, ok := a.apps[service]
	if !ok {
		a.t.Fatalf("apptest: service %q was not started", service)
	}
	r.stop()
}

// Log returns what a service has logged so far.
func (a *Apps) Log(service string) string {
	if r, ok := a.apps[service]; ok {
		return r.log.String()
	}
	return ""
}

// Registered returns the addresses under which a service is registered at this moment, read from the registry itself.
func (a *Apps) Registered(service string) []string {
	a.t.Helper()
	addrs := []string{}
	if a.memory != nil {
		for _, i := range a.memory.Instances(service) {
			addrs = append(addrs, i.Addr)
		}
		return addrs
	}
	ctx, cancel := context.WithTimeout(a.t.Context(), patience)
	defer cancel()
	keys, err := etcdKeys(ctx, a.etcd, discovery.ServicePrefix(discovery.DefaultPrefix, service))
	if err != nil {
		a.t.Fatalf("apptest: read the registry: %v", err)
	}
	for _, key := range keys {
		if _, rest, ok := discovery.ParseKey(discovery.DefaultPrefix, key); ok {
			addrs = append(addrs, rest)
		}
	}
	return addrs
}

// Etcd is the etcd of [WithEtcd]; nil without.
func (a *Apps) Etcd() *devetcd.Server { return a.etcd }

func (a *Apps) String() string { return fmt.Sprintf("apptest with %d services", len(a.apps)) }
