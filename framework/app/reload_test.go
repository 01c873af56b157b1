package app_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/fx"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	testpb "google.golang.org/grpc/interop/grpc_testing"

	"github.com/newsvc/newsvc/framework/app"
	"github.com/newsvc/newsvc/framework/devetcd"
	"github.com/newsvc/newsvc/framework/discovery/discoverytest"
)

// callee answers with its name and how long the caller is going to wait.
type callee struct {
	testpb.UnimplementedTestServiceServer
	name string
}

func (c callee) UnaryCall(ctx context.Context, _ *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
	deadline, _ := ctx.Deadline()
	return &testpb.SimpleResponse{Username: c.name, Hostname: time.Until(deadline).String()}, nil
}

// target starts a callee and returns a target for it.
func target(t *testing.T, name string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	healthpb.RegisterHealthServer(s, health.NewServer())
	testpb.RegisterTestServiceServer(s, callee{name: name})
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(l) }()
	t.Cleanup(func() { s.Stop(); <-done })
	return "static:///" + l.Addr().String()
}

// limits is a section of the domain's.
type limits struct {
	Max  int    `config:"max" reload:"live"`
	Name string `config:"name"`
}

func (l limits) Validate() error {
	if l.Max < 0 {
		return fmt.Errorf("max: %d is negative; write 0 or more", l.Max)
	}
	return nil
}

// shelf is a value of the domain's that takes limits.
type shelf struct{ max atomic.Int64 }

func newShelf(l limits) *shelf {
	s := &shelf{}
	s.max.Store(int64(l.Max))
	return s
}

func (s *shelf) resize(_, next limits) error {
	if next.Max > 100 {
		return errors.New("the shelf holds 100")
	}
	s.max.Store(int64(next.Max))
	return nil
}

// service is an app in this process that follows its configuration.
type service struct {
	t     *testing.T
	dir   string
	log   *output
	users testpb.TestServiceClient
	shelf *shelf
	stack *app.Stack
	stop  func()
}

func (s *service) write(text string) {
	s.t.Helper()
	tmp := filepath.Join(s.dir, "new")
	if err := errors.Join(os.WriteFile(tmp, []byte(text), 0o600), os.Rename(tmp, filepath.Join(s.dir, "config.yaml"))); err != nil {
		s.t.Fatal(err)
	}
}

// boot starts a service whose config.yaml holds text.
func boot(t *testing.T, text string, args ...string) *service {
	t.Helper()
	s := &service{t: t, dir: t.TempDir(), log: &output{}}
	s.write(text)
	s.start(args...)
	return s
}

// Sync implements zapcore.WriteSyncer.
func (o *output) Sync() error { return nil }

func (s *service) start(args ...string) {
	s.t.Helper()
	reg := discoverytest.NewRegistry()
	env := &app.Environment{Log: s.log}
	env.Sources.Service, env.Sources.Dir = "my-service", s.dir
	env.Sources.Args = append([]string{"--set", "admin.listen=127.0.0.1:0", "--set", "log.format=json", "--set", "app.config_poll=10ms"}, args...)
	env.Replace.Source, env.Replace.Registrar = reg, reg
	fxApp := fx.New(fx.NopLogger, fx.Supply(env), app.Module("my-service",
		app.Client("user-service", testpb.NewTestServiceClient),
		app.Config("limits", limits{Max: 1}),
		app.Provide(newShelf),
		app.OnReload("limits", (*shelf).resize),
	), fx.Populate(&s.users, &s.shelf, &s.stack))
	if err := fxApp.Start(s.t.Context()); err != nil {
		s.t.Fatal(err)
	}
	s.stop = sync.OnceFunc(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := fxApp.Stop(ctx); err != nil {
			s.t.Error(err)
		}
	})
	s.t.Cleanup(func() {
		s.stop()
		if s.t.Failed() {
			s.t.Log(s.log.String())
		}
	})
}

// call returns who answered, and with which deadline.
func (s *service) call() (string, time.Duration) {
	s.t.Helper()
	r, err := s.users.UnaryCall(s.t.Context(), &testpb.SimpleRequest{})
	if err != nil {
		s.t.Fatal(err)
	}
	d, err := time.ParseDuration(r.GetHostname())
	if err != nil {
		s.t.Fatal(err)
	}
	return r.GetUsername(), d
}

