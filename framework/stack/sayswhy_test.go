package stack_test

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"

	"github.com/newsvc/newsvc/framework/auth"
	"github.com/newsvc/newsvc/framework/config"
	"github.com/newsvc/newsvc/framework/devetcd"
	"github.com/newsvc/newsvc/framework/discovery"
	"github.com/newsvc/newsvc/framework/stack"
)

func realEtcd(t *testing.T) *devetcd.Server {
	t.Helper()
	etcd, err := devetcd.Start(t.Context(), devetcd.Config{Fast: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = etcd.Close() }) // a test may have closed it before
	return etcd
}

// callerOf is a process named gateway that calls callee by way of a real etcd.
func callerOf(t *testing.T, etcd *devetcd.Server, callee string, change func(*stack.Params)) *stack.Stack {
	t.Helper()
	p, _, _ := params(t)
	p.Service, p.Serves, p.Callees, p.Replace = "gateway", false, []string{callee}, stack.Replace{}
	p.Config.Etcd.Endpoints = etcd.Endpoints()
	p.Config.ClientDefaults.Timeout = 300 * time.Millisecond
	if change != nil {
		change(&p)
	}
	s := build(t, p)
	if err := s.Connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

// serveOn is a user-service that is registered in a real etcd.
func serveOn(t *testing.T, etcd *devetcd.Server, change func(*stack.Params)) *stack.Stack {
	t.Helper()
	p, _, _ := params(t)
	p.Replace = stack.Replace{}
	p.Config.Etcd.Endpoints = etcd.Endpoints()
	if change != nil {
		change(&p)
	}
	s := build(t, p)
	up(t, s)
	return s
}

// serveHTTPOn serves HTTP, too, of which one request is made.
func serveHTTPOn(t *testing.T, etcd *devetcd.Server, change func(*stack.Params)) *stack.Stack {
	t.Helper()
	p, _, _ := params(t)
	p.Replace = stack.Replace{}
	p.Config.Etcd.Endpoints = etcd.Endpoints()
	p.Config.HTTP.Listen = "127.0.0.1:0"
	change(&p)
	s := build(t, p)
	if err := s.Handle("here", http.NotFoundHandler()); err != nil {
		t.Fatal(err)
	}
	up(t, s)
	_, addr, _ := s.Addresses()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+addr+"/", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	req.Close = true
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	_, _ = io.Copy(io.Discard, res.Body)
	eventually(t, "the request is counted", func() bool {
		_, ok := metrics(t, s)["http_server_request_duration_seconds "+service+" GET 404 "]
		return ok
	})
	return s
}

func callTo(t *testing.T, s *stack.Stack, callee string) error {
	t.Helper()
	conn, err := s.Clients().Conn(callee)
	if err != nil {
		t.Fatal(err)
	}
	_, err = testpb.NewTestServiceClient(conn).EmptyCall(t.Context(), &testpb.Empty{})
	return err
}

// page is what tests read of /debug/discovery.
type page struct {
	Etcd         struct{ Endpoints []string }
	Registration struct {
		Key, State, Lease string
		Remaining         float64 `json:"lease_remaining_seconds"`
	}
	Callees []struct {
		Callee, Key, Why string
		Revision         int64
		Known, Guarding  bool
		Held             int
		DidYouMean       []string `json:"did_you_mean"`
		Watch            struct {
			Lists      map[string]int
			Unreadable []string `json:"unreadable_keys"`
		}
		Instances []struct {
			Addr, State, Connection, Note, Error string
			Used                                 bool
			Ejected                              string
			EjectedFor                           string    `json:"ejected_for"`
			EjectedSince                         time.Time `json:"ejected_since"`
			EjectedUntil                         time.Time `json:"ejected_until"`
		}
	}
}

// look asks the admin server for the page.
func look(t *testing.T, s *stack.Stack, query string, accept ...string) (kind, body string) {
	t.Helper()
	_, _, admin := s.Addresses()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+admin+"/debug/discovery"+query, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	req.Header["Accept"] = accept
	req.Close = true
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	all, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.Header.Get("Content-Type"), string(all)
}

func read(t *testing.T, s *stack.Stack) page {
	t.Helper()
	_, body := look(t, s, "")
	var p page
	if err := json.Unmarshal([]byte(body), &p); err != nil {
		t.Fatalf("%v: %s", err, body)
	}
	return p
}

// metrics are the samples of the process, by name and labels in the order of their names.
func metrics(t *testing.T, s *stack.Stack) map[string]float64 {
	t.Helper()
	families, err := s.Telemetry().Gatherer().Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name := f.GetName()
			for _, l := range m.GetLabel() {
				name += " " + l.GetValue()
			}
			switch f.GetType() { //nolint:exhaustive // no other is looked at
			case dto.MetricType_COUNTER:
				out[name] = m.GetCounter().GetValue()
			case dto.MetricType_GAUGE:
				out[name] = m.GetGauge().GetValue()
			default:
				out[name] = 0
			}
		}
	}
	return out
}

