package stack

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/newsvc/newsvc/framework/server"
)

// instanceHeader tells callers, under newsvc dev only, which instance answered; the gateway passes it on to browsers.
const instanceHeader = "newsvc-instance"

// sayInstance is an interceptor that sets the header. It costs allocations, and a public edge has no business to tell
// addresses, so it is part of the chain under newsvc dev alone.
func (s *Stack) sayInstance() server.Interceptor {
	return server.Interceptor{
		Name: "instance",
		Unary: func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			_ = grpc.SetHeader(ctx, s.instanceMD()) // fails only after the header was sent, which it was not yet
			return next(ctx, req)
		},
		Stream: func(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
			_ = stream.SetHeader(s.instanceMD()) // as above
			return next(srv, stream)
		},
	}
}

func (s *Stack) instanceMD() metadata.MD { return metadata.Pairs(instanceHeader, s.server.Addr()) }
