package telemetry_test

import (
	"context"
	"io"
	"strings"
	"testing"

	"go.opentelemetry.io/otel/attribute"
	otelcodes "go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"

	"github.com/newsvc/newsvc/framework/telemetry"
)

const (
	sampledParent   = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	unsampledParent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
)

// traced returns a telemetry whose spans end in memory.
func traced(t testing.TB, ratio float64) (*telemetry.Telemetry, *tracetest.InMemoryExporter) {
	t.Helper()
	spans := tracetest.NewInMemoryExporter()
	tel := newTelemetry(t, func(c *telemetry.Config) { c.Traces.SampleRatio = ratio },
		telemetry.WithSpanProcessor(sdktrace.NewSimpleSpanProcessor(spans)))
	return tel, spans
}

// oneSpan waits for the only span.
func oneSpan(t *testing.T, spans *tracetest.InMemoryExporter) tracetest.SpanStub {
	t.Helper()
	eventually(t, "a span ends", func() bool { return len(spans.GetSpans()) > 0 })
	all := spans.GetSpans()
	if len(all) != 1 {
		t.Fatalf("%d spans, want 1", len(all))
	}
	return all[0]
}

// headers returns what the server is sent in the named header.
func headers(name string, got *[]string) service {
	return service{onCall: func(ctx context.Context) error {
		*got = metadata.ValueFromIncomingContext(ctx, name)
		return nil
	}}
}

func TestTraceGoesThroughThreeServices(t *testing.T) {
	t.Parallel()
	edge, edgeSpans := traced(t, 1)
	middle, middleSpans := traced(t, 0) // follows the edge, not its own ratio
	last, lastSpans := traced(t, 0)
	toLast := testpb.NewTestServiceClient(connect(t, last, middle, service{}))
	toMiddle := testpb.NewTestServiceClient(connect(t, middle, edge, service{onCall: func(ctx context.Context) error {
		_, err := toLast.UnaryCall(ctx, ask(codes.OK))
		return err
	}}))
	if _, err := toMiddle.UnaryCall(t.Context(), ask(codes.OK)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "both spans of the middle end", func() bool { return len(middleSpans.GetSpans()) == 2 })
	byKind := map[trace.SpanKind]tracetest.SpanStub{}
	for _, s := range middleSpans.GetSpans() {
		byKind[s.SpanKind] = s
	}
	chain := []tracetest.SpanStub{oneSpan(t, edgeSpans), byKind[trace.SpanKindServer], byKind[trace.SpanKindClient], oneSpan(t, lastSpans)}
	for i, s := range chain {
		if s.Name != unaryMethod {
			t.Errorf("span %d is named %q", i, s.Name)
		}
		if s.SpanContext.TraceID() != chain[0].SpanContext.TraceID() {
			t.Errorf("span %d is of another trace", i)
		}
		if i > 0 && s.Parent.SpanID() != chain[i-1].SpanContext.SpanID() {
			t.Errorf("span %d is no child of span %d", i, i-1)
		}
	}
}

func TestSpanTellsMethodCalleeAndOutcome(t *testing.T) {
	t.Parallel()
	server, serverSpans := traced(t, 0)
	client, clientSpans := traced(t, 1)
	c := testpb.NewTestServiceClient(connect(t, server, client, service{}))
	_, _ = c.UnaryCall(t.Context(), ask(codes.NotFound))
	cs, ss := oneSpan(t, clientSpans), oneSpan(t, serverSpans)
	want := map[string]string{
		"rpc.system.name": "grpc", "rpc.method": unaryMethod, "rpc.response.status_code": "NOT_FOUND", "service.peer.name": "echo-service",
	}
	got := map[string]string{}
	for _, kv := range cs.Attributes {
		got[string(kv.Key)] = kv.Value.AsString()
	}
	for k, v := range want {
		if got[k] != v {
			t.Errorf("client span has %s=%q, want %q", k, got[k], v)
		}
	}
	if cs.Status.Code != otelcodes.Error || cs.Status.Description != "asked for" {
		t.Errorf("client span has status %v", cs.Status)
	}
	if ss.Status.Code != otelcodes.Unset {
		t.Errorf("NotFound is no fault of the server, but its span has status %v", ss.Status)
	}
	if v, ok := ss.Resource.Set().Value(attribute.Key("service.name")); !ok || v.AsString() != "echo" {
		t.Errorf("the resource does not name the service: %v", ss.Resource)
	}
}

