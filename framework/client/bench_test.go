package client_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/newsvc/newsvc/framework/client"
)

// BenchmarkUnary compares a call through the factory with calls through a plain grpc.ClientConn, all to the same
// server in this process. The factory bounds every call, and a bounded call costs the server more than one without a
// deadline, so the plain connection is measured with a deadline too.
func BenchmarkUnary(b *testing.B) {
	s := startServer(b, "127.0.0.1:0", nil)
	bare, err := grpc.NewClient(s.addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = bare.Close() })
	factory := connect(b, newRegistry(s.addr), nil)
	for _, arm := range []struct {
		name    string
		conn    grpc.ClientConnInterface
		timeout time.Duration
	}{{"bare", bare, 0}, {"bare with deadline", bare, 5 * time.Second}, {"factory", factory, 0}} {
		b.Run(arm.name, func(b *testing.B) {
			b.ReportAllocs()
			in, out := wrapperspb.String("x"), &wrapperspb.StringValue{}
			for b.Loop() {
				ctx, cancel := context.Background(), context.CancelFunc(nil)
				if arm.timeout > 0 {
					ctx, cancel = context.WithTimeout(ctx, arm.timeout)
				}
				err := arm.conn.Invoke(ctx, methodPut, in, out)
				if cancel != nil {
					cancel()
				}
				if err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkServerStream is the same for a stream of one message.
func BenchmarkServerStream(b *testing.B) {
	s := startServer(b, "127.0.0.1:0", nil)
	bare, err := grpc.NewClient(s.addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = bare.Close() })
	for name, c := range map[string]grpc.ClientConnInterface{"bare": bare, "factory": connect(b, newRegistry(s.addr), nil)} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			out := &wrapperspb.StringValue{}
			for b.Loop() {
				stream, err := list(b.Context(), c)
				for err == nil {
					err = stream.RecvMsg(out)
				}
			}
		})
	}
}

// BenchmarkEjection shows what it costs that instances are watched: calls to five servers, with ejection and without.
func BenchmarkEjection(b *testing.B) {
	var addrs []string
	for range 5 {
		addrs = append(addrs, startServer(b, "127.0.0.1:0", nil).addr)
	}
	for _, on := range []bool{false, true} {
		c := connect(b, newRegistry(addrs...), func(p *client.Policy) { p.Ejection.Enabled = on })
		b.Run(fmt.Sprintf("enabled=%t", on), func(b *testing.B) {
			b.ReportAllocs()
			in, out := wrapperspb.String("x"), &wrapperspb.StringValue{}
			for b.Loop() {
				if err := c.Invoke(b.Context(), methodPut, in, out); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkHedging shows what it costs that a call may be hedged: calls that are answered in time.
func BenchmarkHedging(b *testing.B) {
	addrs := []string{startServer(b, "127.0.0.1:0", nil).addr, startServer(b, "127.0.0.1:0", nil).addr}
	for _, delay := range []time.Duration{0, time.Second} {
		c := connect(b, newRegistry(addrs...), func(p *client.Policy) { p.Hedging.Delay = delay })
		b.Run(fmt.Sprintf("delay=%v", delay), func(b *testing.B) {
			b.ReportAllocs()
			in, out := wrapperspb.String("x"), &wrapperspb.StringValue{}
			for b.Loop() {
				if err := c.Invoke(b.Context(), methodGet, in, out); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
