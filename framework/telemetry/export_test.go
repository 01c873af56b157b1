package telemetry_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	coltracepb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"github.com/newsvc/newsvc/framework/telemetry"
)

// collector is a receiver of OTLP.
type collector struct {
	coltracepb.UnimplementedTraceServiceServer
	mu    sync.Mutex
	names []string
	auth  []string
	hang  bool
}

func (c *collector) take(req *coltracepb.ExportTraceServiceRequest, auth []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.auth = auth
	for _, r := range req.GetResourceSpans() {
		for _, s := range r.GetScopeSpans() {
			for _, span := range s.GetSpans() {
				c.names = append(c.names, span.GetName())
			}
		}
	}
}

func (c *collector) Export(ctx context.Context, req *coltracepb.ExportTraceServiceRequest) (*coltracepb.ExportTraceServiceResponse, error) {
	if c.hang {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	c.take(req, metadata.ValueFromIncomingContext(ctx, "api-key"))
	return &coltracepb.ExportTraceServiceResponse{}, nil
}

// ServeHTTP takes spans over HTTP.
func (c *collector) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	var req coltracepb.ExportTraceServiceRequest
	if err == nil {
		err = proto.Unmarshal(body, &req)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	c.take(&req, r.Header.Values("api-key"))
	w.Header().Set("Content-Type", "application/x-protobuf")
}

// check fails unless exactly one span of our method came, with the configured header.
func (c *collector) check(t *testing.T) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.names) != 1 || c.names[0] != "a.B/C" {
		t.Errorf("the collector has the spans %q, want one a.B/C", c.names)
	}
	if len(c.auth) != 1 || c.auth[0] != "k" {
		t.Errorf("the collector was sent the key %q", c.auth)
	}
}

func (c *collector) serveGRPC(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gs := grpc.NewServer()
	coltracepb.RegisterTraceServiceServer(gs, c)
	served := make(chan error, 1)
	go func() { served <- gs.Serve(l) }()
	t.Cleanup(func() {
		gs.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return l.Addr().String()
}

func exporting(t *testing.T, endpoint, protocol string, log *zap.Logger) *telemetry.Telemetry {
	t.Helper()
	cfg := telemetry.DefaultConfig()
	cfg.Traces.Endpoint, cfg.Traces.Protocol, cfg.Traces.Insecure = endpoint, protocol, true
	cfg.Traces.SampleRatio = 1
	cfg.Traces.Headers = map[string]string{"api-key": "k"}
	tel, err := telemetry.New(t.Context(), cfg, telemetry.Params{Service: "echo", Log: log})
	if err != nil {
		t.Fatal(err)
	}
	return tel
}

func callOnce(t *testing.T, tel *telemetry.Telemetry) {
	t.Helper()
	unary, _ := tel.ServerInterceptors()
	info := &grpc.UnaryServerInfo{FullMethod: "/a.B/C", Server: struct{}{}}
	if _, err := unary(t.Context(), nil, info, func(context.Context, any) (any, error) { return nil, nil }); err != nil {
		t.Fatal(err)
	}
}

func closeWithin(t *testing.T, tel *telemetry.Telemetry, d time.Duration) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	return tel.Close(ctx)
}

func counter(t *testing.T, tel *telemetry.Telemetry, name string) float64 {
	t.Helper()
	for _, m := range family(t, tel, name) {
		return m.GetCounter().GetValue()
	}
	t.Fatalf("there is no %s", name)
	return 0
}

func TestCloseExportsWhatIsWaiting(t *testing.T) {
	t.Parallel()
	overGRPC, overHTTP := &collector{}, &collector{}
	web := httptest.NewServer(overHTTP)
	defer web.Close()
	for protocol, c := range map[string]struct {
		*collector
		endpoint string
	}{
		telemetry.ProtocolGRPC: {overGRPC, overGRPC.serveGRPC(t)},
		telemetry.ProtocolHTTP: {overHTTP, strings.TrimPrefix(web.URL, "http://")},
	} {
		tel := exporting(t, c.endpoint, protocol, nil)
		callOnce(t, tel)
		if err := closeWithin(t, tel, 5*time.Second); err != nil {
			t.Errorf("%s: %v", protocol, err)
		}
		c.check(t)
		if n := counter(t, tel, "newsvc_trace_spans_exported_total"); n != 1 {
			t.Errorf("%s: counted %v exported spans, want 1", protocol, n)
		}
		if err := closeWithin(t, tel, time.Second); err != nil {
			t.Errorf("%s: second Close: %v", protocol, err)
		}
	}
}

func TestDeadCollectorDelaysNeitherCallsNorClose(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone := l.Addr().String()
	_ = l.Close()
	hanging := &collector{hang: true}
	for name, endpoint := range map[string]string{"gone": gone, "hanging": hanging.serveGRPC(t)} {
		core, logs := observer.New(zapcore.InfoLevel)
		tel := exporting(t, endpoint, telemetry.ProtocolGRPC, zap.New(core))
		begin := time.Now()
		for range 5000 { // more than the queue holds
			callOnce(t, tel)
		}
		if took := time.Since(begin); took > 3*time.Second {
			t.Errorf("%s: the calls took %v", name, took)
		}
		begin = time.Now()
		if err := closeWithin(t, tel, 200*time.Millisecond); err == nil {
			t.Errorf("%s: Close lost spans and said nothing", name)
		}
		if took := time.Since(begin); took > 2*time.Second {
			t.Errorf("%s: Close took %v", name, took)
		}
		if n := logs.FilterLevelExact(zapcore.WarnLevel).Len(); n != 1 {
			t.Errorf("%s: %d warnings, want 1: %v", name, n, logs.All())
		}
		if n := counter(t, tel, "newsvc_trace_spans_lost_total"); n == 0 {
			t.Errorf("%s: no span is counted as lost", name)
		}
	}
}

func TestMissingAuthorityFileIsAnError(t *testing.T) {
	t.Parallel()
	cfg := telemetry.DefaultConfig()
	cfg.Traces.Endpoint, cfg.Traces.CA = "127.0.0.1:1", "/does/not/exist.pem"
	_, err := telemetry.New(t.Context(), cfg, telemetry.Params{Service: "echo"})
	if err == nil || !strings.Contains(err.Error(), "traces.ca: ") {
		t.Errorf("error = %v", err)
	}
}
