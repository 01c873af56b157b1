package interop_test

import (
	"context"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/interop"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"

	"github.com/newsvc/newsvc/framework/client"
	"github.com/newsvc/newsvc/framework/server"
)

const (
	requestSize  = 271828
	responseSize = 314159
	// squeezed is what a payload of the suite, zeros, is far below when it is compressed, and far above when it is not.
	squeezed = 50_000
)

func startCompressing(t *testing.T, tls bool) *lab {
	t.Helper()
	return startLab(t, labOptions{tls: tls, options: []server.Option{server.GRPC(grpc.StatsHandler(messageSizes{}))}})
}

func payload(size int) *testpb.Payload {
	return interop.ClientNewPayload(testpb.PayloadType_COMPRESSABLE, size)
}

// compressedCases are those that gRPC for Go's package lacks, after the descriptions. Where these mix compressed and
// plain messages in one stream, which gRPC for Go has no means for, each kind has a stream.
func compressedCases() map[string]func(*testing.T, *caller) {
	return map[string]func(*testing.T, *caller){
		"client_compressed_unary":     clientCompressedUnary,
		"server_compressed_unary":     serverCompressedUnary,
		"client_compressed_streaming": clientCompressedStreaming,
		"server_compressed_streaming": serverCompressedStreaming,
	}
}

func TestInteropCompressedPlaintext(t *testing.T) {
	t.Parallel()
	l := startCompressing(t, false)
	wholeChain(t, l.servers[0])
	for name, run := range compressedCases() {
		t.Run(name, func(t *testing.T) { run(t, l.call(t, nil)) })
	}
}

func TestInteropCompressedMutualTLS(t *testing.T) {
	t.Parallel()
	l := startCompressing(t, true)
	for name, run := range compressedCases() {
		t.Run(name, func(t *testing.T) { run(t, l.call(t, nil)) })
	}
}

func clientCompressedUnary(t *testing.T, c *caller) {
	client := testpb.NewTestServiceClient(c)
	request := func(expect bool) *testpb.SimpleRequest {
		return &testpb.SimpleRequest{ExpectCompressed: &testpb.BoolValue{Value: expect}, ResponseSize: responseSize, Payload: payload(requestSize)}
	}
	if _, err := client.UnaryCall(limit(t), request(true)); status.Code(err) != codes.InvalidArgument {
		t.Fatalf("the server does not see whether a request is compressed: %v", err)
	}
	for compressed, opts := range map[bool][]grpc.CallOption{true: {grpc.UseCompressor(gzip.Name)}, false: nil} {
		before := c.sent.Load()
		out, err := client.UnaryCall(limit(t), request(compressed), opts...)
		if err != nil {
			t.Fatal(err)
		}
		if got := len(out.GetPayload().GetBody()); got != responseSize {
			t.Errorf("compressed %v: the answer has %d bytes", compressed, got)
		}
		if sent := c.sent.Load() - before; (sent < squeezed) != compressed {
			t.Errorf("compressed %v: %d bytes were sent", compressed, sent)
		}
	}
}

func serverCompressedUnary(t *testing.T, c *caller) {
	client := testpb.NewTestServiceClient(c)
	for _, compressed := range []bool{true, false} {
		before := c.received.Load()
		out, err := client.UnaryCall(limit(t), &testpb.SimpleRequest{
			ResponseCompressed: &testpb.BoolValue{Value: compressed}, ResponseSize: responseSize, Payload: payload(requestSize),
		})
		if err != nil {
			t.Fatal(err)
		}
		if got := len(out.GetPayload().GetBody()); got != responseSize {
			t.Errorf("compressed %v: the answer has %d bytes", compressed, got)
		}
		if received := c.received.Load() - before; (received < squeezed) != compressed {
			t.Errorf("compressed %v: %d bytes were received", compressed, received)
		}
	}
}

