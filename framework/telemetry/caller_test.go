package telemetry_test

import (
	"net"
	"slices"
	"strings"
	"testing"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	testpb "google.golang.org/grpc/interop/grpc_testing"
)

// TestSpansFollowTheConventions holds the names of attributes; see the conventions of OpenTelemetry for RPC.
func TestSpansFollowTheConventions(t *testing.T) {
	t.Parallel()
	server, serverSpans := traced(t, 1)
	client, clientSpans := traced(t, 1)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	unary, _ := server.ServerInterceptors()
	gs := grpc.NewServer(grpc.UnaryInterceptor(unary))
	testpb.RegisterTestServiceServer(gs, service{})
	served := make(chan error, 1)
	go func() { served <- gs.Serve(l) }()
	t.Cleanup(func() { gs.Stop(); <-served })
	out, _ := client.ClientInterceptors("echo-service")
	cc, err := grpc.NewClient("passthrough:///"+l.Addr().String(), grpc.WithUnaryInterceptor(out), grpc.WithUserAgent("echo"),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cc.Close() })
	_, _ = testpb.NewTestServiceClient(cc).UnaryCall(t.Context(), ask(codes.Internal)) // the spans are what matters here
	eventually(t, "both spans", func() bool { return len(serverSpans.GetSpans()) == 1 && len(clientSpans.GetSpans()) == 1 })
	attrs := func(all []attribute.KeyValue) string {
		var text []string
		for _, a := range all {
			value := a.Value.String()
			if a.Key == "network.peer.port" {
				value = "*"
			}
			text = append(text, string(a.Key)+"="+value)
		}
		slices.Sort(text)
		return strings.Join(text, " ")
	}
	common := "error.type=INTERNAL"
	tail := " rpc.method=" + unaryMethod + " rpc.response.status_code=INTERNAL rpc.system.name=grpc "
	if got, want := attrs(serverSpans.GetSpans()[0].Attributes), common+" network.peer.address=127.0.0.1 network.peer.port=*"+tail+"service.peer.name=echo"; got != want {
		t.Errorf("server span:\n got %s\nwant %s", got, want)
	}
	if got, want := attrs(clientSpans.GetSpans()[0].Attributes), common+tail+"server.address=echo-service service.peer.name=echo-service"; got != want {
		t.Errorf("client span:\n got %s\nwant %s", got, want)
	}
}

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
		got[string(a.Key)] = a.Value.String()
	}
	if spans.GetSpans()[0].SpanKind != trace.SpanKindServer || got["service.peer.name"] != "order-service" {
		t.Errorf("attributes %v", got)
	}
}
