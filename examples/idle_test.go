package examples_test

import (
	"context"
	"net"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/newsvc/newsvc/framework/client"
	userv1 "github.com/newsvc/newsvc/proto/user/v1"
)

// quiet is a user service on a plain gRPC server whose watches are silent until they are told to speak.
type quiet struct {
	userv1.UnimplementedUserServiceServer
	speak chan struct{}
}

func (q quiet) WatchUsers(_ *userv1.WatchUsersRequest, stream grpc.ServerStreamingServer[userv1.WatchUsersResponse]) error {
	if err := stream.Send(&userv1.WatchUsersResponse{Kind: userv1.WatchUsersResponse_KIND_SYNC}); err != nil {
		return err
	}
	select {
	case <-q.speak:
		return stream.Send(&userv1.WatchUsersResponse{Kind: userv1.WatchUsersResponse_KIND_CREATED, User: &userv1.User{Id: "1"}})
	case <-stream.Context().Done():
		return stream.Context().Err()
	}
}

func TestAnIdleStreamToAPlainServerSurvivesAMinute(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("it takes a minute")
	}
	ctx := within(t, 90*time.Second)
	var lc net.ListenConfig
	lis, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	speak := make(chan struct{})
	srv := grpc.NewServer() // nothing of ours: its own idea of how often a client may ping
	userv1.RegisterUserServiceServer(srv, quiet{speak: speak})
	served := make(chan error, 1)
	go func() { served <- srv.Serve(lis) }()
	t.Cleanup(func() {
		srv.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	policy := client.DefaultPolicy()
	policy.Target = "static:///" + lis.Addr().String()
	f, err := client.NewFactory(client.Params{Caller: "caller", Default: policy})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Close(context.WithoutCancel(ctx)); err != nil {
			t.Error(err)
		}
	})
	conn, err := f.Conn(userService)
	if err != nil {
		t.Fatal(err)
	}
	streamCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := userv1.NewUserServiceClient(conn).WatchUsers(streamCtx, &userv1.WatchUsersRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if res, err := stream.Recv(); err != nil || res.GetKind() != userv1.WatchUsersResponse_KIND_SYNC {
		t.Fatalf("first message %v, %v; want the sync", res, err)
	}
	began := time.Now()
	wake := time.AfterFunc(time.Minute, func() { close(speak) })
	defer wake.Stop()
	res, err := stream.Recv()
	if err != nil || res.GetUser().GetId() != "1" {
		t.Fatalf("after %s of silence: %v, %v; want the change", time.Since(began).Round(time.Second), res, err)
	}
	if silent := time.Since(began); silent < time.Minute {
		t.Errorf("the stream was silent for %s only", silent)
	}
}
