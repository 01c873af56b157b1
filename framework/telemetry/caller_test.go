package telemetry_test

import (
	"testing"

	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	testpb "google.golang.org/grpc/interop/grpc_testing"
)

func TestServerSpansNameTheirCaller(t *testing.T) {
	t.Parallel()
	tel, spans := traced(t, 1)
	unary, stream := tel.ServerInterceptors()
	cc := wire(t, service{}, []grpc.ServerOption{grpc.ChainUnaryInterceptor(unary), grpc.ChainStreamInterceptor(stream)}, grpc.WithUserAgent("order-service"))
	if _, err := testpb.NewTestServiceClient(cc).UnaryCall(t.Context(), ask(codes.OK)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a span", func() bool { return len(spans.GetSpans()) == 1 })
	got := map[string]string{}
	for _, a := range spans.GetSpans()[0].Attributes {
		got[string(a.Key)] = a.Value.Emit()
	}
	if spans.GetSpans()[0].SpanKind != trace.SpanKindServer || got["service.peer.name"] != "order-service" {
		t.Errorf("attributes %v", got)
	}
}
