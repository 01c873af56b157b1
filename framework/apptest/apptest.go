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
//
// What services did can be asserted on: [Apps.Logs], [Apps.Metric], [Apps.Spans]. What happens to instances in production can
// be done to them: [Instance.Kill], [Instance.Hide], [Instance.Stop]. A fake answers late or with an error when its code does.
//
// There is no clock of its own, because testing/synctest has one: without [WithEtcd] and without app.HTTP, which need real
// sockets, everything here works within synctest.Test, and timeouts, retries and slow starts then take no time at all.
package apptest

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
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

// Caller is the service that tests call as: what [Apps.Conn] does is logged, measured and traced under this name.
const Caller = "apptest"

// Option says what [Start] starts.
type Option interface{ apply(*plan) }

type plan struct {
	services []*ServiceOption
	etcd     bool
	traces   bool
}

// ServiceOption is the result of [Service] and [Fake]. Its methods return it, for chaining.
type ServiceOption struct {
	name     string
	opts     []fx.Option
	settings [][2]string
	replicas int
}

func (s *ServiceOption) apply(p *plan) { p.services = append(p.services, s) }

// Service starts a service from the options that its main passes to app.Run.
func Service(name string, opts ...fx.Option) *ServiceOption {
	return &ServiceOption{name: name, opts: opts, replicas: 1}
}

// Set gives the service a setting, written as for the flag --set key=value. [Apps.Set] changes it while the service runs.
func (s *ServiceOption) Set(key, value string) *ServiceOption {
	s.settings = append(s.settings, [2]string{key, value})
	return s
}

// Replicas starts n instances of the service in place of one. Constructors run, and a fake is registered, once for each.
func (s *ServiceOption) Replicas(n int) *ServiceOption {
	s.replicas = n
	return s
}

// Fake is a service that other services call, made of test code: register puts the fakes on the server. Calls to it go
// through the same chains of client and server as in production.
func Fake(name string, register func(grpc.ServiceRegistrar)) *ServiceOption {
	return Service(name, app.Serve(func(r grpc.ServiceRegistrar, f fake) { f(r) }, func() fake { return register }))
}

type fake func(grpc.ServiceRegistrar)

type optionFunc func(*plan)

func (f optionFunc) apply(p *plan) { f(p) }

// WithEtcd uses a real etcd, in this process, and real sockets on the loopback interface.
func WithEtcd() Option { return optionFunc(func(p *plan) { p.etcd = true }) }

// WithTraces keeps the spans of all calls for [Apps.Spans], whatever share the services would sample.
func WithTraces() Option { return optionFunc(func(p *plan) { p.traces = true }) }

// Apps are the services that were started. Its methods may be called from any goroutine.
type Apps struct {
	t       testing.TB
	net     *network
	memory  *discoverytest.Registry // nil with etcd
	etcd    *devetcd.Server         // nil without
	traces  bool
	options map[string]*ServiceOption // not changed after Start
	clients *app.Clients

	mu        sync.Mutex // guards instances
	instances map[string][]*Instance
}

