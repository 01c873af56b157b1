package fakeetcd

import (
	"context"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"

	"github.com/newsvc/newsvc/framework/internal/etcdlink"
)

// Client returns a client of this etcd with the settings that etcdclient gives to all clients of the framework. The caller
// closes it before the server.
func (s *Server) Client() (*clientv3.Client, error) {
	return clientv3.New(s.config())
}

// ClientWithPassword is Client with a user.
func (s *Server) ClientWithPassword(name, password string) (*clientv3.Client, error) {
	cfg := s.config()
	cfg.Token = "pending" // or New would fetch one
	cli, err := clientv3.New(cfg)
	if err == nil {
		cli.Token, cli.Username, cli.Password = "", name, password
	}
	return cli, err
}

func (s *Server) config() clientv3.Config {
	return clientv3.Config{
		Endpoints: []string{"fake:2379"}, DialTimeout: 3 * time.Second,
		DialKeepAliveTime: 10 * time.Second, DialKeepAliveTimeout: 3 * time.Second,
		MaxUnaryRetries: 5, BackoffWaitBetween: 50 * time.Millisecond, Logger: zap.NewNop(),
		DialOptions: []grpc.DialOption{
			grpc.WithNoProxy(), grpc.WithContextDialer(s.net.Dial), etcdlink.LoginOnce(),
			grpc.WithChainStreamInterceptor(withoutRetries),
			grpc.WithConnectParams(grpc.ConnectParams{
				Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 2 * time.Second},
				MinConnectTimeout: 3 * time.Second,
			}),
		},
	}
}

// withoutRetries ends gRPC's own retries of a stream once it is open. In a retry gRPC waits for a connection with the stream's
// mutex locked; when somebody else wants that, simulated time stands still for good: a goroutine that waits for a mutex
// counts as one that goes on.
func withoutRetries(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	s, err := open(ctx, desc, cc, method, opts...)
	if err == nil {
		s.Context() // that is what it does
	}
	return s, err
}
