package interop_test

import (
	"context"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"

	"github.com/newsvc/newsvc/framework/client"
	"github.com/newsvc/newsvc/framework/server"
)

const kilobyte = 1024

// ask makes a unary call and, separately, one on a stream, with messages of these sizes.
func ask(t *testing.T, c *caller, request, response int) (unary, stream error) {
	t.Helper()
	cl := testpb.NewTestServiceClient(c)
	_, unary = cl.UnaryCall(limit(t), &testpb.SimpleRequest{Payload: payload(request), ResponseSize: int32(response)})
	s, err := cl.FullDuplexCall(limit(t))
	if err != nil {
		t.Fatal(err)
	}
	stream = s.Send(&testpb.StreamingOutputCallRequest{
		Payload: payload(request), ResponseParameters: []*testpb.ResponseParameters{{Size: int32(response)}},
	})
	if _, err := s.Recv(); err != nil {
		stream = err // says why sending failed
	}
	_ = s.CloseSend()
	for err == nil {
		_, err = s.Recv() // to its end, so that it is not left behind
	}
	return unary, stream
}

// Both sides bound what they take. A compressed message counts by what it is when it is unpacked.
func TestMessagesAboveALimitAreRefused(t *testing.T) {
	t.Parallel()
	const limited, fits, above = 100 * kilobyte, 90 * kilobyte, 110 * kilobyte
	for name, tc := range map[string]struct {
		server            func(*server.Limits)
		policy            func(*client.Policy)
		request, response int
		runs              int64 // of the unary call's handler
		ok                bool
	}{
		"an answer that fits":            {nil, func(p *client.Policy) { p.MaxRecvBytes = limited }, 0, fits, 1, true},
		"an answer above max_recv_bytes": {nil, func(p *client.Policy) { p.MaxRecvBytes = limited }, 0, above, 1, false},
		"a compressed answer above it":   {nil, func(p *client.Policy) { p.MaxRecvBytes, p.Compression = limited, client.Gzip }, 0, above, 1, false},
		"a request that fits":            {nil, func(p *client.Policy) { p.MaxSendBytes = limited }, fits, 0, 1, true},
		"a request above max_send_bytes": {nil, func(p *client.Policy) { p.MaxSendBytes = limited }, above, 0, 0, false},
		"a request that fits the server": {func(l *server.Limits) { l.MaxRecvBytes = limited }, nil, fits, 0, 1, true},
		"a request above the server's":   {func(l *server.Limits) { l.MaxRecvBytes = limited }, nil, above, 0, 0, false},
		"a compressed one above the server's": {
			func(l *server.Limits) { l.MaxRecvBytes = limited }, func(p *client.Policy) { p.Compression = client.Gzip }, above, 0, 0, false,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var runs atomic.Int64
			count := server.After(server.SlotValidation, server.Interceptor{
				Name: "count",
				Unary: func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
					runs.Add(1)
					return h(ctx, req)
				},
			})
			c := startLab(t, labOptions{options: []server.Option{count}, limits: tc.server}).call(t, tc.policy)
			unary, stream := ask(t, c, tc.request, tc.response)
			for kind, err := range map[string]error{"unary": unary, "stream": stream} {
				if tc.ok && err != nil || !tc.ok && status.Code(err) != codes.ResourceExhausted {
					t.Errorf("%s: %v", kind, err)
				}
			}
			if runs.Load() != tc.runs {
				t.Errorf("the handler ran %d times, want %d", runs.Load(), tc.runs)
			}
		})
	}
}
