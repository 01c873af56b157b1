package telemetry_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"

	"github.com/newsvc/newsvc/framework/telemetry"
)

const (
	serverDuration = "grpc_server_call_duration_seconds"
	clientDuration = "grpc_client_call_duration_seconds"
	unaryMethod    = "grpc.testing.TestService/UnaryCall"
	duplexMethod   = "grpc.testing.TestService/FullDuplexCall"
)

func ask(code codes.Code) *testpb.SimpleRequest {
	if code == codes.OK {
		return &testpb.SimpleRequest{}
	}
	return &testpb.SimpleRequest{ResponseStatus: &testpb.EchoStatus{Code: int32(code), Message: "asked for"}}
}

func TestCallsAreCountedByMethodAndCode(t *testing.T) {
	t.Parallel()
	server, client := newTelemetry(t, nil), newTelemetry(t, nil)
	c := testpb.NewTestServiceClient(connect(t, server, client, service{}))
	for _, code := range []codes.Code{codes.OK, codes.OK, codes.NotFound, codes.Code(99)} {
		_, _ = c.UnaryCall(t.Context(), ask(code))
	}
	for name, want := range map[string]uint64{"OK": 2, "NOT_FOUND": 1, "UNKNOWN": 1} {
		labels := map[string]string{"grpc_method": unaryMethod, "grpc_status": name}
		eventually(t, fmt.Sprintf("the server counts %d of %s", want, name), func() bool {
			return count(t, server, serverDuration, labels) == want
		})
		labels["callee"] = "echo-service"
		if got := count(t, client, clientDuration, labels); got != want {
			t.Errorf("client counted %d calls with %s, want %d", got, name, want)
		}
	}
	for tel, name := range map[*telemetry.Telemetry]string{server: "grpc_server_calls_in_flight", client: "grpc_client_calls_in_flight"} {
		eventually(t, "no call is in flight", func() bool { return gauge(t, tel, name) == 0 })
	}
}

func TestErrorsWithoutStatusAreCountedAsGRPCSendsThem(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		answer error
		name   string
		sent   codes.Code
	}{
		{fmt.Errorf("query: %w", context.DeadlineExceeded), "DEADLINE_EXCEEDED", codes.DeadlineExceeded},
		{context.DeadlineExceeded, "DEADLINE_EXCEEDED", codes.DeadlineExceeded},
		{context.Canceled, "CANCELLED", codes.Canceled},
		{errors.New("plain"), "UNKNOWN", codes.Unknown},
		{fmt.Errorf("wrapped: %w", status.Error(codes.Aborted, "no")), "ABORTED", codes.Aborted},
	} {
		server, client := newTelemetry(t, nil), newTelemetry(t, nil)
		c := testpb.NewTestServiceClient(connect(t, server, client, service{onCall: func(context.Context) error { return tc.answer }}))
		if _, err := c.UnaryCall(t.Context(), ask(codes.OK)); status.Code(err) != tc.sent {
			t.Errorf("%v was sent as %v, want %v", tc.answer, status.Code(err), tc.sent)
		}
		eventually(t, tc.name+" is counted", func() bool {
			return count(t, server, serverDuration, map[string]string{"grpc_status": tc.name}) == 1
		})
	}
}

func TestPanicIsCountedAndGoesOn(t *testing.T) {
	t.Parallel()
	server := newTelemetry(t, nil)
	unary, _ := server.ServerInterceptors()
	got := func() (p any) {
		defer func() { p = recover() }()
		_, _ = unary(t.Context(), nil, &grpc.UnaryServerInfo{FullMethod: "/" + unaryMethod}, func(context.Context, any) (any, error) { panic("boom") })
		return nil
	}()
	if got != "boom" {
		t.Errorf("recovered %v, want the panic of the handler", got)
	}
	if n := count(t, server, serverDuration, map[string]string{"grpc_status": "INTERNAL"}); n != 1 {
		t.Errorf("counted %d, want 1", n)
	}
	if n := gauge(t, server, "grpc_server_calls_in_flight"); n != 0 {
		t.Errorf("%v calls in flight after the panic", n)
	}
}

