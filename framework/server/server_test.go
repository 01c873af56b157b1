package server_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"github.com/newsvc/newsvc/framework/readiness"
	"github.com/newsvc/newsvc/framework/server"
	userv1 "github.com/newsvc/newsvc/proto/user/v1"
)

func healthOf(t *testing.T, cc *grpc.ClientConn, service string) healthpb.HealthCheckResponse_ServingStatus {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	r, err := healthpb.NewHealthClient(cc).Check(ctx, &healthpb.HealthCheckRequest{Service: service})
	if err != nil {
		t.Fatal(err)
	}
	return r.GetStatus()
}

func TestHealthIsSetByHandWithoutAGate(t *testing.T) {
	t.Parallel()
	s := start(t, params(), &echo{})
	cc := dial(t, s)
	for _, step := range []struct {
		serving bool
		want    healthpb.HealthCheckResponse_ServingStatus
	}{{false, healthpb.HealthCheckResponse_NOT_SERVING}, {true, healthpb.HealthCheckResponse_SERVING}, {false, healthpb.HealthCheckResponse_NOT_SERVING}} {
		s.SetServing(step.serving)
		for _, service := range []string{"", echoService} {
			if got := healthOf(t, cc, service); got != step.want {
				t.Errorf("SetServing(%v): health of %q = %s, want %s", step.serving, service, got, step.want)
			}
		}
	}
}

func TestD12HealthFollowsReadiness(t *testing.T) {
	t.Parallel()
	gate := readiness.New()
	t.Cleanup(gate.Close)
	condition := gate.Condition("callee")
	gate.Start(t.Context())
	p := params()
	p.Readiness = gate
	s := start(t, p, &echo{})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	watch, err := healthpb.NewHealthClient(dial(t, s)).Watch(ctx, &healthpb.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	expect := func(when string, want healthpb.HealthCheckResponse_ServingStatus) {
		t.Helper()
		if r, err := watch.Recv(); err != nil || r.GetStatus() != want {
			t.Errorf("%s: health = %v, %v, want %s", when, r, err, want)
		}
	}
	expect("at first", healthpb.HealthCheckResponse_NOT_SERVING)
	condition.Set(nil)
	expect("ready", healthpb.HealthCheckResponse_SERVING)
	condition.Set(errors.New("lost"))
	expect("readiness lost", healthpb.HealthCheckResponse_NOT_SERVING)
	condition.Set(nil)
	expect("ready again", healthpb.HealthCheckResponse_SERVING)
	s.SetServing(false)
	expect("forbidden by hand", healthpb.HealthCheckResponse_NOT_SERVING)
	s.SetServing(true)
	expect("allowed again", healthpb.HealthCheckResponse_SERVING)
	gate.Drain()
	expect("draining", healthpb.HealthCheckResponse_NOT_SERVING)
}

// TestLivenessIsNotReadiness holds what liveness probes rely on: nothing but the end of the process ends this answer.
func TestLivenessIsNotReadiness(t *testing.T) {
	t.Parallel()
	gate := readiness.New()
	t.Cleanup(gate.Close)
	condition := gate.Condition("callee")
	gate.Start(t.Context())
	p := params()
	p.Readiness = gate
	s := start(t, p, &echo{})
	cc := dial(t, s)
	for _, step := range []struct {
		when string
		do   func()
	}{
		{"at first", func() {}},
		{"ready", func() { condition.Set(nil) }},
		{"readiness lost", func() { condition.Set(errors.New("lost")) }},
		{"forbidden by hand", func() { s.SetServing(false) }},
		{"draining", gate.Drain},
		{"streams told to end", s.BeginDrain},
	} {
		step.do()
		if got := healthOf(t, cc, server.Liveness); got != healthpb.HealthCheckResponse_SERVING {
			t.Errorf("%s: health of %q = %s, want SERVING", step.when, server.Liveness, got)
		}
	}
	if got := healthOf(t, cc, ""); got != healthpb.HealthCheckResponse_NOT_SERVING {
		t.Errorf("health of %q = %s, want NOT_SERVING", "", got)
	}
}

// TestReadinessIsNotWhatCallersAskFor holds what readiness probes rely on: it needs all that "" needs, and one word more.
func TestReadinessIsNotWhatCallersAskFor(t *testing.T) {
	t.Parallel()
	s := start(t, params(), &echo{})
	cc := dial(t, s)
	const up, down = healthpb.HealthCheckResponse_SERVING, healthpb.HealthCheckResponse_NOT_SERVING
	for _, step := range []struct {
		when            string
		do              func()
		callers, probes healthpb.HealthCheckResponse_ServingStatus
	}{
		{"at first", func() {}, down, down},
		{"serving", func() { s.SetServing(true) }, up, up},
		{"readiness withheld", func() { s.SetReadiness(false) }, up, down},
		{"not serving, readiness withheld", func() { s.SetServing(false) }, down, down},
		{"not serving", func() { s.SetReadiness(true) }, down, down},
		{"serving again", func() { s.SetServing(true) }, up, up},
	} {
		step.do()
		for service, want := range map[string]healthpb.HealthCheckResponse_ServingStatus{"": step.callers, echoService: step.callers, server.Readiness: step.probes} {
			if got := healthOf(t, cc, service); got != want {
				t.Errorf("%s: health of %q = %s, want %s", step.when, service, got, want)
			}
		}
	}
}

func TestHealthGoesDownWithTheStop(t *testing.T) {
	t.Parallel()
	s := start(t, params(), &echo{})
	s.SetServing(true)
	watch, err := healthpb.NewHealthClient(dial(t, s)).Watch(t.Context(), &healthpb.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if r, err := watch.Recv(); err != nil || r.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		t.Fatalf("health = %v, %v, want SERVING", r, err)
	}
	if err := stop(t, s, time.Minute, time.Minute); err != nil {
		t.Fatal(err)
	}
	s.SetServing(true)
	for {
		r, err := watch.Recv()
		if err != nil {
			return // NOT_SERVING may have been overtaken by the end of the stream, which says as much
		}
		if r.GetStatus() == healthpb.HealthCheckResponse_SERVING {
			t.Error("SERVING after the stop")
		}
	}
}

func TestRegistrationMistakesAreReportedByStart(t *testing.T) {
	t.Parallel()
	s := build(t, params())
	s.RegisterService((&echo{}).desc(), nil)
	s.RegisterService((&echo{}).desc(), nil)
	s.RegisterService(&userv1.UserService_ServiceDesc, &echo{})
	s.RegisterService(&healthpb.Health_ServiceDesc, nil)
	if err := s.Listen(t.Context()); err != nil {
		t.Fatal(err)
	}
	err := s.Start()
	for _, want := range []string{
		`registering service "test.Echo": it is registered already`,
		`registering service "user.v1.UserService": *server_test.echo does not implement userv1.UserServiceServer`,
		`registering service "grpc.health.v1.Health"`,
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Start = %v, want it to contain %q", err, want)
		}
	}
}