func put(t *testing.T, etcd *devetcd.Server, callee string, state discovery.State, addrs ...string) {
	t.Helper()
	for _, addr := range addrs {
		value, err := discovery.Encode(&discovery.Instance{Service: callee, Addr: addr, State: state, Incarnation: "of-" + addr, Zone: "z1"})
		if err != nil {
			t.Fatal(err)
		}
		putRaw(t, etcd, discovery.Key(discovery.DefaultPrefix, callee, addr), string(value))
	}
}

func putRaw(t *testing.T, etcd *devetcd.Server, key, value string) {
	t.Helper()
	if _, err := etcd.Client().Put(limit(t), key, value); err != nil {
		t.Fatal(err)
	}
}

// Ages differ from error to error.
var ages = regexp.MustCompile(`for [0-9.]+m?s`)

func TestAMisspeltCalleeIsToldWhatWasMeant(t *testing.T) {
	t.Parallel()
	etcd := realEtcd(t)
	serveOn(t, etcd, nil)
	const wrong = "user-servise"
	core, logs := observer.New(zapcore.InfoLevel)
	waits := callerOf(t, etcd, wrong, func(p *stack.Params) { p.Log = zap.New(core) })
	failsFast := callerOf(t, etcd, wrong, func(p *stack.Params) { p.Config.ClientDefaults.WaitForReady = false })

	const hint = `did you mean "user-service"?`
	var late, fast error
	eventually(t, "the suggestion of a call that waits", func() bool {
		late = callTo(t, waits, wrong)
		return strings.Contains(late.Error(), hint)
	})
	eventually(t, "the suggestion of a call that does not wait", func() bool {
		fast = callTo(t, failsFast, wrong)
		return strings.Contains(fast.Error(), hint)
	})
	_, lateText, _ := strings.Cut(ages.ReplaceAllString(late.Error(), ""), "desc = ")
	_, fastText, _ := strings.Cut(ages.ReplaceAllString(fast.Error(), ""), "desc = ")
	if lateText != fastText+"; nobody took the call within 300ms (clients.user-servise.timeout)" {
		t.Errorf("two texts for one reason:\n%s\n%s", lateText, fastText)
	}
	for _, want := range []string{`"user-servise"`, `"/newsvc/default"`, etcd.Addr(), "revision ", "up to date"} {
		if !strings.Contains(fast.Error(), want) {
			t.Errorf("%q is not in: %v", want, fast)
		}
	}
	if n := len(late.Error()); n > 400 {
		t.Errorf("%d bytes: %v", n, late)
	}
	if public := status.Convert(late).Message(); strings.Contains(public, etcd.Addr()) || strings.Contains(public, discovery.DefaultPrefix) {
		t.Errorf("others are told %q", public)
	}
	c := read(t, waits).Callees[0]
	if !slices.Equal(c.DidYouMean, []string{"user-service"}) || !c.Known || c.Revision == 0 || !strings.Contains(c.Why, hint) || c.Key != "/newsvc/default/user-servise/" {
		t.Errorf("the page says %+v", c)
	}
	eventually(t, "one line in the log", func() bool {
		return logs.Filter(func(e observer.LoggedEntry) bool { return strings.Contains(e.Message, "similar names") }).Len() == 1
	})
}

