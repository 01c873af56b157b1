package server_test

import (
	"context"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

func TestD02EndlessStreamNeitherOutlastsTheBudgetNorHarmsOthers(t *testing.T) {
	t.Parallel()
	entered, release, never := make(chan struct{}), make(chan struct{}), make(chan struct{})
	s := start(t, params(), &echo{
		call: func(_ context.Context, in *wrapperspb.StringValue) (*wrapperspb.StringValue, error) {
			close(entered)
			<-release
			return in, nil
		},
		chat: func(ss grpc.ServerStream) error { // it listens to nobody
			if err := ss.SendMsg(wrapperspb.String("hello")); err != nil {
				return err
			}
			<-never
			return nil
		},
	})
	defer close(never)
	cc := dial(t, s)
	cs := open(t, cc, bidiMethod)
	answered := make(chan error, 1)
	go func() { _, err := invoke(t, cc, "x"); answered <- err }()
	receive(t, "the call", entered)
	const hard = 1500 * time.Millisecond
	begin := time.Now()
	stopped := make(chan error, 1)
	go func() { stopped <- stop(t, s, 50*time.Millisecond, hard) }()
	receive(t, "the drain signal", s.DrainSignal()(t.Context()))
	if err := cs.RecvMsg(new(wrapperspb.StringValue)); status.Code(err) != codes.Unavailable {
		t.Errorf("the stream ended with %v, want UNAVAILABLE", err)
	}
	close(release)
	if err := receive(t, "the answer", answered); err != nil {
		t.Errorf("a call beside the stream failed: %v", err)
	}
	_ = receive(t, "the stop", stopped) // it names the handler that still runs
	if took := time.Since(begin); took > hard+2*time.Second {
		t.Errorf("Stop took %s with a budget of %s and one second more", took, hard)
	}
}

// Up to v1.84 gRPC's Stop waited for a GracefulStop that waited for a handler.
func TestD04StopEndsAGracefulStop(t *testing.T) {
	t.Parallel()
	version := strings.SplitN(grpc.Version, ".", 3)
	if minor, err := strconv.Atoi(version[1]); err != nil || version[0] != "1" || minor < 85 {
		t.Errorf("gRPC is %s, want v1.85.0 or later", grpc.Version)
	}
	entered, release := make(chan struct{}), make(chan struct{})
	e := &echo{call: func(context.Context, *wrapperspb.StringValue) (*wrapperspb.StringValue, error) {
		close(entered)
		<-release // whatever its context says
		return nil, nil
	}}
	gs := grpc.NewServer(grpc.UnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
		return h(ctx, req)
	}))
	gs.RegisterService(e.desc(), nil)
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	defer wg.Wait() // GracefulStop itself waits for the handler
	defer close(release)
	wg.Go(func() { _ = gs.Serve(l) })
	cc, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cc.Close() })
	wg.Go(func() { _, _ = invoke(t, cc, "x") })
	receive(t, "the call", entered)
	wg.Go(gs.GracefulStop)
	stopped := make(chan struct{})
	wg.Go(func() { gs.Stop(); close(stopped) })
	receive(t, "the end of Stop", stopped)
}