// Start starts the services in the order given, each after the one before serves and can be found, and stops them in
// reverse order at the end of the test. What goes wrong ends the test, with the service's log; the logs of all services
// are shown when the test has failed in another way.
func Start(t testing.TB, opts ...Option) *Apps {
	t.Helper()
	var p plan
	for _, o := range opts {
		o.apply(&p)
	}
	a := &Apps{t: t, net: newNetwork(), traces: p.traces, options: make(map[string]*ServiceOption), instances: make(map[string][]*Instance)}
	if p.etcd {
		srv, err := devetcd.Start(t.Context(), devetcd.Config{Fast: true})
		if err != nil {
			t.Fatalf("apptest: start etcd: %v", err)
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
	a.start(Service(Caller, fx.Populate(&a.clients)).Set("discovery.subset", "0")) // Conn waits for all
	for _, s := range p.services {
		a.start(s)
	}
	return a
}

// environment is what an instance finds around it.
func (a *Apps) environment(i *Instance, own [][2]string) *app.Environment {
	settings := [][2]string{
		{"admin.enabled", "false"}, {"admin.listen", "127.0.0.1:0"}, {"http.listen", "127.0.0.1:0"}, {"log.format", "json"},
		{"server.drain.min_window", "0s"}, {"server.drain.max_window", "0s"},
	}
	env := &app.Environment{Log: i.log}
	if a.etcd != nil {
		settings = append(settings, [2]string{"server.listen", "127.0.0.1:0"}, [2]string{"etcd.endpoints", a.etcd.Addr()})
	}
	if a.traces {
		settings = append(settings, [2]string{"telemetry.traces.sample_ratio", "1"})
		env.Replace.Spans = i.spans
	}
	env.Sources.Service, env.Sources.NoFile = i.service, true
	for _, s := range append(settings, own...) {
		env.Set(s[0], s[1])
	}
	env.Process.Dev = true
	if a.memory != nil {
		env.Replace.Source, env.Replace.Registrar = a.memory, a.memory
		env.Replace.Listener, env.Replace.Dial = a.net.listen(i.service), a.net.dial
	}
	return env
}

func (a *Apps) start(s *ServiceOption) {
	a.t.Helper()
	switch {
	case s.name == Caller && a.options[Caller] != nil:
		a.t.Fatalf("apptest: a service is called %q, as the test itself is; use another name", s.name)
	case a.options[s.name] != nil:
		a.t.Fatalf("apptest: service %q is started twice; name it once, with Replicas(2) for two instances of it", s.name)
	case s.replicas < 1:
		a.t.Fatalf("apptest: service %q: Replicas(%d) starts nothing; write 1 or more, or leave the service out", s.name, s.replicas)
	}
	a.options[s.name] = s
	for range s.replicas {
		a.launch(s)
	}
}

// launch starts an instance and returns when it is registered.
func (a *Apps) launch(s *ServiceOption) *Instance {
	a.t.Helper()
	i := &Instance{apps: a, service: s.name, log: &logBuffer{}, spans: &spanRecorder{}}
	a.t.Cleanup(i.show)
	i.start(s)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.instances[s.name] = append(a.instances[s.name], i)
	return i
}

// waitServing returns when the service is ready and, if it registers, registered.
func waitServing(ctx context.Context, s *app.Stack) error {
	if err := s.Readiness().Wait(ctx); err != nil {
		return err
	}
	return s.WaitRegistered(ctx)
}

// Conn returns a connection to a service by its name, through discovery and the same client chain that services use. All
// instances of the service that run are connected when it returns, so that calls are spread over them from the first on.
func (a *Apps) Conn(service string) grpc.ClientConnInterface {
	a.t.Helper()
	conn, err := a.clients.Conn(service)
	if err != nil {
		a.t.Fatalf("apptest: %v", err)
	}
	a.mu.Lock()
	broken := slices.ContainsFunc(a.instances[service], (*Instance).broken)
	a.mu.Unlock()
	if n := len(a.Registered(service)); n > 0 && !broken {
		ctx, cancel := context.WithTimeout(a.t.Context(), patience)
		defer cancel()
		if err := conn.WaitInstances(ctx, n); err != nil {
			a.t.Fatalf("apptest: %v", err)
		}
	}
	return conn
}

// Instances returns the instances of a service in the order in which they were started, those that were stopped too.
func (a *Apps) Instances(service string) []*Instance {
	a.t.Helper()
	a.known(service)
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.instances[service])
}

// known ends the test when the service was not started, and returns what it was started with.
func (a *Apps) known(service string) *ServiceOption {
	a.t.Helper()
	s := a.options[service]
	if s == nil {
		a.t.Fatalf("apptest: service %q was not started, only %q; start it with Service or Fake", service, slices.Sorted(maps.Keys(a.options)))
	}
	return s
}

// Add starts another instance of a service that [Start] has started, in the same way, and returns when it is registered. What
// [Apps.Set] has changed holds for the instances that were there.
func (a *Apps) Add(service string) *Instance {
	a.t.Helper()
	return a.launch(a.known(service))
}

// Set changes a setting of a service while it runs, in all its instances, as a change of a configuration file does, and returns
// when it has taken effect. One that is not valid, or needs a restart, ends the test.
func (a *Apps) Set(service, key, value string) {
	a.t.Helper()
	ctx, cancel := context.WithTimeout(a.t.Context(), patience)
	defer cancel()
	for _, i := range a.Instances(service) {
		if err := i.stack.Set(ctx, key, value); err != nil {
			a.t.Fatalf("apptest: service %q: %v", service, err)
		}
	}
}

// Stop stops a service now, all its instances one after the other, gracefully, as a signal would.
func (a *Apps) Stop(service string) {
	a.t.Helper()
	for _, i := range a.Instances(service) {
		i.Stop()
	}
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
// socket on the loopback interface, with or without [WithEtcd]. Of several instances it is the first.
func (a *Apps) HTTP(service string) string {
	a.t.Helper()
	_, addr, _ := a.Instances(service)[0].stack.Addresses()
	if addr == "" {
		a.t.Fatalf("apptest: service %q serves no HTTP; give it an app.HTTP", service)
	}
	return "http://" + addr
}
