package stack_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/newsvc/newsvc/framework/devetcd"
	"github.com/newsvc/newsvc/framework/discovery"
	"github.com/newsvc/newsvc/framework/readiness"
	"github.com/newsvc/newsvc/framework/server"
	"github.com/newsvc/newsvc/framework/stack"
)

// probe asks the admin server as Kubernetes does.
func probe(t *testing.T, s *stack.Stack, path string) (code int, body string) {
	t.Helper()
	_, _, admin := s.Addresses()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+admin+path, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
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
	return res.StatusCode, string(all)
}

// readyz is the answer of /readyz, and what it says of the registration; false when it says nothing.
func readyz(t *testing.T, s *stack.Stack) (code int, registered readiness.Status, said bool) {
	t.Helper()
	code, body := probe(t, s, "/readyz")
	var r readiness.Report
	if err := json.Unmarshal([]byte(body), &r); err != nil {
		t.Fatalf("%v: %s", err, body)
	}
	if r.Ready != (code == http.StatusOK) {
		t.Errorf("status %d, and the body says %s", code, body)
	}
	i := slices.IndexFunc(r.Checks, func(c readiness.Status) bool { return c.Name == "registered" })
	if i < 0 {
		return code, readiness.Status{}, false
	}
	return code, r.Checks[i], true
}

func grpcHealth(t *testing.T, s *stack.Stack, of string) healthpb.HealthCheckResponse_ServingStatus {
	t.Helper()
	res, err := healthpb.NewHealthClient(dial(t, s)).Check(limit(t), &healthpb.HealthCheckRequest{Service: of})
	if err != nil {
		t.Fatal(err)
	}
	return res.GetStatus()
}

// grpcSaysTheSame waits until gRPC's health answers a readiness probe as /readyz does.
func grpcSaysTheSame(t *testing.T, s *stack.Stack) {
	t.Helper()
	eventually(t, "gRPC's health says what /readyz says", func() bool {
		code, _, _ := readyz(t, s)
		return (code == http.StatusOK) == (grpcHealth(t, s, server.Readiness) == healthpb.HealthCheckResponse_SERVING)
	})
}

// started is a service that was started and is ready, whether or not it could register.
func started(t *testing.T, p stack.Params) *stack.Stack {
	t.Helper()
	s := build(t, p)
	if err := errors.Join(s.Connect(t.Context()), s.Start(t.Context()), s.Readiness().Wait(limit(t))); err != nil {
		t.Fatal(err)
	}
	return s
}

// A rollout replaces instances as their successors turn ready. While etcd is away callers can't hear of a successor.
func TestReadyzWaitsForTheFirstRegistrationAndForNoLaterOne(t *testing.T) {
	t.Parallel()
	cfg := devetcd.Config{Fast: true, Dir: t.TempDir(), ClientAddr: reserved(t)}
	p, _, _ := params(t)
	p.Replace = stack.Replace{}
	p.Config.Etcd.Endpoints, p.Config.Etcd.CallTimeout = []string{cfg.ClientAddr}, 200*time.Millisecond
	p.Config.Registration.TTL = 5 * time.Second
	s := started(t, p)

	eventually(t, "the reason of the failure", func() bool {
		_, st, _ := readyz(t, s)
		return strings.Contains(st.Error, "does not answer")
	})
	code, st, _ := readyz(t, s)
	if code != http.StatusServiceUnavailable || st.OK || strings.Contains(st.Error, "\n") {
		t.Errorf("without etcd /readyz answers %d: %+v", code, st)
	}
	grpcSaysTheSame(t, s)
	addr, _, _ := s.Addresses()
	for _, part := range []string{addr, "not been announced", cfg.ClientAddr, discovery.DefaultPrefix, "for "} {
		if !strings.Contains(st.Error, part) {
			t.Errorf("%q does not say %q", st.Error, part)
		}
	}
	if code, body := probe(t, s, "/healthz"); code != http.StatusOK {
		t.Errorf("/healthz answers %d: %s", code, body)
	}
	if h := grpcHealth(t, s, ""); h != healthpb.HealthCheckResponse_SERVING {
		t.Errorf("gRPC health is %v", h)
	}

	etcd, err := devetcd.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer etcd.Close()
	if err := s.WaitRegistered(limit(t)); err != nil {
		t.Fatal(err)
	}
	code, st, _ = readyz(t, s)
	if code != http.StatusOK || !st.OK || st.Error != "" || st.Since.IsZero() {
		t.Errorf("registered, and /readyz answers %d: %+v", code, st)
	}
	grpcSaysTheSame(t, s)
	since := st.Since

	if err := etcd.Close(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the loss of etcd", func() bool {
		r, _ := s.Registration()
		return r.State != discovery.RegistrationUp
	})
	if code, st, _ := readyz(t, s); code != http.StatusOK || !st.OK || !st.Since.Equal(since) {
		t.Errorf("callers know it, and /readyz answers %d: %+v, registered since %v", code, st, since)
	}
	grpcSaysTheSame(t, s)
}