func TestACalleeThatCameMeanwhileIsNotCalledMissing(t *testing.T) {
	t.Parallel()
	core, logs := observer.New(zapcore.InfoLevel)
	stack.Nearby(zap.New(core), "user-service", "user-service", "users-service")
	if logs.Len() != 0 {
		t.Errorf("logged %v", logs.All())
	}
	stack.Nearby(zap.New(core), "user-service", "users-service")
	if logs.Len() != 1 {
		t.Errorf("%d lines about a callee that is missing, want 1", logs.Len())
	}
}

func TestTheDiscoveryPageSaysWhoTakesCallsForWantOfOthers(t *testing.T) {
	t.Parallel()
	etcd := realEtcd(t)
	s := serveOn(t, etcd, nil)
	caller := callerOf(t, etcd, service, nil)
	if err := callTo(t, caller, service); err != nil {
		t.Fatal(err)
	}
	s.Readiness().Condition("database").Set(errors.New("it is away"))
	eventually(t, "the page says it", func() bool {
		i := read(t, caller).Callees[0].Instances
		return len(i) == 1 && i[0].Used && strings.Contains(i[0].Note, "takes calls because no other does")
	})
	if err := callTo(t, caller, service); err != nil {
		t.Error(err)
	}
}

func TestTheDiscoveryPageSaysWhyAnInstanceIsNotUsed(t *testing.T) {
	t.Parallel()
	etcd := realEtcd(t)
	s := serveOn(t, etcd, nil)
	caller := callerOf(t, etcd, service, nil)
	living, _, _ := s.Addresses()
	dead := reserved(t)
	bad := discovery.ServicePrefix(discovery.DefaultPrefix, service) + "bad"
	put(t, etcd, service, discovery.StateUp, dead)
	put(t, etcd, service, discovery.StateDraining, "10.255.255.1:1")
	putRaw(t, etcd, bad, "{")
	var p page
	eventually(t, "everything on the page", func() bool {
		p = read(t, caller)
		c := p.Callees[0]
		connected := 0
		for _, i := range c.Instances {
			if i.Used || i.Error != "" {
				connected++
			}
		}
		return len(c.Instances) == 3 && len(c.Watch.Unreadable) == 1 && connected == 2
	})
	if !slices.Equal(p.Etcd.Endpoints, etcd.Endpoints()) || p.Callees[0].Watch.Lists["first"] != 1 || p.Callees[0].Watch.Unreadable[0] != bad {
		t.Errorf("page = %+v", p)
	}
	for _, i := range p.Callees[0].Instances {
		switch i.Addr {
		case living:
			if !i.Used || i.Connection != "READY" || i.Note != "" {
				t.Errorf("living: %+v", i)
			}
		case dead:
			if i.Used || i.Connection != "TRANSIENT_FAILURE" || !strings.Contains(i.Error, "refused") || !strings.Contains(i.Note, "can't be reached") {
				t.Errorf("dead: %+v", i)
			}
		default:
			if i.Used || i.State != "draining" || !strings.Contains(i.Note, "draining") {
				t.Errorf("draining: %+v", i)
			}
		}
	}
	own := read(t, s).Registration
	if own.Key != discovery.Key(discovery.DefaultPrefix, service, living) || own.State != "up" || own.Lease == "" || own.Remaining <= 0 || own.Remaining > 15 {
		t.Errorf("registration = %+v", own)
	}
	for _, query := range []struct{ query, accept, kind string }{
		{"", "*/*", "application/json"}, {"", "text/html,application/xhtml+xml", "text/plain"}, {"?format=text", "*/*", "text/plain"},
		{"?format=json", "text/html", "application/json"},
	} {
		kind, body := look(t, caller, query.query, query.accept)
		if !strings.HasPrefix(kind, query.kind) || !strings.Contains(body, dead) || !strings.Contains(body, "draining") {
			t.Errorf("%+v: %s\n%s", query, kind, body)
		}
	}
}