// waits waits until calls are bounded by a time between the two.
func (s *service) waits(least, most time.Duration) {
	s.t.Helper()
	eventually(s.t, fmt.Sprintf("a call that waits %v to %v", least, most), func() bool {
		_, d := s.call()
		return d > least && d <= most
	})
}

func (s *service) logged(text string) {
	s.t.Helper()
	eventually(s.t, text, func() bool { return strings.Contains(s.log.String(), text) })
}

// page is /debug/config.
func (s *service) page() (page struct {
	Pending []struct{ Key string }
	Refused *struct{ Problems []string }
	Failed  map[string]string
	Etcd    struct {
		Keys     int
		Held     []string
		FromCopy bool `json:"from_copy"`
		Error    string
	}
},
) {
	s.t.Helper()
	_, _, admin := s.stack.Addresses()
	asks := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := asks.Get("http://" + admin + "/debug/config")
	if err != nil {
		s.t.Fatal(err)
	}
	defer res.Body.Close()
	if err := json.NewDecoder(res.Body).Decode(&page); err != nil {
		s.t.Fatal(err)
	}
	return page
}

func TestFileChangesReachTheNextCall(t *testing.T) {
	t.Parallel()
	to := target(t, "a")
	s := boot(t, "clients: {user-service: {target: \""+to+"\", timeout: 100s}}\n")
	s.waits(50*time.Second, 100*time.Second)
	s.write("clients: {user-service: {target: \"" + to + "\", timeout: 1000s}}\nlog: {level: debug}\nhttp: {listen: \"127.0.0.1:1\"}\n")
	s.waits(500*time.Second, 1000*time.Second)
	s.logged(`clients.user-service.timeout: \"1m40s\" -> \"16m40s\" (config.yaml:1)`)
	s.logged(`needs a restart: http.listen`)
	if p := s.page(); len(p.Pending) != 1 || p.Pending[0].Key != "http.listen" || p.Refused != nil {
		t.Errorf("page: %+v", p)
	}
	s.write("clients: {user-service: {timeout: soon}}\n")
	s.logged("the new configuration is refused as a whole; the one before stays in force")
	if p := s.page(); p.Refused == nil || !strings.Contains(strings.Join(p.Refused.Problems, ""), `config.yaml:1:35: clients.user-service.timeout: "soon" is not a duration`) {
		t.Errorf("page: %+v", p.Refused)
	}
	s.waits(500*time.Second, 1000*time.Second)
	s.write("clients: {defaults: {timeout: 200s}, user-service: {target: \"" + to + "\"}}\n")
	s.logged("the configuration can be used again")
	s.waits(100*time.Second, 200*time.Second)
}

func TestRedialKeyIsSwappedWithoutAFailedCall(t *testing.T) {
	t.Parallel()
	a, b := target(t, "a"), target(t, "b")
	s := boot(t, "clients: {user-service: {target: \""+a+"\"}}\n")
	ctx, cancel := context.WithCancel(t.Context())
	var calls, failed atomic.Int64
	var load sync.WaitGroup
	defer load.Wait()
	defer cancel()
	for range 4 {
		load.Go(func() {
			for ctx.Err() == nil {
				if _, err := s.users.UnaryCall(context.WithoutCancel(ctx), &testpb.SimpleRequest{}); err != nil {
					failed.Add(1)
				}
				calls.Add(1)
			}
		})
	}
	for i, to := range []string{b, a, b} {
		s.write(fmt.Sprintf("# %d\nclients: {user-service: {target: %q}}\n", i, to))
		want := map[string]string{a: "a", b: "b"}[to]
		eventually(t, "a call to "+want, func() bool { who, _ := s.call(); return who == want })
	}
	cancel()
	load.Wait()
	if failed.Load() != 0 || calls.Load() == 0 {
		t.Errorf("%d of %d calls failed", failed.Load(), calls.Load())
	}
}