// Leaving the registry for want of readiness and returning to it is no first registration.
func TestReadyzDoesNotWaitForAReturnToTheRegistry(t *testing.T) {
	t.Parallel()
	p, reg, _ := params(t)
	p.Config.Registration.LeaveAfter = 10 * time.Millisecond
	s := build(t, p)
	db := s.Readiness().Condition("db")
	db.Set(nil)
	up(t, s)
	db.Set(errors.New("away"))
	eventually(t, "the leave", func() bool { return len(reg.Instances(service)) == 0 })
	if code, st, _ := readyz(t, s); code != http.StatusServiceUnavailable || !st.OK {
		t.Errorf("not ready, and /readyz answers %d: %+v", code, st)
	}
	grpcSaysTheSame(t, s)
	reg.SetErr(errors.New("registry is away"))
	db.Set(nil)
	if err := s.Readiness().Wait(limit(t)); err != nil {
		t.Fatal(err)
	}
	if code, st, _ := readyz(t, s); code != http.StatusOK || !st.OK {
		t.Errorf("ready again, and /readyz answers %d: %+v", code, st)
	}
	grpcSaysTheSame(t, s)
}

func TestReadyzSaysWhatTheRegistrationWaitsFor(t *testing.T) {
	t.Parallel()
	p, reg, _ := params(t)
	r := &refusing{Registrar: reg}
	r.refuse.Store(1 << 20)
	p.Replace.Registrar = r
	s := build(t, p)
	db := s.Readiness().Condition("db")
	if err := errors.Join(s.Connect(t.Context()), s.Start(t.Context())); err != nil {
		t.Fatal(err)
	}
	if _, st, _ := readyz(t, s); st.OK || !strings.Contains(st.Error, "once all other checks") {
		t.Errorf("not ready: %+v", st)
	}
	db.Set(nil)
	eventually(t, "what the registrar says", func() bool {
		code, st, _ := readyz(t, s)
		return code == http.StatusServiceUnavailable && strings.Contains(st.Error, "not now")
	})
}

func TestReadyzOfAProcessThatDrainsIsNotReady(t *testing.T) {
	t.Parallel()
	p, _, _ := params(t)
	s := build(t, p)
	up(t, s)
	if err := s.Drain(context.WithoutCancel(t.Context())); err != nil {
		t.Fatal(err)
	}
	if code, st, _ := readyz(t, s); code != http.StatusServiceUnavailable || !st.OK {
		t.Errorf("/readyz answers %d: %+v", code, st)
	}
}

// Whom nobody looks up in the registry is not to wait for it.
func TestReadyzOfAProcessThatRegistersNothingDoesNotWait(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*stack.Params){
		"no server":               func(p *stack.Params) { p.Serves = false },
		"registration is off":     func(p *stack.Params) { p.Config.Registration.Enabled = false },
		"the key says not to":     func(p *stack.Params) { p.Config.Registration.GatesReadyz = false },
		"off, but the key is set": func(p *stack.Params) { p.Config.Registration = stack.RegistrationConfig{GatesReadyz: true} },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, reg, _ := params(t)
			reg.SetErr(errors.New("registry is away"))
			change(&p)
			s := started(t, p)
			if code, st, said := readyz(t, s); code != http.StatusOK || said {
				t.Errorf("/readyz answers %d, with a check of the registration: %v %+v", code, said, st)
			}
			if s.Server() != nil {
				grpcSaysTheSame(t, s)
			}
		})
	}
}
