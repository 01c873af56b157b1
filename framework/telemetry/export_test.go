package telemetry_test

import (
	"context"
	"errors"
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
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/newsvc/newsvc/framework/internal/loop"
	"github.com/newsvc/newsvc/framework/telemetry"
)

// collector is a receiver of OTLP.
type collector struct {
	coltracepb.UnimplementedTraceServiceServer
	mu    sync.Mutex
	names []string
	auth  []string
	hang  bool
	// refuse is how many requests are answered with "try again" first; reject how many spans of the first one taken.
	refuse int
	reject int64
}

// take keeps the spans, or returns false when it is asked to refuse.
func (c *collector) take(req *coltracepb.ExportTraceServiceRequest, auth []string) (*coltracepb.ExportTraceServiceResponse, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.refuse > 0 {
		c.refuse--
		return nil, false
	}
	c.auth = auth
	for _, r := range req.GetResourceSpans() {
		for _, s := range r.GetScopeSpans() {
			for _, span := range s.GetSpans() {
				c.names = append(c.names, span.GetName())
			}
		}
	}
	resp := &coltracepb.ExportTraceServiceResponse{}
	if c.reject > 0 {
		resp.PartialSuccess = &coltracepb.ExportTracePartialSuccess{RejectedSpans: c.reject, ErrorMessage: "too old"}
	}
	return resp, true
}

func (c *collector) Export(ctx context.Context, req *coltracepb.ExportTraceServiceRequest) (*coltracepb.ExportTraceServiceResponse, error) {
	if c.hang {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	resp, ok := c.take(req, metadata.ValueFromIncomingContext(ctx, "api-key"))
	if !ok {
		return nil, status.Error(codes.Unavailable, "try again")
	}
	return resp, nil
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
	resp, ok := c.take(&req, r.Header.Values("api-key"))
	if !ok {
		http.Error(w, "try again", http.StatusServiceUnavailable)
		return
	}
	answer, err := proto.Marshal(resp)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/x-protobuf")
	_, _ = w.Write(answer)
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

// receive runs a test against a collector over each protocol.
func receive(t *testing.T, test func(t *testing.T, c *collector, endpoint, protocol string)) {
	t.Helper()
	t.Run(telemetry.ProtocolGRPC, func(t *testing.T) {
		t.Parallel()
		c := &collector{}
		test(t, c, c.serveGRPC(t), telemetry.ProtocolGRPC)
	})
	t.Run(telemetry.ProtocolHTTP, func(t *testing.T) {
		t.Parallel()
		c := &collector{}
		web := httptest.NewServer(c)
		defer web.Close()
		test(t, c, strings.TrimPrefix(web.URL, "http://"), telemetry.ProtocolHTTP)
	})
}

func TestCloseExportsWhatIsWaiting(t *testing.T) {
	t.Parallel()
	receive(t, func(t *testing.T, c *collector, endpoint, protocol string) {
		tel := exporting(t, endpoint, protocol, nil)
		callOnce(t, tel)
		if err := closeWithin(t, tel, 5*time.Second); err != nil {
			t.Error(err)
		}
		c.check(t)
		if n := counter(t, tel, "newsvc_trace_spans_exported_total"); n != 1 {
			t.Errorf("counted %v exported spans, want 1", n)
		}
		if err := closeWithin(t, tel, time.Second); err != nil {
			t.Errorf("second Close: %v", err)
		}
	})
}

func TestExportIsTriedAgainWhileTheCollectorIsBusy(t *testing.T) {
	t.Parallel()
	receive(t, func(t *testing.T, c *collector, endpoint, protocol string) {
		c.refuse = 1
		tel := exporting(t, endpoint, protocol, nil)
		callOnce(t, tel)
		if err := closeWithin(t, tel, 9*time.Second); err != nil {
			t.Error(err)
		}
		c.check(t)
	})
}

func TestSpansThatTheCollectorRejectsAreLost(t *testing.T) {
	t.Parallel()
	receive(t, func(t *testing.T, c *collector, endpoint, protocol string) {
		c.reject = 1
		core, logs := observer.New(zapcore.WarnLevel)
		tel := exporting(t, endpoint, protocol, zap.New(core))
		callOnce(t, tel)
		callOnce(t, tel)
		if err := closeWithin(t, tel, 5*time.Second); err != nil {
			t.Error(err)
		}
		if lost, sent := counter(t, tel, "newsvc_trace_spans_lost_total"), counter(t, tel, "newsvc_trace_spans_exported_total"); lost != 1 || sent != 1 {
			t.Errorf("counted %v lost and %v exported, want 1 and 1", lost, sent)
		}
		if n := logs.Len(); n != 1 || !strings.Contains(logs.All()[0].ContextMap()["error"].(string), "rejected 1 spans: too old") {
			t.Errorf("logged %v", logs.All())
		}
	})
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

func TestCloseWithoutTimeLeftStillReturns(t *testing.T) {
	t.Parallel()
	tel := exporting(t, (&collector{}).serveGRPC(t), telemetry.ProtocolGRPC, zap.NewNop())
	callOnce(t, tel)
	over, cancel := context.WithCancel(t.Context())
	cancel()
	closed := make(chan error, 1)
	l := loop.Start(t.Context(), func(context.Context) { closed <- tel.Close(over) })
	select {
	case err := <-closed:
		if !errors.Is(err, context.Canceled) {
			t.Errorf("Close = %v, want that its context is over", err)
		}
	case <-time.NewTimer(5 * time.Second).C:
		t.Fatal("Close does not return")
	}
	l.Stop()
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

func TestNoCompressorIsRegisteredByImport(t *testing.T) {
	t.Parallel()
	if encoding.GetCompressor("gzip") != nil {
		t.Error("every call of every process would now offer gzip in a header, at four allocations on the server")
	}
}
