package telemetry_test

import (
	"context"
	"encoding/hex"
	"encoding/pem"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	colmetricpb "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	metricpb "go.opentelemetry.io/proto/otlp/metrics/v1"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/newsvc/newsvc/framework/telemetry"
)

// metricsCollector is a receiver of metrics by OTLP, with the real request type.
type metricsCollector struct {
	colmetricpb.UnimplementedMetricsServiceServer
	mu     sync.Mutex
	last   *colmetricpb.ExportMetricsServiceRequest
	pushes int
	keys   []string
	reject int64
	down   bool
}

func (c *metricsCollector) take(req *colmetricpb.ExportMetricsServiceRequest, keys []string) (*colmetricpb.ExportMetricsServiceResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.down {
		return nil, status.Error(codes.PermissionDenied, "not you")
	}
	c.last, c.keys = req, keys
	c.pushes++
	resp := &colmetricpb.ExportMetricsServiceResponse{}
	if c.reject > 0 {
		resp.PartialSuccess = &colmetricpb.ExportMetricsPartialSuccess{RejectedDataPoints: c.reject, ErrorMessage: "too many"}
	}
	return resp, nil
}

func (c *metricsCollector) Export(ctx context.Context, req *colmetricpb.ExportMetricsServiceRequest) (*colmetricpb.ExportMetricsServiceResponse, error) {
	return c.take(req, metadata.ValueFromIncomingContext(ctx, "api-key"))
}

func (c *metricsCollector) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	var req colmetricpb.ExportMetricsServiceRequest
	if err == nil {
		err = proto.Unmarshal(body, &req)
	}
	if err != nil || r.URL.Path != "/v1/metrics" {
		http.Error(w, "no", http.StatusBadRequest)
		return
	}
	resp, err := c.take(&req, r.Header.Values("api-key"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusForbidden)
		return
	}
	answer, _ := proto.Marshal(resp)
	_, _ = w.Write(answer)
}

func (c *metricsCollector) serve(t *testing.T, protocol string) string {
	t.Helper()
	if protocol == telemetry.ProtocolHTTP {
		s := httptest.NewServer(c)
		t.Cleanup(s.Close)
		return s.Listener.Addr().String()
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gs := grpc.NewServer()
	colmetricpb.RegisterMetricsServiceServer(gs, c)
	served := make(chan error, 1)
	go func() { served <- gs.Serve(l) }()
	t.Cleanup(func() {
		gs.Stop()
		<-served
	})
	return l.Addr().String()
}

func (c *metricsCollector) set(change func(*metricsCollector)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change(c)
}

// metric returns a metric of the last push.
func (c *metricsCollector) metric(t *testing.T, name string) *metricpb.Metric {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, m := range c.last.GetResourceMetrics()[0].GetScopeMetrics()[0].GetMetrics() {
		if m.GetName() == name {
			return m
		}
	}
	t.Fatalf("the collector has no %s", name)
	return nil
}

func attrs(all []*commonpb.KeyValue) map[string]string {
	m := map[string]string{}
	for _, a := range all {
		m[a.GetKey()] = a.GetValue().GetStringValue()
	}
	return m
}

// pushing makes a telemetry that pushes to c; change may be nil.
func pushing(t *testing.T, c *metricsCollector, change func(*telemetry.MetricsConfig), opts ...telemetry.Option) (*telemetry.Telemetry, *observer.ObservedLogs) {
	t.Helper()
	cfg := telemetry.DefaultConfig()
	cfg.Traces.SampleRatio = 1
	cfg.Metrics.Insecure = true
	cfg.Metrics.Headers = map[string]string{"api-key": "k"}
	if change != nil {
		change(&cfg.Metrics)
	}
	if cfg.Metrics.Endpoint == "" {
		cfg.Metrics.Endpoint = c.serve(t, cfg.Metrics.Protocol)
	}
	core, logs := observer.New(zap.InfoLevel)
	tel, err := telemetry.New(t.Context(), cfg, telemetry.Params{Service: "echo", Version: "v1", Incarnation: "i1", Log: zap.New(core)}, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tel.Close(context.Background()) }) // a test that cares has closed it already
	return tel, logs
}