func TestOnReloadTakesASection(t *testing.T) {
	t.Parallel()
	s := boot(t, "limits: {max: 5, name: a}\n")
	if s.shelf.max.Load() != 5 {
		t.Fatalf("max = %d at the start", s.shelf.max.Load())
	}
	s.write("limits: {max: 7, name: b}\n")
	eventually(t, "the new limit", func() bool { return s.shelf.max.Load() == 7 })
	s.logged("needs a restart: limits.name")
	s.write("limits: {max: 700, name: b}\n")
	s.logged("the shelf holds 100")
	if p := s.page(); p.Failed["limits"] != "the shelf holds 100" {
		t.Errorf("page: %+v", p)
	}
	s.write("limits: {max: -7}\n")
	s.logged("limits.max: -7 is negative")
	s.write("limits: {max: 9, name: a}\n")
	eventually(t, "the last limit", func() bool { return s.shelf.max.Load() == 9 })
}

func TestOnReloadThatCouldNeverHappenIsRefused(t *testing.T) {
	t.Parallel()
	type fixed struct {
		Max int `config:"max"`
	}
	for want, opt := range map[string]fx.Option{
		`no key of section "fixed" takes effect without a restart; tag those that may change`: app.OnReload("fixed", func(*shelf, fixed, fixed) error { return nil }),
		`read section "limits" as app_test.fixed: it holds a app_test.limits`:                 app.OnReload("limits", func(*shelf, fixed, fixed) error { return nil }),
		`read section "nope"`: app.OnReload("nope", func(*shelf, fixed, fixed) error { return nil }),
		`the function is nil`: app.OnReload[*shelf, fixed]("fixed", nil),
	} {
		env := &app.Environment{Log: &output{}}
		env.Sources.NoFile = true
		err := fx.New(fx.NopLogger, fx.Supply(env), app.Module("my-service",
			app.Config("fixed", fixed{}), app.Config("limits", limits{}), app.Provide(newShelf), opt)).Err()
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "reload_test.go:") {
			t.Errorf("error: %v\nwant: %s", err, want)
		}
	}
}

