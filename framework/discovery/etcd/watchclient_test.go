package etcd_test

import (
	"context"
	"net"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	"github.com/newsvc/newsvc/framework/discovery/discoverytest"
	"github.com/newsvc/newsvc/framework/discovery/etcd"
)

// impolite is an etcd that ends each watch and answers progress requests that were under way right after that.
type impolite struct {
	pb.UnimplementedWatchServer
	pb.UnimplementedKVServer
	watches chan struct{} // gets one for each watch
}

func (s *impolite) Range(context.Context, *pb.RangeRequest) (*pb.RangeResponse, error) {
	value := discoverytest.Instance("user", addr1)
	return &pb.RangeResponse{Header: &pb.ResponseHeader{Revision: 7}, Kvs: []*mvccpb.KeyValue{
		{Key: []byte("/newsvc/default/user/" + value.Addr), Value: []byte(value.Addr), CreateRevision: 3, ModRevision: 3, Version: 1},
	}, Count: 1}, nil
}

func (s *impolite) Watch(w pb.Watch_WatchServer) error {
	if _, err := w.Recv(); err != nil {
		return err
	}
	header := &pb.ResponseHeader{Revision: 7}
	answers := []*pb.WatchResponse{{Header: header, Created: true}, {Header: header, Canceled: true, CancelReason: "a reason"}}
	for range 20 {
		answers = append(answers, &pb.WatchResponse{Header: header, WatchId: clientv3.InvalidWatchID})
	}
	for _, r := range answers {
		if err := w.Send(r); err != nil {
			return err
		}
	}
	select {
	case s.watches <- struct{}{}:
	case <-w.Context().Done():
	}
	<-w.Context().Done()
	return nil
}

func TestProgressOfAWatchThatHasEndedHarmsNobody(t *testing.T) {
	t.Parallel()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &impolite{watches: make(chan struct{})}
	srv := grpc.NewServer()
	pb.RegisterWatchServer(srv, s)
	pb.RegisterKVServer(srv, s)
	served := make(chan error, 1)
	go func() { served <- srv.Serve(lis) }()
	defer func() {
		srv.Stop()
		<-served
	}()
	cli, err := clientv3.New(clientv3.Config{Endpoints: []string{lis.Addr().String()}, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	defer cli.Close()
	opt := etcd.Options{}
	opt.Timing.RetryMax = 2 * time.Millisecond
	src, err := etcd.NewSource(cli, opt)
	if err != nil {
		t.Fatal(err)
	}
	w := discoverytest.NewWatcher(t, src, "user", nil)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for range 20 { // clientv3 panics in one of a few, and with it this process
		select {
		case <-s.watches:
		case <-ctx.Done():
			t.Fatal("it does not watch again")
		}
	}
	_ = w.Stop(nil)
}