func TestMetricsArePushedAsPrometheusSeesThem(t *testing.T) {
	t.Parallel()
	for _, protocol := range []string{telemetry.ProtocolGRPC, telemetry.ProtocolHTTP} {
		t.Run(protocol, func(t *testing.T) {
			t.Parallel()
			c := &metricsCollector{}
			spans := tracetest.NewInMemoryExporter()
			tel, _ := pushing(t, c, func(m *telemetry.MetricsConfig) { m.Protocol = protocol }, telemetry.WithSpanProcessor(sdktrace.NewSimpleSpanProcessor(spans)))
			own := prometheus.NewSummary(prometheus.SummaryOpts{Name: "own_seconds", Help: "h", Objectives: map[float64]float64{0.5: 0.1}})
			tel.Registerer().MustRegister(own)
			own.Observe(3)
			client := testpb.NewTestServiceClient(connect(t, newTelemetry(t, nil), tel, service{}))
			for range 3 {
				if _, err := client.UnaryCall(t.Context(), ask(codes.OK)); err != nil {
					t.Fatal(err)
				}
			}
			sampled := spans.GetSpans()[0].SpanContext
			if err := tel.Close(t.Context()); err != nil {
				t.Fatal(err)
			}
			res := attrs(c.last.GetResourceMetrics()[0].GetResource().GetAttributes())
			if res["service.name"] != "echo" || res["service.version"] != "v1" || res["service.instance.id"] != "i1" || len(c.keys) != 1 || c.keys[0] != "k" {
				t.Errorf("resource %v, key %q", res, c.keys)
			}
			m := c.metric(t, clientDuration)
			p := m.GetHistogram().GetDataPoints()[0]
			labels := attrs(p.GetAttributes())
			if m.GetUnit() != "s" || p.GetCount() != 3 || labels["callee"] != "echo-service" || labels["caller"] != "echo" || labels["grpc_status"] != "OK" || labels["grpc_method"] != unaryMethod {
				t.Errorf("%s = %v", clientDuration, m)
			}
			sum := uint64(0)
			for _, n := range p.GetBucketCounts() {
				sum += n
			}
			if sum != 3 || len(p.GetBucketCounts()) != len(p.GetExplicitBounds())+1 || p.GetStartTimeUnixNano() == 0 || p.GetStartTimeUnixNano() > p.GetTimeUnixNano() {
				t.Errorf("buckets %v of bounds %v from %d to %d", p.GetBucketCounts(), p.GetExplicitBounds(), p.GetStartTimeUnixNano(), p.GetTimeUnixNano())
			}
			if e := p.GetExemplars(); len(e) == 0 || len(e[0].GetSpanId()) != 8 || len(hex.EncodeToString(e[0].GetTraceId())) != len(sampled.TraceID().String()) {
				t.Errorf("exemplars %v", e)
			}
			if s := c.metric(t, "process_cpu_seconds_total").GetSum(); !s.GetIsMonotonic() || s.GetDataPoints()[0].GetAsDouble() <= 0 {
				t.Errorf("process_cpu_seconds_total = %v", s)
			}
			if g := c.metric(t, "newsvc_build_info").GetGauge().GetDataPoints()[0]; g.GetAsDouble() != 1 || attrs(g.GetAttributes())["version"] != "v1" {
				t.Errorf("newsvc_build_info = %v", g)
			}
			if s := c.metric(t, "own_seconds").GetSummary().GetDataPoints()[0]; s.GetSum() != 3 || s.GetQuantileValues()[0].GetValue() != 3 {
				t.Errorf("own_seconds = %v", s)
			}
		})
	}
}

func TestMetricsArePushedAgainAndAgain(t *testing.T) {
	t.Parallel()
	c := &metricsCollector{down: true}
	tel, logs := pushing(t, c, func(m *telemetry.MetricsConfig) { m.Interval = time.Second })
	eventually(t, "a push that fails", func() bool { return logs.FilterMessageSnippet("metrics cannot be pushed").Len() == 1 })
	c.set(func(c *metricsCollector) { c.down = false })
	eventually(t, "two pushes", func() bool { c.mu.Lock(); defer c.mu.Unlock(); return c.pushes >= 2 })
	c.set(func(c *metricsCollector) { c.reject = 5 })
	eventually(t, "a push of which a part is rejected", func() bool { return logs.Len() == 3 })
	if err := tel.Close(t.Context()); err != nil {
		t.Errorf("Close = %v", err)
	}
	if why := logs.All()[2].ContextMap()["error"]; why != "the collector rejected 5 data points: too many" {
		t.Errorf("why = %v", why)
	}
	var got []string
	for _, e := range logs.All() {
		got = append(got, e.Level.String()+" "+e.Message[:20])
	}
	want := "warn metrics cannot be pu, info metrics are pushed a, warn the collector does n"
	if s := strings.Join(got, ", "); s != want {
		t.Errorf("log = %s, want %s", s, want)
	}
	outcomes := map[string]float64{}
	for _, m := range family(t, tel, "newsvc_metric_pushes_total") {
		outcomes[m.GetLabel()[0].GetValue()] = m.GetCounter().GetValue()
	}
	if outcomes["ok"] < 2 || outcomes["failed"] < 2 {
		t.Errorf("pushes %v", outcomes)
	}
}

