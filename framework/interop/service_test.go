package interop_test

import (
	"context"
	"io"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/interop"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"
)

// service is the suite's test service with what gRPC for Go's own implementation lacks: the server's id, and messages
// that are compressed or refused for not being compressed.
type service struct {
	testpb.TestServiceServer
	id string
}

func newService(id string) *service { return &service{interop.NewTestServer(), id} }

func (s *service) UnaryCall(ctx context.Context, in *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
	if in.GetExpectCompressed().GetValue() && !receivedCompressed(ctx) {
		return nil, status.Error(codes.InvalidArgument, "the request should have been compressed")
	}
	if in.GetResponseCompressed().GetValue() {
		if err := grpc.SetSendCompressor(ctx, gzip.Name); err != nil {
			return nil, err
		}
	} else if receivedCompressed(ctx) {
		if err := grpc.SetSendCompressor(ctx, "identity"); err != nil { // gRPC would answer as it was asked
			return nil, err
		}
	}
	out, err := s.TestServiceServer.UnaryCall(ctx, in)
	if err == nil && in.GetFillServerId() {
		out.ServerId = s.id
	}
	return out, err
}

func (s *service) StreamingOutputCall(in *testpb.StreamingOutputCallRequest, stream testpb.TestService_StreamingOutputCallServer) error {
	for _, p := range in.GetResponseParameters() {
		if p.GetCompressed().GetValue() {
			if err := grpc.SetSendCompressor(stream.Context(), gzip.Name); err != nil {
				return err
			}
			break
		}
	}
	return s.TestServiceServer.StreamingOutputCall(in, stream)
}

func (*service) StreamingInputCall(stream testpb.TestService_StreamingInputCallServer) error {
	sum := 0
	for {
		in, err := stream.Recv()
		if err == io.EOF {
			return stream.SendAndClose(&testpb.StreamingInputCallResponse{AggregatedPayloadSize: int32(sum)})
		}
		if err != nil {
			return err
		}
		if in.GetExpectCompressed().GetValue() && !receivedCompressed(stream.Context()) {
			return status.Error(codes.InvalidArgument, "the request should have been compressed")
		}
		sum += len(in.GetPayload().GetBody())
	}
}

// messageSizes notes of each call whether its last message came compressed: a handler is not told otherwise.
type messageSizes struct{}

type sizesKey struct{}

type sizes struct {
	mu         sync.Mutex
	compressed bool
}

func receivedCompressed(ctx context.Context) bool {
	s, ok := ctx.Value(sizesKey{}).(*sizes)
	if !ok {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.compressed
}

func (messageSizes) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context {
	return context.WithValue(ctx, sizesKey{}, &sizes{})
}

func (messageSizes) HandleRPC(ctx context.Context, event stats.RPCStats) {
	in, ok := event.(*stats.InPayload)
	if !ok {
		return
	}
	s := ctx.Value(sizesKey{}).(*sizes)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.compressed = in.CompressedLength != in.Length
}

func (messageSizes) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (messageSizes) HandleConn(context.Context, stats.ConnStats)                       {}
