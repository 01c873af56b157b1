package main

import (
	"context"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/newsvc/newsvc/framework/apptest"
	userv1 "github.com/newsvc/newsvc/proto/user/v1"
)

// start runs the service as main does, with users in memory.
func start(t *testing.T, opts ...apptest.Option) (*apptest.Apps, userv1.UserServiceClient) {
	t.Helper()
	apps := apptest.Start(t, append(opts, apptest.Service("user-service", service()...).
		Set("user.store", "memory").Set("server.drain.soft", "200ms"))...)
	return apps, userv1.NewUserServiceClient(apps.Conn("user-service"))
}

func create(t *testing.T, users userv1.UserServiceClient, email string) *userv1.User {
	t.Helper()
	res, err := users.CreateUser(t.Context(), &userv1.CreateUserRequest{User: &userv1.User{Email: email}})
	if err != nil {
		t.Fatal(err)
	}
	return res.GetUser()
}

func TestTheServiceIsRegisteredAndAnswersByName(t *testing.T) {
	t.Parallel()
	apps, users := start(t)
	if n := len(apps.Registered("user-service")); n != 1 {
		t.Errorf("%d instances are registered, want 1", n)
	}
	made := create(t, users, "ada@example.com")
	got, err := users.GetUser(t.Context(), &userv1.GetUserRequest{Id: made.GetId()})
	if err != nil || got.GetUser().GetEmail() != "ada@example.com" {
		t.Errorf("GetUser answers %v, %v; want the user that was created", got, err)
	}
}

func TestRequestsAreValidatedBeforeTheHandler(t *testing.T) {
	t.Parallel()
	_, users := start(t)
	_, err := users.CreateUser(t.Context(), &userv1.CreateUserRequest{User: &userv1.User{Email: "no address"}})
	if status.Code(err) != codes.InvalidArgument {
		t.Errorf("CreateUser of an invalid e-mail answers %v, want INVALID_ARGUMENT", err)
	}
}

func TestAnOpenWatchIsEndedByTheStopAndSaysWhy(t *testing.T) {
	t.Parallel()
	apps, users := start(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	watch, err := users.WatchUsers(ctx, &userv1.WatchUsersRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if res, err := watch.Recv(); err != nil || res.GetKind() != userv1.WatchUsersResponse_KIND_SYNC {
		t.Fatalf("first message %v, %v; want the sync", res, err)
	}
	create(t, users, "ada@example.com")
	if res, err := watch.Recv(); err != nil || res.GetKind() != userv1.WatchUsersResponse_KIND_CREATED {
		t.Fatalf("second message %v, %v; want the creation", res, err)
	}
	apps.Stop("user-service") // fails the test when something had to be cut
	if _, err := watch.Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("the watch ends with %v, want UNAVAILABLE: resume elsewhere", err)
	}
}
