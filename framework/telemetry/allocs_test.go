package telemetry_test

import (
	"context"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"

	"github.com/newsvc/newsvc/framework/telemetry"
)

// TestUnsampledCallsAllocateNothing holds the promise of the package comment. It runs alone: AllocsPerRun counts the
// allocations of the whole process.
func TestUnsampledCallsAllocateNothing(t *testing.T) {
	tel, spans := traced(t, 0)
	server, _ := tel.ServerInterceptors()
	client, _ := tel.ClientInterceptors("echo-service")
	info := &grpc.UnaryServerInfo{FullMethod: "/" + unaryMethod, Server: struct{}{}}
	in := metadata.NewIncomingContext(t.Context(), metadata.Pairs(":authority", "echo-service", "content-type", "application/grpc", "user-agent", "x"))
	handler := func(context.Context, any) (any, error) { return nil, nil }
	invoker := func(context.Context, string, any, any, *grpc.ClientConn, ...grpc.CallOption) error { return nil }
	if n := testing.AllocsPerRun(100, func() { _, _ = server(in, nil, info, handler) }); n != 0 {
		t.Errorf("server: %v allocations", n)
	}
	if n := testing.AllocsPerRun(100, func() { _ = client(t.Context(), "/"+unaryMethod, nil, nil, nil, invoker) }); n != 0 {
		t.Errorf("client: %v allocations", n)
	}
	if n := len(spans.GetSpans()); n != 0 {
		t.Errorf("%d spans", n)
	}
}

// BenchmarkCall shows what the interceptors add to a call, client and server in one process.
func BenchmarkCall(b *testing.B) {
	off := func(c *telemetry.Config) { c.Metrics.Enabled = false }
	run := func(name string, cc func(b *testing.B) *grpc.ClientConn) {
		b.Run(name, func(b *testing.B) {
			c := testpb.NewTestServiceClient(cc(b))
			req := ask(codes.OK)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := c.UnaryCall(b.Context(), req); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	run("bare", func(b *testing.B) *grpc.ClientConn { return wire(b, service{}, nil) })
	run("off", func(b *testing.B) *grpc.ClientConn {
		tel := newTelemetry(b, off)
		return connect(b, tel, tel, service{})
	})
	run("metrics", func(b *testing.B) *grpc.ClientConn {
		tel := newTelemetry(b, nil)
		return connect(b, tel, tel, service{})
	})
	for name, ratio := range map[string]float64{"sampled0": 0, "sampled1pct": 0.01, "sampled100pct": 1} {
		run(name, func(b *testing.B) *grpc.ClientConn {
			tel, spans := traced(b, ratio)
			b.Cleanup(spans.Reset)
			return connect(b, tel, tel, service{})
		})
	}
}
