package stack_test

import (
	"testing"

	"google.golang.org/grpc/codes"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"

	"github.com/newsvc/newsvc/framework/server"
)

func TestRateLimitsPerCallerGoByWhoCalls(t *testing.T) {
	t.Parallel()
	p, _, _ := params(t)
	p.Config.Server.RateLimits = map[string]server.RateLimit{"*": {Rate: 0.0001, Burst: 1, PerCaller: true}}
	token := guarded(t, &p)
	s := build(t, p)
	up(t, s)
	addr, _, _ := s.Addresses()
	c := testpb.NewTestServiceClient(reach(t, addr))
	for _, who := range []string{"ann", "bob"} { // from one address
		mine := token(map[string]any{"sub": who})
		if _, err := c.EmptyCall(bearing(t, mine), &testpb.Empty{}); err != nil {
			t.Errorf("the first call of %s: %v", who, err)
		}
		if _, err := c.EmptyCall(bearing(t, mine), &testpb.Empty{}); status.Code(err) != codes.Unavailable {
			t.Errorf("the second call of %s: %v, want a refusal", who, err)
		}
	}
}
