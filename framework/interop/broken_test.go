package interop_test

import (
	"context"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// broken is the test service with everything a little wrong: sizes, counts, metadata and statuses.
type broken struct{ *service }

func (broken) EmptyCall(context.Context, *testpb.Empty) (*testpb.Empty, error) {
	return nil, status.Error(codes.Aborted, "broken")
}

func (b broken) UnaryCall(ctx context.Context, in *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
	if in.GetResponseStatus() != nil {
		return nil, status.Error(codes.Code(in.GetResponseStatus().GetCode()), in.GetResponseStatus().GetMessage()+"!")
	}
	if in.GetFillServerId() {
		return &testpb.SimpleResponse{ServerId: time.Now().String()}, nil
	}
	if in.GetResponseSize() > 1 {
		in.ResponseSize--
	}
	if md, ok := metadata.FromIncomingContext(ctx); ok {
		delete(md, "x-grpc-test-echo-initial")
		ctx = metadata.NewIncomingContext(ctx, md)
	}
	return b.service.UnaryCall(ctx, in)
}

func (b broken) StreamingOutputCall(in *testpb.StreamingOutputCallRequest, stream testpb.TestService_StreamingOutputCallServer) error {
	in.ResponseParameters = in.ResponseParameters[1:]
	return b.service.StreamingOutputCall(in, stream)
}

func (broken) StreamingInputCall(stream testpb.TestService_StreamingInputCallServer) error {
	return stream.SendAndClose(&testpb.StreamingInputCallResponse{AggregatedPayloadSize: 1})
}

func (broken) FullDuplexCall(stream testpb.TestService_FullDuplexCallServer) error {
	_ = stream.Send(&testpb.StreamingOutputCallResponse{})
	return status.Error(codes.Aborted, "broken")
}

func (broken) UnimplementedCall(context.Context, *testpb.Empty) (*testpb.Empty, error) {
	return &testpb.Empty{}, nil
}

type implemented struct {
	testpb.UnimplementedUnimplementedServiceServer
}

func (implemented) UnimplementedCall(context.Context, *testpb.Empty) (*testpb.Empty, error) {
	return &testpb.Empty{}, nil
}

// deaf is a connection whose calls do not end with their context, as a broken client's would: the cases about
// cancellation and deadlines are about it rather than about the server.
type deaf struct{ grpc.ClientConnInterface }

func (d deaf) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	s, err := d.ClientConnInterface.NewStream(context.WithoutCancel(ctx), desc, method, opts...)
	return &deafStream{s}, err
}

type deafStream struct{ grpc.ClientStream }

func (s *deafStream) RecvMsg(m any) error {
	_ = s.CloseSend()
	return s.ClientStream.RecvMsg(m)
}

// A case that passes whatever the server does shows nothing.
func TestInteropEveryCaseFailsWhenSomethingIsBroken(t *testing.T) {
	t.Parallel()
	wrong := startLab(t, labOptions{serve: func(r grpc.ServiceRegistrar, id string) {
		b := broken{service: newService(id)}
		testpb.RegisterTestServiceServer(r, b)
		testpb.RegisterUnimplementedServiceServer(r, implemented{})
	}})
	right := startLab(t, labOptions{}).call(t, nil)
	for _, c := range suite() {
		t.Run(c.name, func(t *testing.T) {
			var conn grpc.ClientConnInterface = wrong.call(t, c.policy)
			switch c.name {
			case "timeout_on_sleeping_server", "cancel_after_begin", "cancel_after_first_response":
				conn = deaf{right}
			}
			if err := outcome(func() { c.run(limit(t), conn) }); err == nil {
				t.Error("the case passed")
			}
		})
	}
}