func TestStreamsAreInFlightUntilTheirEnd(t *testing.T) {
	t.Parallel()
	server, client := newTelemetry(t, nil), newTelemetry(t, nil)
	c := testpb.NewTestServiceClient(connect(t, server, client, service{}))
	stream, err := c.FullDuplexCall(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&testpb.StreamingOutputCallRequest{}); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	if s, c := gauge(t, server, "grpc_server_calls_in_flight"), gauge(t, client, "grpc_client_calls_in_flight"); s != 1 || c != 1 {
		t.Errorf("in flight: server %v, client %v, want 1 and 1", s, c)
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != io.EOF {
		t.Fatal(err)
	}
	ok := map[string]string{"grpc_method": duplexMethod, "grpc_status": "OK"}
	if n := count(t, client, clientDuration, ok); n != 1 {
		t.Errorf("client counted %d, want 1", n)
	}
	eventually(t, "the server counts the stream", func() bool { return count(t, server, serverDuration, ok) == 1 })
}

func TestAbandonedStreamEndsWithItsContext(t *testing.T) {
	t.Parallel()
	server, client := newTelemetry(t, nil), newTelemetry(t, nil)
	c := testpb.NewTestServiceClient(connect(t, server, client, service{}))
	ctx, cancel := context.WithCancel(t.Context())
	if _, err := c.FullDuplexCall(ctx); err != nil {
		t.Fatal(err)
	}
	cancel()
	cancelled := map[string]string{"grpc_method": duplexMethod, "grpc_status": "CANCELLED"}
	eventually(t, "the client counts the stream", func() bool { return count(t, client, clientDuration, cancelled) == 1 })
	eventually(t, "nothing is in flight", func() bool { return gauge(t, client, "grpc_client_calls_in_flight") == 0 })
}

func TestClientStreamEndsWithItsOneReply(t *testing.T) {
	t.Parallel()
	server, client := newTelemetry(t, nil), newTelemetry(t, nil)
	c := testpb.NewTestServiceClient(connect(t, server, client, service{}))
	stream, err := c.StreamingInputCall(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.CloseAndRecv(); err != nil {
		t.Fatal(err)
	}
	if n := count(t, client, clientDuration, map[string]string{"grpc_status": "OK"}); n != 1 {
		t.Errorf("client counted %d, want 1", n)
	}
}

func TestRandomMethodNamesDoNotGrowTheSeries(t *testing.T) {
	t.Parallel()
	server, client := newTelemetry(t, nil), newTelemetry(t, nil)
	unknown := grpc.UnknownServiceHandler(func(any, grpc.ServerStream) error { return status.Error(codes.NotFound, "no") })
	cc := connect(t, server, client, service{}, unknown)
	for i := range 300 {
		_ = cc.Invoke(t.Context(), fmt.Sprintf("/evil.Service%d/Method", i), ask(codes.OK), &testpb.SimpleResponse{})
	}
	eventually(t, "the server counts all under one name", func() bool {
		return count(t, server, serverDuration, map[string]string{"grpc_method": "other", "grpc_status": "NOT_FOUND"}) == 300
	})
	if n := len(family(t, server, serverDuration)); n != 1 {
		t.Errorf("server has %d series, want 1", n)
	}
	if n := len(family(t, client, clientDuration)); n != 1 {
		t.Errorf("client has %d series, want 1", n)
	}
}

func TestMethodsWithoutProtoFileAreKnownByTheirRegistration(t *testing.T) {
	t.Parallel()
	server := newTelemetry(t, nil)
	unary, _ := server.ServerInterceptors()
	info := &grpc.UnaryServerInfo{FullMethod: "/hand.Written/Call", Server: struct{}{}}
	if _, err := unary(t.Context(), nil, info, func(context.Context, any) (any, error) { return nil, nil }); err != nil {
		t.Fatal(err)
	}
	if n := count(t, server, serverDuration, map[string]string{"grpc_method": "hand.Written/Call"}); n != 1 {
		t.Errorf("counted %d, want 1", n)
	}
}

func TestHealthChecksAreCounted(t *testing.T) {
	t.Parallel()
	server, client := newTelemetry(t, nil), newTelemetry(t, nil)
	cc := connect(t, server, client, service{})
	if _, err := healthpb.NewHealthClient(cc).Check(t.Context(), &healthpb.HealthCheckRequest{}); err != nil {
		t.Fatal(err)
	}
	if n := count(t, client, clientDuration, map[string]string{"grpc_method": "grpc.health.v1.Health/Check"}); n != 1 {
		t.Errorf("counted %d, want 1", n)
	}
}

func TestHandlerServesCallsRuntimeAndBuild(t *testing.T) {
	t.Parallel()
	server, client := newTelemetry(t, nil), newTelemetry(t, nil)
	c := testpb.NewTestServiceClient(connect(t, server, client, service{}))
	if _, err := c.UnaryCall(t.Context(), ask(codes.OK)); err != nil {
		t.Fatal(err)
	}
	rec := httptest.NewRecorder()
	client.MetricsHandler().ServeHTTP(rec, httptest.NewRequest("GET", "/metrics", nil))
	for _, want := range []string{
		`grpc_client_call_duration_seconds_bucket{callee="echo-service",caller="echo",grpc_method="` + unaryMethod + `",grpc_status="OK",le="0.001"}`,
		`newsvc_build_info{go_version="go`, `incarnation="i1",service="echo",version="v1"} 1`, "go_goroutines ", "go_sched_latencies_seconds_bucket{", "process_cpu_seconds_total ",
	} {
		if !strings.Contains(rec.Body.String(), want) {
			t.Errorf("metrics lack %q", want)
		}
	}
}

func TestDisabledMetricsAreNeitherCountedNorServed(t *testing.T) {
	t.Parallel()
	off := func(c *telemetry.Config) { c.Metrics.Enabled = false }
	server, client := newTelemetry(t, off), newTelemetry(t, off)
	c := testpb.NewTestServiceClient(connect(t, server, client, service{}))
	if _, err := c.UnaryCall(t.Context(), ask(codes.OK)); err != nil {
		t.Fatal(err)
	}
	if h := client.MetricsHandler(); h != nil {
		t.Error("there is a handler")
	}
	if n := len(family(t, client, clientDuration)) + len(family(t, server, serverDuration)); n != 0 {
		t.Errorf("%d series", n)
	}
}

func TestNativeHistograms(t *testing.T) {
	t.Parallel()
	native := func(c *telemetry.Config) { c.Metrics.NativeHistograms = true }
	server, client := newTelemetry(t, native), newTelemetry(t, native)
	c := testpb.NewTestServiceClient(connect(t, server, client, service{}))
	if _, err := c.UnaryCall(t.Context(), ask(codes.OK)); err != nil {
		t.Fatal(err)
	}
	h := family(t, client, clientDuration)[0].GetHistogram()
	if h.GetSchema() == 0 || len(h.GetPositiveSpan()) == 0 || len(h.GetBucket()) == 0 {
		t.Errorf("want native and classic buckets, got %v", h)
	}
}

func TestTwoCalleesHaveSeriesOfTheirOwn(t *testing.T) {
	t.Parallel()
	tel := newTelemetry(t, nil)
	for _, callee := range []string{"a", "b", "b"} {
		unary, _ := tel.ClientInterceptors(callee)
		err := unary(t.Context(), "/"+unaryMethod, nil, nil, nil, func(context.Context, string, any, any, *grpc.ClientConn, ...grpc.CallOption) error { return nil })
		if err != nil {
			t.Fatal(err)
		}
	}
	if a, b := count(t, tel, clientDuration, map[string]string{"callee": "a"}), count(t, tel, clientDuration, map[string]string{"callee": "b"}); a != 1 || b != 2 {
		t.Errorf("counted %d and %d, want 1 and 2", a, b)
	}
}

func TestConfigMistakesNameTheKeyAndTheWayOut(t *testing.T) {
	t.Parallel()
	for want, change := range map[string]func(*telemetry.Config){
		`traces.endpoint: "http://c:4317" is a URL; write only host:port`:         func(c *telemetry.Config) { c.Traces.Endpoint = "http://c:4317" },
		`traces.endpoint: "collector" is no host:port`:                            func(c *telemetry.Config) { c.Traces.Endpoint = "collector" },
		`traces.protocol: "udp" is unknown; write "grpc" or "http"`:               func(c *telemetry.Config) { c.Traces.Protocol = "udp" },
		`traces.sample_ratio: "1.5" is no share`:                                  func(c *telemetry.Config) { c.Traces.SampleRatio = 1.5 },
		`traces.export_timeout: "0s" is not greater than zero`:                    func(c *telemetry.Config) { c.Traces.ExportTimeout = 0 },
		`metrics.endpoint: "http://c:4317" is a URL; write only host:port`:        func(c *telemetry.Config) { c.Metrics.Endpoint = "http://c:4317" },
		`metrics.endpoint: "c:4317" is never used since metrics.enabled is false`: func(c *telemetry.Config) { c.Metrics.Endpoint, c.Metrics.Enabled = "c:4317", false },
		`metrics.protocol: "udp" is unknown; write "grpc" or "http"`:              func(c *telemetry.Config) { c.Metrics.Protocol = "udp" },
		`metrics.interval: "1ms" is less than a second`:                           func(c *telemetry.Config) { c.Metrics.Interval = time.Millisecond },
		`metrics.export_timeout: "0s" is not greater than zero`:                   func(c *telemetry.Config) { c.Metrics.ExportTimeout = 0 },
		`traces.ca: "ca.pem" is never used`: func(c *telemetry.Config) {
			c.Traces.CA, c.Traces.Insecure = "ca.pem", true
		},
	} {
		cfg := telemetry.DefaultConfig()
		change(&cfg)
		_, err := telemetry.New(t.Context(), cfg, telemetry.Params{Service: "echo"})
		if err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("error = %v, want %q", err, want)
		}
	}
}