func TestUnsampledCallsBuildAndSendNothing(t *testing.T) {
	t.Parallel()
	server, serverSpans := traced(t, 0)
	client, clientSpans := traced(t, 0)
	var got []string
	c := testpb.NewTestServiceClient(connect(t, server, client, headers("traceparent", &got)))
	for range 20 {
		if _, err := c.UnaryCall(t.Context(), ask(codes.OK)); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(serverSpans.GetSpans()) + len(clientSpans.GetSpans()); n != 0 {
		t.Errorf("%d spans", n)
	}
	if got != nil {
		t.Errorf("sent %q", got)
	}
}

func TestParentDecidesAndIsPassedOn(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name, parent, flags string
		ratio               float64
		spans               int
	}{
		{"sampled", sampledParent, "01", 0, 2},
		{"unsampled", unsampledParent, "00", 1, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			tel, spans := traced(t, tc.ratio)
			bare := newTelemetry(t, nil) // has no traces and passes on all the same
			var parent, state []string
			back := testpb.NewTestServiceClient(connect(t, bare, tel, service{onCall: func(ctx context.Context) error {
				parent, state = metadata.ValueFromIncomingContext(ctx, "traceparent"), metadata.ValueFromIncomingContext(ctx, "tracestate")
				return nil
			}}))
			front := testpb.NewTestServiceClient(connect(t, tel, bare, service{onCall: func(ctx context.Context) error {
				_, err := back.UnaryCall(ctx, ask(codes.OK))
				return err
			}}))
			ctx := metadata.AppendToOutgoingContext(t.Context(), "traceparent", tc.parent, "tracestate", "vendor=x")
			if _, err := front.UnaryCall(ctx, ask(codes.OK)); err != nil {
				t.Fatal(err)
			}
			if len(parent) != 1 || !strings.HasPrefix(parent[0], tc.parent[:36]) || !strings.HasSuffix(parent[0], tc.flags) {
				t.Errorf("passed on %q, want the trace and flags of %q", parent, tc.parent)
			}
			if len(state) != 1 || state[0] != "vendor=x" {
				t.Errorf("passed on the state %q", state)
			}
			eventually(t, "the spans end", func() bool { return len(spans.GetSpans()) == tc.spans })
		})
	}
}

func TestServiceWithoutTracesPassesThemOn(t *testing.T) {
	t.Parallel()
	bare := newTelemetry(t, nil)
	var got []string
	back := testpb.NewTestServiceClient(connect(t, bare, bare, headers("traceparent", &got)))
	front := testpb.NewTestServiceClient(connect(t, bare, bare, service{onCall: func(ctx context.Context) error {
		_, err := back.UnaryCall(ctx, ask(codes.OK))
		return err
	}}))
	ctx := metadata.AppendToOutgoingContext(t.Context(), "traceparent", sampledParent)
	if _, err := front.UnaryCall(ctx, ask(codes.OK)); err != nil {
		t.Fatal(err)
	}
	if len(got) != 1 || got[0] != sampledParent {
		t.Errorf("passed on %q, want %q", got, sampledParent)
	}
}

func TestDamagedParentIsNoParent(t *testing.T) {
	t.Parallel()
	for _, header := range []string{
		"", "x", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
		"ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "00-00000000000000000000000000000000-b7ad6b7169203331-01",
		"00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01", "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
		sampledParent + "-more", "00_0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
	} {
		if sc := contextOf(t, header); sc.IsValid() {
			t.Errorf("%q was read as %v", header, sc)
		}
	}
	if sc := contextOf(t, "cc"+sampledParent[2:]+"-more"); !sc.IsSampled() {
		t.Error("a later version of the header was not read as far as it is known")
	}
}