func clientCompressedStreaming(t *testing.T, c *caller) {
	send := func(expect bool, opts ...grpc.CallOption) (*testpb.StreamingInputCallResponse, error) {
		stream, err := testpb.NewTestServiceClient(c).StreamingInputCall(limit(t), opts...)
		if err != nil {
			t.Fatal(err)
		}
		for _, size := range []int{27182, 45904} {
			if err := stream.Send(&testpb.StreamingInputCallRequest{ExpectCompressed: &testpb.BoolValue{Value: expect}, Payload: payload(size)}); err != nil {
				break // CloseAndRecv says why
			}
		}
		return stream.CloseAndRecv()
	}
	if _, err := send(true); status.Code(err) != codes.InvalidArgument {
		t.Fatalf("the server does not see whether a message is compressed: %v", err)
	}
	for compressed, opts := range map[bool][]grpc.CallOption{true: {grpc.UseCompressor(gzip.Name)}, false: nil} {
		before := c.sent.Load()
		out, err := send(compressed, opts...)
		if err != nil {
			t.Fatal(err)
		}
		if out.GetAggregatedPayloadSize() != 27182+45904 {
			t.Errorf("compressed %v: %d bytes arrived", compressed, out.GetAggregatedPayloadSize())
		}
		if sent := c.sent.Load() - before; (sent < squeezed) != compressed {
			t.Errorf("compressed %v: %d bytes were sent", compressed, sent)
		}
	}
}

func serverCompressedStreaming(t *testing.T, c *caller) {
	for _, compressed := range []bool{true, false} {
		before := c.received.Load()
		in := &testpb.StreamingOutputCallRequest{}
		for _, size := range []int32{31415, 92653} {
			in.ResponseParameters = append(in.ResponseParameters, &testpb.ResponseParameters{Size: size, Compressed: &testpb.BoolValue{Value: compressed}})
		}
		stream, err := testpb.NewTestServiceClient(c).StreamingOutputCall(limit(t), in)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range in.GetResponseParameters() {
			out, err := stream.Recv()
			if err != nil {
				t.Fatal(err)
			}
			if got := len(out.GetPayload().GetBody()); got != int(p.GetSize()) {
				t.Errorf("compressed %v: a message has %d bytes, want %d", compressed, got, p.GetSize())
			}
		}
		if received := c.received.Load() - before; (received < squeezed) != compressed {
			t.Errorf("compressed %v: %d bytes were received", compressed, received)
		}
	}
}

// Requests are compressed because the policy says so; the server answers in kind. A change holds for the next call.
func TestCompressionOfThePolicyShrinksWhatGoesOverTheWire(t *testing.T) {
	t.Parallel()
	l := startLab(t, labOptions{serve: func(r grpc.ServiceRegistrar, _ string) {
		testpb.RegisterTestServiceServer(r, interop.NewTestServer()) // knows nothing of compression
	}})
	for name, call := range map[string]func(context.Context, testpb.TestServiceClient, ...grpc.CallOption){
		"unary": interop.DoLargeUnaryCall, "streams": func(ctx context.Context, c testpb.TestServiceClient, opts ...grpc.CallOption) {
			for range 4 {
				interop.DoPingPong(ctx, c, opts...)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := l.call(t, func(p *client.Policy) { p.Compression = client.Gzip })
			run := func() (sent, received int64) {
				t.Helper()
				sent, received = c.sent.Load(), c.received.Load()
				if err := outcome(func() { call(limit(t), testpb.NewTestServiceClient(c)) }); err != nil {
					t.Fatal(err)
				}
				return c.sent.Load() - sent, c.received.Load() - received
			}
			smallSent, smallReceived := run()
			p := client.DefaultPolicy()
			p.TLS = l.tls
			if err := c.update(p); err != nil {
				t.Fatal(err)
			}
			sent, received := run()
			if smallSent*5 > sent || smallReceived*5 > received {
				t.Errorf("compressed: %d bytes sent, %d received; plain: %d and %d", smallSent, smallReceived, sent, received)
			}
		})
	}
}

func TestWhatTheCallWantsWinsOverThePolicy(t *testing.T) {
	t.Parallel()
	c := startCompressing(t, false).call(t, func(p *client.Policy) { p.Compression = client.Gzip })
	_, err := testpb.NewTestServiceClient(c).UnaryCall(limit(t), &testpb.SimpleRequest{
		ExpectCompressed: &testpb.BoolValue{Value: true}, Payload: payload(requestSize),
	}, grpc.UseCompressor("identity"))
	if status.Code(err) != codes.InvalidArgument {
		t.Errorf("err = %v, want the server to say that the request was not compressed", err)
	}
}