func TestRegistrationAfterStartIsLoggedAndRefused(t *testing.T) {
	t.Parallel()
	core, logs := observer.New(zap.InfoLevel)
	p := params()
	p.Log = zap.New(core)
	s := start(t, p, &echo{})
	userv1.RegisterUserServiceServer(s, users{})
	if logs.FilterMessage("a service was not registered").Len() != 1 {
		t.Errorf("log = %v, want one line", logs.All())
	}
	_, err := userv1.NewUserServiceClient(dial(t, s)).GetUser(t.Context(), &userv1.GetUserRequest{Id: "x"})
	if status.Code(err) != codes.Unimplemented {
		t.Errorf("the late service answers %v, want UNIMPLEMENTED", err)
	}
}

func TestStartNeedsListen(t *testing.T) {
	t.Parallel()
	s := build(t, params())
	if err := s.Start(); err == nil || !strings.Contains(err.Error(), "call Listen first") {
		t.Errorf("Start = %v", err)
	}
	if s.Addr() != "" {
		t.Errorf("Addr = %q before Listen", s.Addr())
	}
}

func TestBusyPortIsAnErrorOfListen(t *testing.T) {
	t.Parallel()
	first := start(t, params(), &echo{})
	p := params()
	p.Config.Listen = first.Addr()
	if err := build(t, p).Listen(t.Context()); err == nil || !strings.Contains(err.Error(), "server.listen") {
		t.Errorf("Listen = %v, want an error that names the key", err)
	}
}

func TestReflectionIsServedOnlyWhenConfigured(t *testing.T) {
	t.Parallel()
	for _, on := range []bool{false, true} {
		p := params()
		p.Config.Reflection = on
		s := start(t, p, &echo{})
		stream, err := reflectionpb.NewServerReflectionClient(dial(t, s)).ServerReflectionInfo(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		ask := &reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{}}
		_ = stream.Send(ask) // its error is that of Recv
		r, err := stream.Recv()
		if !on {
			if status.Code(err) != codes.Unimplemented {
				t.Errorf("off: %v, %v, want UNIMPLEMENTED", r, err)
			}
			continue
		}
		if err != nil || len(r.GetListServicesResponse().GetService()) < 2 {
			t.Errorf("on: %v, %v, want a list of services", r, err)
		}
	}
}

func TestServesAGivenListener(t *testing.T) {
	t.Parallel()
	lis := bufconn.Listen(1 << 16)
	p := params()
	p.Options = []server.Option{server.Listener(lis)}
	s := start(t, p, &echo{})
	cc := dial(t, s, grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return lis.DialContext(ctx) }))
	if got, err := invoke(t, cc, "x"); err != nil || got != "x" {
		t.Errorf("answer = %q, %v", got, err)
	}
	if s.LastCall().IsZero() {
		t.Error("LastCall is zero after a call")
	}
}

func TestLossOfTheListenerIsReported(t *testing.T) {
	t.Parallel()
	lis := bufconn.Listen(1 << 16)
	p := params()
	p.Options = []server.Option{server.Listener(lis)}
	s := start(t, p, &echo{})
	if err := lis.Close(); err != nil {
		t.Fatal(err)
	}
	receive(t, "Done", s.Done())
	if err := s.Err(); err == nil || !strings.Contains(err.Error(), "serving gRPC on") {
		t.Errorf("Err = %v", err)
	}
	if err := stop(t, s, 0, time.Minute); err != nil {
		t.Errorf("Stop = %v", err)
	}
}
