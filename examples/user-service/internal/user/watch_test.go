package user_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	userv1 "github.com/newsvc/newsvc/proto/user/v1"
)

const (
	kindSync    = userv1.WatchUsersResponse_KIND_SYNC
	kindCreated = userv1.WatchUsersResponse_KIND_CREATED
	kindUpdated = userv1.WatchUsersResponse_KIND_UPDATED
	kindDeleted = userv1.WatchUsersResponse_KIND_DELETED
)

type watcher = grpc.ServerStreamingClient[userv1.WatchUsersResponse]

func watch(t *testing.T, client userv1.UserServiceClient, token string) watcher {
	t.Helper()
	stream, err := client.WatchUsers(within(t), &userv1.WatchUsersRequest{ResumeToken: token})
	if err != nil {
		t.Fatal(err)
	}
	return stream
}

func receive(t *testing.T, w watcher) *userv1.WatchUsersResponse {
	t.Helper()
	res, err := w.Recv()
	if err != nil {
		t.Fatal(err)
	}
	return res
}

// expect reads one message of a kind about a user.
func expect(t *testing.T, w watcher, kind userv1.WatchUsersResponse_Kind, id string) *userv1.WatchUsersResponse {
	t.Helper()
	res := receive(t, w)
	if res.Kind != kind || res.User.GetId() != id {
		t.Fatalf("got %v of %q, want %v of %q", res.Kind, res.User.GetId(), kind, id)
	}
	if res.ResumeToken == "" {
		t.Errorf("%v carries no resume token", res.Kind)
	}
	return res
}

func TestAWatchShowsEveryKindOfChange(t *testing.T) {
	t.Parallel()
	client := serveMemory(t)
	w := watch(t, client, "")
	expect(t, w, kindSync, "")
	ann := createUser(t, client, "ann")
	if got := expect(t, w, kindCreated, ann.Id); got.User.Email != ann.Email {
		t.Errorf("got %v, want %v", got.User, ann)
	}
	if _, err := client.UpdateUser(within(t), &userv1.UpdateUserRequest{User: &userv1.User{Id: ann.Id, DisplayName: "Annabel"}}); err != nil {
		t.Fatal(err)
	}
	if got := expect(t, w, kindUpdated, ann.Id); got.User.DisplayName != "Annabel" {
		t.Errorf("got %v, want the user after the update", got.User)
	}
	if _, err := client.DeleteUser(within(t), &userv1.DeleteUserRequest{Id: ann.Id}); err != nil {
		t.Fatal(err)
	}
	if got := expect(t, w, kindDeleted, ann.Id); got.User.DisplayName != "Annabel" {
		t.Errorf("got %v, want the user as it was last", got.User)
	}
}

func TestAnUpdateThatChangesNothingIsNotWatched(t *testing.T) {
	t.Parallel()
	client := serveMemory(t)
	ann := createUser(t, client, "ann")
	w := watch(t, client, "")
	expect(t, w, kindSync, "")
	if _, err := client.UpdateUser(within(t), &userv1.UpdateUserRequest{User: &userv1.User{Id: ann.Id, DisplayName: "ann"}}); err != nil {
		t.Fatal(err)
	}
	bob := createUser(t, client, "bob")
	expect(t, w, kindCreated, bob.Id)
}

func TestAWatchResumesOnAnotherReplicaWithoutLossOrRepeat(t *testing.T) {
	t.Parallel()
	cfg := sqliteConfig(t)
	replicas := []userv1.UserServiceClient{serve(t, open(t, cfg)), serve(t, open(t, cfg))}
	w := watch(t, replicas[0], "")
	last := expect(t, w, kindSync, "")
	var ids []string
	for i := range 12 {
		ids = append(ids, createUser(t, replicas[i%2], fmt.Sprint("user", i)).Id)
	}
	// Each message is read from the other replica than the one before: every position is resumed from.
	for i, id := range ids {
		w := watch(t, replicas[i%2], last.ResumeToken)
		sync := expect(t, w, kindSync, "")
		if sync.ResumeToken != last.ResumeToken {
			t.Errorf("resumed at %q instead of %q", sync.ResumeToken, last.ResumeToken)
		}
		last = expect(t, w, kindCreated, id)
	}
	w = watch(t, replicas[0], last.ResumeToken)
	expect(t, w, kindSync, "")
	expect(t, w, kindCreated, createUser(t, replicas[1], "later").Id)
}

