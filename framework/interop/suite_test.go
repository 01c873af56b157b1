package interop_test

import (
	"context"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/interop"
	testpb "google.golang.org/grpc/interop/grpc_testing"

	"github.com/newsvc/newsvc/framework/client"
)

// suiteCase is one case of the suite. It panics with a verdict when it fails.
type suiteCase struct {
	name   string
	policy func(*client.Policy) // nil: the default one
	run    func(ctx context.Context, conn grpc.ClientConnInterface)
}

// call is a case that needs the test service's client only.
func call(name string, do func(context.Context, testpb.TestServiceClient, ...grpc.CallOption)) suiteCase {
	return suiteCase{name: name, run: func(ctx context.Context, conn grpc.ClientConnInterface) {
		do(ctx, testpb.NewTestServiceClient(conn))
	}}
}

func suite() []suiteCase {
	return []suiteCase{
		call("empty_unary", interop.DoEmptyUnaryCall),
		call("large_unary", interop.DoLargeUnaryCall),
		call("client_streaming", interop.DoClientStreaming),
		call("server_streaming", interop.DoServerStreaming),
		call("ping_pong", interop.DoPingPong),
		call("empty_stream", interop.DoEmptyStream),
		call("timeout_on_sleeping_server", interop.DoTimeoutOnSleepingServer),
		call("cancel_after_begin", interop.DoCancelAfterBegin),
		call("cancel_after_first_response", interop.DoCancelAfterFirstResponse),
		call("custom_metadata", interop.DoCustomMetadata),
		call("status_code_and_message", interop.DoStatusCodeAndMessage),
		call("special_status_message", interop.DoSpecialStatusMessage),
		{name: "unimplemented_method", run: func(ctx context.Context, conn grpc.ClientConnInterface) {
			withShell(conn, func(cc *grpc.ClientConn) { interop.DoUnimplementedMethod(ctx, cc) })
		}},
		{name: "unimplemented_service", run: func(ctx context.Context, conn grpc.ClientConnInterface) {
			interop.DoUnimplementedService(ctx, testpb.NewUnimplementedServiceClient(conn))
		}},
		{name: "pick_first_unary", policy: func(p *client.Policy) { p.Balancer = client.PickFirst }, run: func(ctx context.Context, conn grpc.ClientConnInterface) {
			interop.DoPickFirstUnary(ctx, testpb.NewTestServiceClient(conn))
		}},
		{name: "rpc_soak", run: func(ctx context.Context, conn grpc.ClientConnInterface) {
			withShell(conn, func(cc *grpc.ClientConn) {
				interop.DoSoakTest(ctx, soak(func() (*grpc.ClientConn, func()) { return cc, func() {} }))
			})
		}},
	}
}

// soak is a short one: the suite waits MinTimeBetweenRPCs after each call.
func soak(channel func() (*grpc.ClientConn, func())) interop.SoakTestConfig {
	return interop.SoakTestConfig{
		RequestSize: 271828, ResponseSize: 314159, PerIterationMaxAcceptableLatency: 5 * time.Second, MinTimeBetweenRPCs: time.Millisecond,
		OverallTimeout: 30 * time.Second, ServerAddr: callee, NumWorkers: 4, Iterations: 40, ChannelForTest: channel,
	}
}

func withShell(conn grpc.ClientConnInterface, run func(*grpc.ClientConn)) {
	cc, err := shell(conn)
	if err != nil {
		panic(verdict(err.Error()))
	}
	defer cc.Close()
	run(cc)
}

func TestInteropPlaintext(t *testing.T) {
	t.Parallel()
	runSuite(t, startLab(t, labOptions{}))
}

func TestInteropMutualTLS(t *testing.T) {
	t.Parallel()
	runSuite(t, startLab(t, labOptions{tls: true}))
}

func runSuite(t *testing.T, l *lab) {
	t.Helper()
	wholeChain(t, l.servers[0])
	shared := l.call(t, nil)
	for _, c := range suite() {
		t.Run(c.name, func(t *testing.T) {
			conn := shared
			if c.policy != nil {
				conn = l.call(t, c.policy)
			}
			if err := outcome(func() { c.run(limit(t), conn) }); err != nil {
				t.Error(err)
			}
		})
	}
	t.Run("channel_soak", func(t *testing.T) {
		ctx := limit(t)
		config := soak(func() (*grpc.ClientConn, func()) {
			cc, err := shell(l.call(t, nil)) // a process of its own for each call
			if err != nil {
				panic(verdict(err.Error()))
			}
			return cc, func() { _ = cc.Close() }
		})
		config.NumWorkers, config.Iterations = 1, 8
		if err := outcome(func() { interop.DoSoakTest(ctx, config) }); err != nil {
			t.Error(err)
		}
	})
}