func TestACollectorThatIsAwayHoldsUpNothing(t *testing.T) {
	t.Parallel()
	tel, logs := pushing(t, nil, func(m *telemetry.MetricsConfig) {
		m.Endpoint, m.ExportTimeout = "127.0.0.1:1", 50*time.Millisecond
	})
	began := time.Now()
	if err := tel.Close(t.Context()); err != nil {
		t.Errorf("Close = %v", err)
	}
	if took := time.Since(began); took > 2*time.Second { // without a bound it would be the 10 s of the default
		t.Errorf("Close took %s", took)
	}
	if logs.FilterMessageSnippet("metrics cannot be pushed").Len() != 1 {
		t.Errorf("log = %v", logs.All())
	}
}

func TestAPushGoesOverTLSUnlessToldOtherwise(t *testing.T) {
	t.Parallel()
	c := &metricsCollector{}
	tel, logs := pushing(t, c, func(m *telemetry.MetricsConfig) { m.Insecure, m.ExportTimeout = false, 200*time.Millisecond })
	if err := tel.Close(t.Context()); err != nil {
		t.Errorf("Close = %v", err)
	}
	if c.pushes != 0 || logs.FilterMessageSnippet("metrics cannot be pushed").Len() != 1 {
		t.Errorf("a collector without TLS was sent %d pushes; log = %v", c.pushes, logs.All())
	}
	cfg := telemetry.DefaultConfig()
	cfg.Metrics.Endpoint, cfg.Metrics.CA = "127.0.0.1:1", "missing.pem"
	_, err := telemetry.New(t.Context(), cfg, telemetry.Params{Service: "echo"})
	if err == nil || !strings.Contains(err.Error(), "metrics.ca: open missing.pem") {
		t.Errorf("error = %v", err)
	}
}

func TestACollectorIsTrustedByItsAuthority(t *testing.T) {
	t.Parallel()
	c := &metricsCollector{}
	s := httptest.NewTLSServer(c)
	t.Cleanup(s.Close)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	tel, _ := pushing(t, c, func(m *telemetry.MetricsConfig) {
		m.Protocol, m.Endpoint, m.Insecure, m.CA = telemetry.ProtocolHTTP, s.Listener.Addr().String(), false, ca
	})
	if err := tel.Close(t.Context()); err != nil || c.pushes != 1 {
		t.Errorf("Close = %v after %d pushes", err, c.pushes)
	}
}

func TestCallsAreCountedByCallerWhenAsked(t *testing.T) {
	t.Parallel()
	callers := func(c *telemetry.Config) { c.Metrics.Callers = true }
	server := newTelemetry(t, callers)
	call := func(agent string) {
		unary, _ := server.ServerInterceptors()
		ctx := metadata.NewIncomingContext(t.Context(), metadata.Pairs("user-agent", agent))
		_, _ = unary(ctx, nil, &grpc.UnaryServerInfo{FullMethod: "/" + unaryMethod}, func(context.Context, any) (any, error) { return nil, nil })
	}
	for _, agent := range []string{
		"order-service grpc-go/1.85.0", "order-service grpc-go/1.85.0", "grpc-go/1.85.0", "curl/8", "word", "Evil\n x", "-x y", "x- y", "a--b c", strings.Repeat("a", 51) + " x",
	} {
		call(agent)
	}
	for i := range 200 {
		call("s" + strings.Repeat("x", i%49) + "-" + string(rune('a'+i/49)) + " x")
	}
	got := map[string]float64{}
	for _, m := range family(t, server, "grpc_server_calls_by_caller_total") {
		for _, l := range m.GetLabel() {
			if l.GetName() == "caller" {
				got[l.GetValue()] = m.GetCounter().GetValue()
			}
		}
		if !hasLabels(m, map[string]string{"callee": "echo", "grpc_method": unaryMethod, "grpc_status": "OK"}) {
			t.Errorf("labels %v", m.GetLabel())
		}
	}
	if got["order-service"] != 2 || got["unknown"] < 8 || got["other"] == 0 || len(got) != 102 {
		t.Errorf("order-service %v, unknown %v, other %v, %d callers; want 2, 8 or more, some, 102", got["order-service"], got["unknown"], got["other"], len(got))
	}
	plain := newTelemetry(t, nil)
	unary, _ := plain.ServerInterceptors()
	_, _ = unary(t.Context(), nil, &grpc.UnaryServerInfo{FullMethod: "/" + unaryMethod}, func(context.Context, any) (any, error) { return nil, nil })
	if n := len(family(t, plain, "grpc_server_calls_by_caller_total")); n != 0 {
		t.Errorf("%d series although nobody asked", n)
	}
}