// contextOf returns the span context that a handler finds after the header came in.
func contextOf(t *testing.T, header string) (sc trace.SpanContext) {
	t.Helper()
	unary, _ := newTelemetry(t, nil).ServerInterceptors()
	ctx := metadata.NewIncomingContext(t.Context(), metadata.Pairs("traceparent", header))
	_, err := unary(ctx, nil, &grpc.UnaryServerInfo{FullMethod: "/a.B/C"}, func(ctx context.Context, _ any) (any, error) {
		sc = trace.SpanContextFromContext(ctx)
		return nil, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return sc
}

func TestStreamsHaveOneSpanOnEachSide(t *testing.T) {
	t.Parallel()
	server, serverSpans := traced(t, 0)
	client, clientSpans := traced(t, 1)
	var inside trace.SpanContext
	c := testpb.NewTestServiceClient(connect(t, server, client, service{onCall: func(ctx context.Context) error {
		inside = trace.SpanContextFromContext(ctx)
		return nil
	}}))
	stream, err := c.FullDuplexCall(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := stream.Send(&testpb.StreamingOutputCallRequest{}); err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Recv(); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(clientSpans.GetSpans()); n != 0 {
		t.Errorf("%d spans ended before the stream", n)
	}
	_ = stream.CloseSend()
	if _, err := stream.Recv(); err != io.EOF {
		t.Fatal(err)
	}
	cs, ss := oneSpan(t, clientSpans), oneSpan(t, serverSpans)
	if ss.Parent.SpanID() != cs.SpanContext.SpanID() || inside.SpanID() != ss.SpanContext.SpanID() {
		t.Error("handler, server and client are not in one line")
	}
}

func TestHealthChecksHaveNoSpans(t *testing.T) {
	t.Parallel()
	server, serverSpans := traced(t, 1)
	client, clientSpans := traced(t, 1)
	cc := connect(t, server, client, service{})
	if _, err := healthpb.NewHealthClient(cc).Check(t.Context(), &healthpb.HealthCheckRequest{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the check is counted", func() bool { return count(t, server, serverDuration, nil) == 1 })
	if n := len(serverSpans.GetSpans()) + len(clientSpans.GetSpans()); n != 0 {
		t.Errorf("%d spans", n)
	}
}

func TestOwnSpansFollowTheDecisionAboutTheCall(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		parent string
		want   int
	}{{"sampled", sampledParent, 2}, {"unsampled", unsampledParent, 0}, {"not decided by the caller", "", 0}} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			server, spans := traced(t, 0)
			client := newTelemetry(t, nil)
			c := testpb.NewTestServiceClient(connect(t, server, client, service{onCall: func(ctx context.Context) error {
				if err := server.SetSampleRatio(1); err != nil { // would sample what is drawn from here on
					return err
				}
				_, span := server.TracerProvider().Tracer("user").Start(ctx, "own")
				span.End()
				return nil
			}}))
			ctx := t.Context()
			if tc.parent != "" {
				ctx = metadata.AppendToOutgoingContext(ctx, "traceparent", tc.parent)
			}
			if _, err := c.UnaryCall(ctx, ask(codes.OK)); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the call is over", func() bool { return count(t, server, serverDuration, nil) == 1 })
			eventually(t, "the spans end", func() bool { return len(spans.GetSpans()) == tc.want })
		})
	}
}

func TestSampleRatioIsObeyedAndCanBeChanged(t *testing.T) {
	t.Parallel()
	tel, spans := traced(t, 0.5)
	unary, _ := tel.ServerInterceptors()
	call := func(n int) int {
		before := len(spans.GetSpans())
		for range n {
			_, _ = unary(t.Context(), nil, &grpc.UnaryServerInfo{FullMethod: "/a.B/C"}, func(context.Context, any) (any, error) { return nil, nil })
		}
		return len(spans.GetSpans()) - before
	}
	if n := call(1000); n < 400 || n > 600 {
		t.Errorf("%d of 1000 calls sampled at 0.5", n)
	}
	if err := tel.SetSampleRatio(1); err != nil {
		t.Fatal(err)
	}
	if n := call(100); n != 100 {
		t.Errorf("%d of 100 calls sampled at 1", n)
	}
	if err := tel.SetSampleRatio(-1); err == nil {
		t.Error("a share of -1 was taken")
	}
}

func TestSampledCallLeavesItsTraceInTheHistogram(t *testing.T) {
	t.Parallel()
	server, spans := traced(t, 1)
	unary, _ := server.ServerInterceptors()
	_, _ = unary(t.Context(), nil, &grpc.UnaryServerInfo{FullMethod: "/a.B/C"}, func(context.Context, any) (any, error) { return nil, nil })
	want := oneSpan(t, spans).SpanContext.TraceID().String()
	for _, b := range family(t, server, serverDuration)[0].GetHistogram().GetBucket() {
		for _, l := range b.GetExemplar().GetLabel() {
			if l.GetName() == "trace_id" && l.GetValue() == want {
				return
			}
		}
	}
	t.Errorf("no bucket names the trace %s", want)
}
