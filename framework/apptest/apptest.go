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
	"strings"
	"testing"
	"time"

	"go.uber.org/fx"
	"google.golang.org/grpc"

	"github.com/newsvc/newsvc/framework/app"
	"github.com/newsvc/newsvc/framework/devetcd"
	"github.com/newsvc/newsvc/framework/discovery/discoverytest"
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
	return Service(name, app.Serve(func(r grpc.ServiceRegistrar, f fake) { f(r) }, func() fake { return register }))
}

type fake func(grpc.ServiceRegistrar)

type etcdOption struct{}

func (etcdOption) apply(p *plan) { p.etcd = true }

// WithEtcd uses a real etcd, in this process, and real sockets on the loopback interface.
func WithEtcd() Option { return etcdOption{} }

// Apps are the services that were started. Its methods may be called from any goroutine.
type Apps struct {
	t       testing.TB
	net     *network
	memory  *discoverytest.Registry // nil with etcd
	etcd    *devetcd.Server         // nil without
	apps    map[string]*running
	clients *app.Clients
}

type running struct {
	stack *app.Stack
	log   *logBuffer
	stop  func()
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
	a.start(Service(callerName, fx.Populate(&a.clients)))
	for _, s := range p.services {
		a.start(s)
	}
	return a
}

// environment is what a service finds around it.
func (a *Apps) environment(name string, args []string, log *logBuffer) *app.Environment {
	settings := []string{
		"--set", "admin.enabled=false", "--set", "admin.listen=127.0.0.1:0", "--set", "http.listen=127.0.0.1:0", "--set", "log.format=json",
		"--set", "server.drain.min_window=0s", "--set", "server.drain.max_window=0s",
	}
	if a.etcd != nil {
		settings = append(settings, "--set", "server.listen=127.0.0.1:0", "--set", "etcd.endpoints="+a.etcd.Addr())
	}
	env := &app.Environment{Log: log}
	env.Sources.Service, env.Sources.Args, env.Sources.NoFile = name, append(settings, args...), true
	env.Process.Dev = true
	if a.memory != nil {
		env.Replace.Source, env.Replace.Registrar = a.memory, a.memory
		env.Replace.Listener, env.Replace.Dial = a.net.listen(name), a.net.dial
	}
	return env
}

func (a *Apps) start(s *ServiceOption) {
	a.t.Helper()
	if _, ok := a.apps[s.name]; ok {
		a.t.Fatalf("apptest: service %q is started twice; start one and ask for it by name", s.name)
	}
	log := &logBuffer{}
	var st *app.Stack
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
	r := &running{stack: st, log: log}
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
func waitServing(ctx context.Context, s *app.Stack) error {
	if err := s.Readiness().Wait(ctx); err != nil {
		return err
	}
	return s.WaitRegistered(ctx)
}

// callerName is the service that tests call as.
const callerName = "apptest"

// Conn returns a connection to a service by its name, through discovery and the same client chain that services use.
func (a *Apps) Conn(service string) grpc.ClientConnInterface {
	a.t.Helper()
	conn, err := a.clients.Conn(service)
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
	prefix := "/newsvc/default/" + service + "/"
	keys, err := etcdKeys(ctx, a.etcd, prefix)
	if err != nil {
		a.t.Fatalf("apptest: read the registry: %v", err)
	}
	for _, key := range keys {
		addrs = append(addrs, strings.TrimPrefix(key, prefix))
	}
	return addrs
}

// Etcd is the etcd of [WithEtcd]; nil without.
func (a *Apps) Etcd() *devetcd.Server { return a.etcd }

// HTTP returns the base URL of what a service serves with app.HTTP, for example http://127.0.0.1:40001. That is a real
// socket on the loopback interface, with or without [WithEtcd].
func (a *Apps) HTTP(service string) string {
	a.t.Helper()
	r, ok := a.apps[service]
	if !ok {
		a.t.Fatalf("apptest: service %q was not started", service)
	}
	_, addr, _ := r.stack.Addresses()
	if addr == "" {
		a.t.Fatalf("apptest: service %q serves no HTTP; it has no app.HTTP", service)
	}
	return "http://" + addr
}
