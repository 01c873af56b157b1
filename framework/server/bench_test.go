package server_test

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/newsvc/newsvc/framework/server"
	userv1 "github.com/newsvc/newsvc/proto/user/v1"
)

// BenchmarkCall measures whole calls, client and server in one process, against a server of grpc-go alone and one of ours
// with its default chain. The difference in allocations is what the chain costs.
func BenchmarkCall(b *testing.B) {
	b.Run("bare", func(b *testing.B) {
		lis, err := new(net.ListenConfig).Listen(b.Context(), "tcp", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		g := grpc.NewServer()
		userv1.RegisterUserServiceServer(g, users{})
		served := make(chan error, 1)
		go func() { served <- g.Serve(lis) }()
		callRepeatedly(b, lis.Addr().String())
		g.Stop()
		<-served
	})
	b.Run("chain", func(b *testing.B) {
		s, err := server.New(params())
		if err != nil {
			b.Fatal(err)
		}
		userv1.RegisterUserServiceServer(s, users{})
		if err := s.Listen(b.Context()); err != nil {
			b.Fatal(err)
		}
		if err := s.Start(); err != nil {
			b.Fatal(err)
		}
		callRepeatedly(b, s.Addr())
		if err := s.Stop(context.Background(), 0); err != nil {
			b.Fatal(err)
		}
	})
}

func callRepeatedly(b *testing.B, addr string) {
	b.Helper()
	cc, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithAuthority("echo-service"))
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = cc.Close() }()
	client := userv1.NewUserServiceClient(cc)
	ctx, cancel := context.WithTimeout(b.Context(), 50*time.Second)
	defer cancel()
	req := &userv1.GetUserRequest{Id: strings.Repeat("x", 60)}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := client.GetUser(ctx, req); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkServerStream measures whole server streams of one message. A handler runs in a goroutine of its own beside
// gRPC's; "bare" has no such thing.
func BenchmarkServerStream(b *testing.B) {
	one := &echo{watch: func(ss grpc.ServerStream) error { return ss.SendMsg(wrapperspb.String("x")) }}
	b.Run("bare", func(b *testing.B) {
		lis, err := new(net.ListenConfig).Listen(b.Context(), "tcp", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		g := grpc.NewServer()
		g.RegisterService(one.desc(), nil)
		served := make(chan error, 1)
		go func() { served <- g.Serve(lis) }()
		watchRepeatedly(b, lis.Addr().String())
		g.Stop()
		<-served
	})
	b.Run("chain", func(b *testing.B) {
		s, err := server.New(params())
		if err != nil {
			b.Fatal(err)
		}
		s.RegisterService(one.desc(), nil)
		if err := s.Listen(b.Context()); err != nil {
			b.Fatal(err)
		}
		if err := s.Start(); err != nil {
			b.Fatal(err)
		}
		watchRepeatedly(b, s.Addr())
		if err := s.Stop(context.Background(), 0); err != nil {
			b.Fatal(err)
		}
	})
}

func watchRepeatedly(b *testing.B, addr string) {
	b.Helper()
	cc, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithAuthority("echo-service"))
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = cc.Close() }()
	ctx, cancel := context.WithTimeout(b.Context(), 50*time.Second)
	defer cancel()
	req, resp := wrapperspb.String("x"), new(wrapperspb.StringValue)
	b.ReportAllocs()
	for b.Loop() {
		cs, err := cc.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, watchMethod)
		if err != nil {
			b.Fatal(err)
		}
		if err := errors.Join(cs.SendMsg(req), cs.CloseSend(), cs.RecvMsg(resp)); err != nil {
			b.Fatal(err)
		}
		if err := cs.RecvMsg(resp); !errors.Is(err, io.EOF) {
			b.Fatal(err)
		}
	}
}
