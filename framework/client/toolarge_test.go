package client_test

import (
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/newsvc/newsvc/framework/client"
)

func TestARequestThatIsTooLargeNamesTheServersKey(t *testing.T) {
	t.Parallel()
	for ours, want := range map[int][]string{
		4 << 20: {`the request is larger than "user-service" takes: raise server.limits.max_recv_bytes there`, "vs. 100)"},
		100:     {`server.limits.max_recv_bytes of "user-service" for the one, clients.user-service.max_recv_bytes for the other`, "vs. 100)"},
	} {
		s := startServer(t, "127.0.0.1:0", nil, grpc.MaxRecvMsgSize(100))
		c := connect(t, newRegistry(s.addr), func(p *client.Policy) { p.MaxRecvBytes = ours })
		err := c.Invoke(t.Context(), methodPut, wrapperspb.String(strings.Repeat("x", 200)), new(wrapperspb.StringValue))
		wantCode(t, err, codes.ResourceExhausted)
		for _, part := range want {
			if text := status.Convert(err).Message(); !strings.Contains(text, part) {
				t.Errorf("the error is %q, want %q in it", text, part)
			}
		}
	}
}
