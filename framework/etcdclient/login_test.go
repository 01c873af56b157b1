package etcdclient_test

import (
	"context"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// denier wants a login before everything, and before the login.
type denier struct {
	pb.UnimplementedKVServer
	pb.UnimplementedAuthServer
	err    error
	logins atomic.Int64
}

func (d *denier) Range(context.Context, *pb.RangeRequest) (*pb.RangeResponse, error) {
	return nil, d.err
}

func (d *denier) Authenticate(context.Context, *pb.AuthenticateRequest) (*pb.AuthenticateResponse, error) {
	d.logins.Add(1)
	return nil, d.err
}

// The client of etcd would log in thousands of times a second, each time one call deeper.
func TestALoginThatIsRefusedForWantOfALoginIsNotRepeatedAtOnce(t *testing.T) {
	t.Parallel()
	for _, refusal := range []error{rpctypes.ErrGRPCInvalidAuthToken, rpctypes.ErrGRPCAuthOldRevision, rpctypes.ErrGRPCUserEmpty} {
		t.Run(status.Convert(refusal).Message(), func(t *testing.T) {
			t.Parallel()
			l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			d, srv := &denier{err: refusal}, grpc.NewServer()
			pb.RegisterKVServer(srv, d)
			pb.RegisterAuthServer(srv, d)
			var wg sync.WaitGroup
			wg.Go(func() { _ = srv.Serve(l) })
			t.Cleanup(func() { srv.Stop(); wg.Wait() })
			cfg := config(l.Addr().String())
			cfg.Username, cfg.Password = "svc", "secret"
			cli := newClient(t, cfg, nil)
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			_, err = cli.Get(ctx, "x")
			if status.Code(err) != codes.Unauthenticated || !strings.Contains(err.Error(), status.Convert(refusal).Message()) {
				t.Errorf("the error is %v, want Unauthenticated with etcd's own text", err)
			}
			if n := d.logins.Load(); n < 1 || n > 5 {
				t.Errorf("%d logins in a second of one call, want one, and few at most", n)
			}
		})
	}
}