func TestAWatchRefusesTokensThatAreNotOurs(t *testing.T) {
	t.Parallel()
	client := serveMemory(t)
	for _, token := range []string{"x", "cjEuYS54", "cjEuLjE", "cjEuYS4tMQ"} {
		_, err := watch(t, client, token).Recv()
		wantInvalid(t, err, "resume_token", "no token of ours")
	}
}

func TestAWatchTellsWhenItsTokenIsTooOld(t *testing.T) {
	t.Parallel()
	client := serveMemory(t) // keeps 5 changes
	old := receive(t, watch(t, client, ""))
	for i := range 6 {
		createUser(t, client, fmt.Sprint("user", i))
	}
	_, err := watch(t, client, old.ResumeToken).Recv()
	d := wantStatus[*errdetails.ErrorInfo](t, err, codes.OutOfRange, "list the users")
	if d.GetReason() != "RESUME_TOKEN_EXPIRED" || d.GetDomain() != "user.v1.UserService" {
		t.Errorf("details %v", d)
	}
}

func TestATokenOfOtherDataIsTooOld(t *testing.T) {
	t.Parallel()
	foreign := receive(t, watch(t, serveMemory(t), ""))
	_, err := watch(t, serveMemory(t), foreign.ResumeToken).Recv()
	wantStatus[*errdetails.ErrorInfo](t, err, codes.OutOfRange, "no longer kept")
}

func TestAWatchEndsWithItsClient(t *testing.T) {
	t.Parallel()
	client := serveMemory(t)
	ctx, cancel := context.WithCancel(within(t))
	defer cancel()
	w, err := client.WatchUsers(ctx, &userv1.WatchUsersRequest{})
	if err != nil {
		t.Fatal(err)
	}
	expect(t, w, kindSync, "")
	cancel()
	if _, err := w.Recv(); status.Code(err) != codes.Canceled {
		t.Errorf("got %v, want Canceled", err)
	}
}

func TestWatchesEndWhenTheServerBeginsToDrain(t *testing.T) {
	t.Parallel()
	drain := make(chan struct{})
	client := serveUntil(t, open(t, sqliteConfig(t)), func(context.Context) <-chan struct{} { return drain })
	var open []watcher
	for range 3 {
		w := watch(t, client, "")
		expect(t, w, kindSync, "")
		open = append(open, w)
	}
	close(drain)
	open = append(open, watch(t, client, "")) // one that comes too late
	for _, w := range open {
		_, err := w.Recv()
		if err == nil {
			_, err = w.Recv() // the late one may have its first message
		}
		const text = "watch users: this instance is shutting down; continue with the last resume_token"
		if status.Code(err) != codes.Unavailable || status.Convert(err).Message() != text {
			t.Errorf("got %v, want Unavailable with %q", err, text)
		}
	}
	createUser(t, client, "ann") // calls are answered as long as they come
}

// drained is a stream whose context the server can end with a cause.
type drained struct {
	grpc.ServerStream
	ctx context.Context
}

func (d drained) Context() context.Context { return d.ctx }

func TestAWatchTellsWhyTheServerEndedIt(t *testing.T) {
	t.Parallel()
	drain := make(chan error)
	client := serve(t, open(t, sqliteConfig(t)), grpc.StreamInterceptor(func(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		ctx, cancel := context.WithCancelCause(stream.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			cancel(<-drain)
		}()
		err := handler(srv, drained{stream, ctx})
		<-done
		return err
	}))
	for name, tt := range map[string]struct {
		cause error
		text  string
	}{
		"any cause is unavailable": {errors.New("server is draining"), "watch users: server is draining; continue with the last resume_token"},
		"a status is passed as is": {status.Error(codes.Unavailable, "moved away"), "moved away"},
	} {
		w := watch(t, client, "")
		expect(t, w, kindSync, "")
		drain <- tt.cause
		if _, err := w.Recv(); status.Code(err) != codes.Unavailable || status.Convert(err).Message() != tt.text {
			t.Errorf("%s: got %v, want Unavailable with %q", name, err, tt.text)
		}
	}
}
