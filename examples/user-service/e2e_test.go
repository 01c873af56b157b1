package main

import (
	"context"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/newsvc/newsvc/framework/apptest"
	userv1 "github.com/newsvc/newsvc/proto/user/v1"
)

// TestCalledByName starts the service as main does beside a real etcd, calls it by its name as other services will,
// and sees it leave the registry when it stops.
func TestCalledByName(t *testing.T) {
	t.Parallel()
	apps := apptest.Start(t, apptest.Service("user-service", service()...).Set("user.store", "memory"), apptest.WithEtcd())
	users := userv1.NewUserServiceClient(apps.Conn("user-service"))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()

	if at := apps.Registered("user-service"); len(at) != 1 {
		t.Fatalf("%q are registered, want one address", at)
	}
	made, err := users.CreateUser(ctx, &userv1.CreateUserRequest{User: &userv1.User{Email: "ada@example.com"}})
	if err != nil {
		t.Fatalf("call CreateUser by name: %v", err)
	}
	got, err := users.GetUser(ctx, &userv1.GetUserRequest{Id: made.GetUser().GetId()})
	if err != nil || got.GetUser().GetEmail() != "ada@example.com" {
		t.Errorf("GetUser answers %v, %v; want the user that was created", got, err)
	}

	// The rule is in the proto file; the server checks it before the method is called.
	_, err = users.CreateUser(ctx, &userv1.CreateUserRequest{User: &userv1.User{Email: "no address"}})
	if status.Code(err) != codes.InvalidArgument {
		t.Errorf("an invalid e-mail gives %v, want InvalidArgument", err)
	}

	apps.Stop("user-service")
	if left := apps.Registered("user-service"); len(left) != 0 {
		t.Errorf("%q are still registered after the stop", left)
	}
}
