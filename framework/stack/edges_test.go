package stack_test

import (
	"testing"

	testpb "google.golang.org/grpc/interop/grpc_testing"

	"github.com/newsvc/newsvc/framework/auth"
	"github.com/newsvc/newsvc/framework/server"
)

// The subject of a token is what its issuer lets a person choose; it must not take somebody else's share.
func TestASubjectDoesNotUseUpTheRateOfAnAddress(t *testing.T) {
	t.Parallel()
	p, _, _ := params(t)
	p.Config.Server.RateLimits = map[string]server.RateLimit{"*": {Rate: 0.0001, Burst: 1, PerCaller: true}}
	token := guarded(t, &p)
	p.Config.Auth.Rules = []auth.Rule{{Methods: []string{"grpc.testing.TestService/EmptyCall"}, Anyone: true}}
	s := build(t, p)
	up(t, s)
	addr, _, _ := s.Addresses()
	c := testpb.NewTestServiceClient(reach(t, addr))
	if _, err := c.EmptyCall(bearing(t, token(map[string]any{"sub": "127.0.0.1"})), &testpb.Empty{}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.EmptyCall(limit(t), &testpb.Empty{}); err != nil {
		t.Errorf("who calls from 127.0.0.1 pays for who calls himself 127.0.0.1: %v", err)
	}
}