func TestInstancesThatTheGuardHoldsAreVisible(t *testing.T) {
	t.Parallel()
	etcd := realEtcd(t)
	caller := callerOf(t, etcd, service, nil)
	addrs := []string{reserved(t), reserved(t), reserved(t)}
	put(t, etcd, service, discovery.StateUp, addrs...)
	eventually(t, "the instances", func() bool { return metrics(t, caller)["newsvc_discovery_instances user-service up"] == 3 })
	if _, err := etcd.Client().Delete(limit(t), discovery.DefaultPrefix, clientv3.WithPrefix()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the guard", func() bool { return metrics(t, caller)["newsvc_discovery_held_instances user-service"] == 3 })
	m := metrics(t, caller)
	if m["newsvc_discovery_guarding user-service"] != 1 || m["newsvc_discovery_instances user-service up"] != 0 {
		t.Errorf("metrics %v", m)
	}
	if n, told := m["newsvc_client_endpoints user-service READY"]; n != 0 || !told {
		t.Errorf("READY endpoints: %v, told: %v", n, told)
	}
	c := read(t, caller).Callees[0]
	if !c.Guarding || c.Held != 3 || len(c.Instances) != 3 || !strings.Contains(c.Instances[0].Note, "held by the guard until") {
		t.Errorf("the page says %+v", c)
	}
	eventually(t, "an error that counts them", func() bool {
		err := callTo(t, caller, service)
		return strings.Contains(err.Error(), "none of 3 instances") && strings.Contains(err.Error(), "3 failing, 3 held by the guard") &&
			strings.Contains(err.Error(), "refused") && len(err.Error()) < 500
	})
}

var documented = regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\|")

func TestMetricsAreThoseOfTheirPage(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "metrics.md"))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]bool{}
	for _, m := range documented.FindAllStringSubmatch(string(text), -1) {
		want[m[1]] = true
	}
	etcd := realEtcd(t)
	live, _, err := stack.OpenConfig(t.Context(), config.Sources{NoFile: true}, []string{service})
	if err != nil {
		t.Fatal(err)
	}
	s := serveHTTPOn(t, etcd, func(p *stack.Params) {
		p.Callees, p.Live = []string{service}, live
		p.Config.Admin.TLS = selfSigned(t, time.Now().Add(time.Hour))
		p.Config.Telemetry.Traces.Endpoint = reserved(t)
		p.Config.Telemetry.Metrics.Endpoint, p.Config.Telemetry.Metrics.Callers = reserved(t), true
		guarded(t, p)
		p.Config.Auth.Rules = []auth.Rule{{Methods: []string{"*"}, Anyone: true}}
	})
	if err := callTo(t, s, service); err != nil {
		t.Fatal(err)
	}
	locks, err := s.Coordination()
	if err != nil {
		t.Fatal(err)
	}
	held, err := locks.TryLock(limit(t), "import")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = held.Release() }()
	families, err := s.Telemetry().Gatherer().Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		name := f.GetName()
		if strings.HasPrefix(name, "go_") || strings.HasPrefix(name, "process_") {
			continue
		}
		if !want[name] {
			t.Errorf("%s is not in docs/metrics.md", name)
		}
		if f.GetHelp() == "" {
			t.Errorf("%s has no help", name)
		}
		delete(want, name)
	}
	for name := range want {
		t.Errorf("docs/metrics.md names %s, which is not exposed", name)
	}
	m := metrics(t, s)
	left := m["newsvc_registration_lease_remaining_seconds"]
	if m["newsvc_registration_registered"] != 1 || m["newsvc_registrations_total"] != 1 || left <= 0 || left > 15 ||
		m["newsvc_discovery_resyncs_total user-service first"] != 1 || m["newsvc_discovery_staleness_seconds user-service"] != 0 ||
		m["newsvc_client_endpoints user-service READY"] != 1 {
		t.Errorf("metrics %v", m)
	}
}
