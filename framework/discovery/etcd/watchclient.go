package etcd

import (
	"context"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
)

// watchClient keeps from clientv3 what it panics on (3.7.3, "send on closed channel"): the answer to a progress request
// that arrives right after etcd has ended the watch. That panic is in a goroutine of its own and would end the process.
type watchClient struct{ pb.WatchClient }

// Watch implements [pb.WatchClient].
func (c watchClient) Watch(ctx context.Context, opts ...grpc.CallOption) (pb.Watch_WatchClient, error) {
	s, err := c.WatchClient.Watch(ctx, opts...)
	if err != nil {
		return nil, err
	}
	return &watchStream{Watch_WatchClient: s}, nil
}

// watchStream carries one watch only.
type watchStream struct {
	pb.Watch_WatchClient
	ended bool // read and written by who receives
}

// Recv implements [pb.Watch_WatchClient].
func (s *watchStream) Recv() (*pb.WatchResponse, error) {
	for {
		r, err := s.Watch_WatchClient.Recv()
		if err != nil {
			return nil, err
		}
		s.ended = s.ended || r.GetCanceled()
		if s.ended && !r.GetCanceled() && r.GetWatchId() == clientv3.InvalidWatchID {
			continue // there is nobody left to tell about progress
		}
		return r, nil
	}
}
