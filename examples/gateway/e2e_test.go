package main

import (
	"net/http"
	"testing"

	"google.golang.org/grpc"

	"github.com/newsvc/newsvc/framework/apptest"
	userv1 "github.com/newsvc/newsvc/proto/user/v1"
)

// TestAnswersHTTP starts the gateway as main does beside a real etcd, in which it finds a user-service by its name, and asks
// it over HTTP. The real user-service takes the place of the fake in examples/gateway_test.go.
func TestAnswersHTTP(t *testing.T) {
	t.Parallel()
	apps := apptest.Start(t, apptest.WithEtcd(),
		apptest.Fake("user-service", func(r grpc.ServiceRegistrar) { userv1.RegisterUserServiceServer(r, &moody{get: well}) }),
		apptest.Service("gateway", edge()...),
	)
	if at := apps.Registered("user-service"); len(at) != 1 {
		t.Fatalf("%q are registered as user-service, want one address", at)
	}
	if code, body := send(t, http.MethodGet, apps.HTTP("gateway")+"/v1/users/7", ""); code != http.StatusOK || body == "" {
		t.Errorf("status %d, %q; want the user", code, body)
	}

	// It serves no gRPC, so nobody is to find it by its name.
	if at := apps.Registered("gateway"); len(at) != 0 {
		t.Errorf("%q are registered, want none", at)
	}
	apps.Stop("gateway")
}
