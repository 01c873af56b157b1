package client_test

import (
	"context"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/newsvc/newsvc/framework/client"
)

// With room for one call, what is not given back is missed by the next.
func TestNoPlaceInFlightIsLost(t *testing.T) {
	t.Parallel()
	s := startServer(t, "127.0.0.1:0", func(s *server, method, in string, stream grpc.ServerStream) error {
		if method == methodPut {
			return answerAddr(s, method, in, stream)
		}
		return hang(s, method, in, stream)
	})
	panics := client.Interceptor{Unary: func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		err := invoke(ctx, method, req, reply, cc, opts...)
		if ctx.Value(t) != nil {
			panic("an interceptor of the service")
		}
		return err
	}}
	p := client.DefaultPolicy()
	p.Breaker.MaxInFlight = 1
	c := mustConn(t, newFactoryOf(t, client.Params{
		Caller: "caller", Resolver: newRegistry(s.addr), Default: p, Interceptors: func(string) []client.Interceptor { return []client.Interceptor{panics} },
	}), "user-service")
	ready(t, c)
	for what, ends := range map[string]func(ctx context.Context){
		"a call that is cancelled": func(ctx context.Context) { _, _ = call(ctx, c, methodGet) },
		"a call in a panicking chain": func(ctx context.Context) {
			defer func() { _ = recover() }()
			_, _ = call(context.WithValue(ctx, t, true), c, methodPut)
		},
		"a stream that nobody reads":        func(ctx context.Context) { _, _ = list(ctx, c) },
		"a stream that nothing was sent on": func(ctx context.Context) { _, _ = c.NewStream(ctx, chatDesc, methodChat) },
	} {
		for range 5 {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
			ends(ctx)
			cancel()
			eventually(t, what+" has ended", func() bool { return c.State().RunningCalls == 0 })
			eventually(t, "there is room after "+what, func() bool {
				_, err := call(t.Context(), c, methodPut)
				return err == nil
			})
		}
	}
}
