package stack

import (
	"context"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/newsvc/newsvc/framework/server"
)

// instanceHeader tells callers, under newsvc dev only, which instance answered; the gateway passes it on to browsers.
const instanceHeader = "newsvc-instance"

// sayInstance is an interceptor that sets the header. It costs allocations, and a public edge has no business to tell
// addresses, so it is part of the chain under newsvc dev alone.
//
// An error tells it in the trailer: gRPC repeats no call whose answer had a header, and under newsvc dev as many attempts are to
// be made as in production.
func (s *Stack) sayInstance() server.Interceptor {
	return server.Interceptor{
		Name: "instance",
		Unary: func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			resp, err := next(ctx, req)
			if err != nil {
				_ = grpc.SetTrailer(ctx, s.instanceMD()) // fails only without a call
			} else {
				_ = grpc.SetHeader(ctx, s.instanceMD()) // fails only when the handler has sent its header
			}
			return resp, err
		},
		Stream: func(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
			told := &tellingStream{ServerStream: stream, md: s.instanceMD()}
			err := next(srv, told)
			switch {
			case told.begun.Load():
			case err != nil:
				stream.SetTrailer(told.md)
			default:
				_ = stream.SetHeader(told.md) // as above
			}
			return err
		},
	}
}

// tellingStream sets the header when the answer begins.
type tellingStream struct {
	grpc.ServerStream
	md    metadata.MD
	begun atomic.Bool
}

// SendHeader implements [grpc.ServerStream].
func (t *tellingStream) SendHeader(md metadata.MD) error {
	t.begin()
	return t.ServerStream.SendHeader(md)
}

// SendMsg implements [grpc.ServerStream].
func (t *tellingStream) SendMsg(m any) error {
	t.begin()
	return t.ServerStream.SendMsg(m)
}

func (t *tellingStream) begin() {
	if t.begun.CompareAndSwap(false, true) {
		_ = t.ServerStream.SetHeader(t.md) // fails only after the header was sent, which it was not yet
	}
}

func (s *Stack) instanceMD() metadata.MD { return metadata.Pairs(instanceHeader, s.server.Addr()) }