func TestEtcdChangesReachTheNextCallAndSurviveItsLoss(t *testing.T) {
	t.Parallel()
	cfg := devetcd.Config{Fast: true, Dir: t.TempDir()}
	etcd, err := devetcd.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	cfg.ClientAddr = etcd.Addr()
	stopEtcd := func() {
		if err := etcd.Close(); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(func() { stopEtcd() })
	const prefix = "/newsvc/config/my-service"
	put := func(key, value string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if _, err := etcd.Client().Put(ctx, prefix+key, value); err != nil {
			t.Fatal(err)
		}
	}
	put("/clients/user-service/timeout", "100s")
	put("/limits", "max: 3")
	cache := t.TempDir()
	to := target(t, "a")
	args := []string{
		"--set", "app.config_prefix=" + prefix, "--set", "discovery.cache_dir=" + cache, "--set", "etcd.endpoints=" + etcd.Addr(),
		"--set", "clients.user-service.target=" + to,
	}
	s := boot(t, "clients: {user-service: {timeout: 1s}}\n", args...)
	s.waits(50*time.Second, 100*time.Second)
	if s.shelf.max.Load() != 3 {
		t.Errorf("max = %d", s.shelf.max.Load())
	}
	put("/clients/user-service/timeout", "1000s")
	s.waits(500*time.Second, 1000*time.Second)
	put("/limits/max", "8") // the longer key wins
	eventually(t, "the new limit", func() bool { return s.shelf.max.Load() == 8 })

	put("/etcd/endpoints", "10.0.0.1:2379")
	s.logged("etcd.endpoints cannot be set here: it is needed to reach etcd")
	put("/clients/user-service/timeout", "soon")
	s.logged(`clients.user-service.timeout: \"soon\" is not a duration`)
	s.waits(500*time.Second, 1000*time.Second)
	s.stop()

	// A start takes the copy as long as what etcd holds is no good, and says so.
	s.start(args...)
	s.logged("etcd holds settings that can't be used; those of the copy are in force")
	s.waits(500*time.Second, 1000*time.Second)
	if p := s.page(); p.Refused == nil || !strings.Contains(strings.Join(p.Refused.Problems, "|"), "etcd "+prefix+"/clients/user-service/timeout") {
		t.Errorf("page: %+v", p)
	}
	s.stop()

	// And when etcd is away.
	stopEtcd()
	s.start(args...)
	s.logged("the settings in etcd can't be read; those of the copy are in force")
	s.waits(500*time.Second, 1000*time.Second)
	if p := s.page(); !p.Etcd.FromCopy || p.Etcd.Error == "" || p.Etcd.Keys != 3 {
		t.Errorf("page: %+v", p.Etcd)
	}
	if etcd, err = devetcd.Start(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if _, err := etcd.Client().Delete(ctx, prefix+"/etcd/endpoints"); err != nil {
		t.Fatal(err)
	}
	put("/clients/user-service/timeout", "200s")
	s.waits(100*time.Second, 200*time.Second)

	// A wiped etcd takes nothing away while it is filled again, neither here nor from a start.
	stopEtcd()
	cfg.Dir = t.TempDir()
	if etcd, err = devetcd.Start(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	s.logged("settings in etcd are gone and nobody was seen deleting them")
	put("/clients/user-service/timeout", "300s")
	s.waits(200*time.Second, 300*time.Second)
	limit := func() {
		t.Helper()
		if p := s.page(); s.shelf.max.Load() != 8 || strings.Join(p.Etcd.Held, " ") != prefix+"/limits "+prefix+"/limits/max" {
			t.Errorf("max = %d, page: %+v", s.shelf.max.Load(), p.Etcd)
		}
		families, err := s.stack.Telemetry().Gatherer().Gather()
		if err != nil {
			t.Fatal(err)
		}
		held := -1.0
		for _, f := range families {
			if f.GetName() == "newsvc_config_held_keys" {
				held = f.GetMetric()[0].GetGauge().GetValue()
			}
		}
		if held != 2 {
			t.Errorf("newsvc_config_held_keys is %v", held)
		}
	}
	limit()
	s.stop()
	s.start(args...)
	s.logged("etcd has lost settings that the copy holds; those are in force (" + prefix + "/limits, " + prefix + "/limits/max)")
	s.waits(200*time.Second, 300*time.Second)
	limit()
	put("/limits", "max: 2")
	put("/config.complete", "")
	eventually(t, "the limit that is left", func() bool { return s.shelf.max.Load() == 2 })
}

func TestPrefixesMustNotLieWithinEachOther(t *testing.T) {
	t.Parallel()
	for prefix, want := range map[string]string{
		"/newsvc/default/config": `"/newsvc/default/config" and discovery.prefix "/newsvc/default" lie within each other; choose one beside it, for example "/newsvc/config/my-service"`,
		"/newsvc":                `discovery.prefix "/newsvc/default"`,
		"/newsvc/default-coordination/lock/settings": `and where leaders and locks are kept, "/newsvc/default-coordination" lie within each other`,
	} {
		env := &app.Environment{Log: &output{}}
		env.Sources.Service, env.Sources.NoFile, env.Sources.Args = "my-service", true, []string{"--set", "app.config_prefix=" + prefix}
		err := fx.New(fx.NopLogger, fx.Supply(env), app.Module("my-service")).Err()
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error: %v", prefix, err)
		}
	}
}

func TestHangupReloads(t *testing.T) {
	t.Parallel()
	p := start(t, "server", "MY_SERVICE__APP__SIGHUP=reload", "MY_SERVICE__APP__CONFIG_POLL=0s", "MY_SERVICE__REGISTRATION__ENABLED=false")
	p.ready()
	for i, level := range []string{"debug", "info"} {
		if err := os.WriteFile(filepath.Join(p.cmd.Dir, "config.yaml"), []byte("log: {level: "+level+"}\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		p.signal(syscall.SIGHUP)
		p.wrote([]string{`log.level: \"info\" -> \"debug\"`, `log.level: \"debug\" -> \"info\"`}[i])
	}
	p.signal(syscall.SIGTERM)
	p.exits(0)
}
