package apptest_test

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/newsvc/newsvc/framework/apptest"
	probev1 "github.com/newsvc/newsvc/proto/probe/v1"
)

// refuser fails its first calls.
type refuser struct {
	probev1.UnimplementedProbeServiceServer
	fail  atomic.Int32
	calls atomic.Int32
}

func (r *refuser) Read(context.Context, *probev1.ReadRequest) (*probev1.ReadResponse, error) {
	if r.calls.Add(1) <= r.fail.Load() {
		return nil, status.Error(codes.Unavailable, "not now")
	}
	return &probev1.ReadResponse{}, nil
}

func (r *refuser) Follow(_ *probev1.FollowRequest, stream grpc.ServerStreamingServer[probev1.FollowResponse]) error {
	if r.calls.Add(1) <= r.fail.Load() {
		return status.Error(codes.Unavailable, "not now")
	}
	return stream.Send(&probev1.FollowResponse{})
}

// Tests and newsvc dev have every answer say who gave it. That must not take away the retries that production makes.
func TestAnAnswerThatNamesItsInstanceIsRetried(t *testing.T) {
	t.Parallel()
	r := &refuser{}
	r.fail.Store(2)
	apps := apptest.Start(t, apptest.Fake("probe-service", func(to grpc.ServiceRegistrar) { probev1.RegisterProbeServiceServer(to, r) }))
	client := probev1.NewProbeServiceClient(apps.Conn("probe-service"))
	var header, trailer metadata.MD
	if _, err := client.Read(t.Context(), &probev1.ReadRequest{}, grpc.Header(&header)); err != nil || r.calls.Load() != 3 {
		t.Errorf("after %d attempts: %v; want the third to succeed", r.calls.Load(), err)
	}
	addr := apps.Instances("probe-service")[0].Addr()
	if got := strings.Join(header.Get("newsvc-instance"), ","); got != addr {
		t.Errorf("the answer names %q, want %q", got, addr)
	}
	r.fail.Store(1 << 20)
	_, err := client.Read(t.Context(), &probev1.ReadRequest{}, grpc.Trailer(&trailer))
	if got := strings.Join(trailer.Get("newsvc-instance"), ","); status.Code(err) != codes.Unavailable || got != addr {
		t.Errorf("%v is from %q, want %q", err, got, addr)
	}
	r.fail.Store(0)
	stream, err := client.Follow(t.Context(), &probev1.FollowRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	if header, err = stream.Header(); err != nil || strings.Join(header.Get("newsvc-instance"), ",") != addr {
		t.Errorf("the stream's header: %v, %v", header, err)
	}
}
