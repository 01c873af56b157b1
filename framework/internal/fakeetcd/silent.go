package fakeetcd

import (
	"context"
	"sync/atomic"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
)

// LoneReadsMeetASilentMember is for the client of a real etcd: a read that is alone on its way gets no answer, as if the
// clients' turns led it to a silent member each time. One that is made beside another one is answered. The functions see all
// that is asked, before.
func LoneReadsMeetASilentMember(see ...func(*pb.RangeRequest)) grpc.DialOption {
	var open atomic.Int32
	return grpc.WithChainUnaryInterceptor(func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		r, read := req.(*pb.RangeRequest)
		if !read {
			return invoke(ctx, method, req, reply, cc, opts...)
		}
		for _, s := range see {
			s(r)
		}
		defer open.Add(-1)
		if open.Add(1) == 1 {
			cc.Connect() // the member takes the call
			<-ctx.Done()
			return status.FromContextError(ctx.Err()).Err()
		}
		return invoke(ctx, method, req, reply, cc, opts...)
	})
}
