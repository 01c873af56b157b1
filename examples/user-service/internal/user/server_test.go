package user_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/newsvc/newsvc/examples/user-service/internal/user"
	userv1 "github.com/newsvc/newsvc/proto/user/v1"
)

// never is the drain of a server that does not stop.
func never(context.Context) <-chan struct{} { return nil }

// serve runs the domain on a plain grpc.Server, which is all it needs.
func serve(t *testing.T, store user.Store, opts ...grpc.ServerOption) userv1.UserServiceClient {
	t.Helper()
	return serveUntil(t, store, never, opts...)
}

func serveUntil(t *testing.T, store user.Store, draining func(context.Context) <-chan struct{}, opts ...grpc.ServerOption) userv1.UserServiceClient {
	t.Helper()
	listener := bufconn.Listen(1 << 16)
	server := grpc.NewServer(opts...)
	userv1.RegisterUserServiceServer(server, user.NewServer(store, draining))
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	conn, err := grpc.NewClient("passthrough:///user-service",
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
		server.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return userv1.NewUserServiceClient(conn)
}

func serveMemory(t *testing.T) userv1.UserServiceClient {
	t.Helper()
	return serve(t, open(t, user.Config{Store: user.StoreMemory, BusyTimeout: 1e9, PollInterval: 1e9, KeepChanges: 5}))
}

func createUser(t *testing.T, client userv1.UserServiceClient, name string) *userv1.User {
	t.Helper()
	res, err := client.CreateUser(within(t), &userv1.CreateUserRequest{User: &userv1.User{Email: name + "@example.com", DisplayName: name}})
	if err != nil {
		t.Fatal(err)
	}
	return res.User
}

// wantStatus checks code and text, and answers the details of type D.
func wantStatus[D any](t *testing.T, err error, code codes.Code, text string) (detail D) {
	t.Helper()
	st := status.Convert(err)
	if st.Code() != code || !strings.Contains(st.Message(), text) {
		t.Errorf("got %v %q, want %v with %q", st.Code(), st.Message(), code, text)
	}
	for _, d := range st.Details() {
		if d, ok := d.(D); ok {
			return d
		}
	}
	t.Errorf("details %v contain no %T", st.Details(), detail)
	return detail
}

func wantInvalid(t *testing.T, err error, field, text string) {
	t.Helper()
	bad := wantStatus[*errdetails.BadRequest](t, err, codes.InvalidArgument, text)
	if got := bad.GetFieldViolations(); len(got) != 1 || got[0].GetField() != field {
		t.Errorf("violations %v, want one of %q", got, field)
	}
}

func TestACreatedUserHasIDAndTimesAndCanBeGot(t *testing.T) {
	t.Parallel()
	client := serveMemory(t)
	created := createUser(t, client, "ann")
	if created.Id == "" || !created.CreateTime.IsValid() || created.CreateTime.AsTime().IsZero() {
		t.Errorf("id or time is missing: %v", created)
	}
	got, err := client.GetUser(within(t), &userv1.GetUserRequest{Id: created.Id})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(created, got.User, protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
}

func TestCreateIgnoresWhatTheServiceChooses(t *testing.T) {
	t.Parallel()
	client := serveMemory(t)
	res, err := client.CreateUser(within(t), &userv1.CreateUserRequest{User: &userv1.User{Id: "mine", Email: "ann@example.com"}})
	if err != nil {
		t.Fatal(err)
	}
	if res.User.Id == "mine" {
		t.Error("the caller chose the id")
	}
}

func TestCreateRefusesIncompleteUsers(t *testing.T) {
	t.Parallel()
	client := serveMemory(t)
	_, err := client.CreateUser(within(t), &userv1.CreateUserRequest{})
	wantInvalid(t, err, "user", "missing")
	_, err = client.CreateUser(within(t), &userv1.CreateUserRequest{User: &userv1.User{DisplayName: "Ann"}})
	wantInvalid(t, err, "user.email", "needs an email")
}

func TestADuplicateEmailAlreadyExists(t *testing.T) {
	t.Parallel()
	client := serveMemory(t)
	createUser(t, client, "ann")
	bob := createUser(t, client, "bob")
	_, err := client.CreateUser(within(t), &userv1.CreateUserRequest{User: &userv1.User{Email: "ANN@example.com"}})
	if d := wantStatus[*errdetails.ResourceInfo](t, err, codes.AlreadyExists, `"ANN@example.com"`); d.GetResourceType() != "user.v1.User" || d.GetResourceName() != "ANN@example.com" {
		t.Errorf("details %v", d)
	}
	_, err = client.UpdateUser(within(t), &userv1.UpdateUserRequest{User: &userv1.User{Id: bob.Id, Email: "ann@example.com"}})
	wantStatus[*errdetails.ResourceInfo](t, err, codes.AlreadyExists, `"ann@example.com"`)
}

func TestAnUnknownIDIsNotFound(t *testing.T) {
	t.Parallel()
	client := serveMemory(t)
	_, get := client.GetUser(within(t), &userv1.GetUserRequest{Id: "nobody"})
	_, update := client.UpdateUser(within(t), &userv1.UpdateUserRequest{User: &userv1.User{Id: "nobody", DisplayName: "x"}})
	_, remove := client.DeleteUser(within(t), &userv1.DeleteUserRequest{Id: "nobody"})
	for what, err := range map[string]error{"get user": get, "update user": update, "delete user": remove} {
		if d := wantStatus[*errdetails.ResourceInfo](t, err, codes.NotFound, what+`: no user has the id "nobody"`); d.GetResourceName() != "nobody" {
			t.Errorf("%s: details %v", what, d)
		}
	}
}

func TestADeletedUserIsGone(t *testing.T) {
	t.Parallel()
	client := serveMemory(t)
	ann := createUser(t, client, "ann")
	if _, err := client.DeleteUser(within(t), &userv1.DeleteUserRequest{Id: ann.Id}); err != nil {
		t.Fatal(err)
	}
	_, err := client.GetUser(within(t), &userv1.GetUserRequest{Id: ann.Id})
	wantStatus[*errdetails.ResourceInfo](t, err, codes.NotFound, ann.Id)
}

func TestPagesCoverAllUsersOnce(t *testing.T) {
	t.Parallel()
	client := serveMemory(t)
	var want []string
	for i := range 7 {
		want = append(want, createUser(t, client, fmt.Sprint("user", i)).Id)
	}
	var got []string
	for token, pages := "", 0; ; pages++ {
		res, err := client.ListUsers(within(t), &userv1.ListUsersRequest{PageSize: 3, PageToken: token})
		if err != nil {
			t.Fatal(err)
		}
		for _, u := range res.Users {
			got = append(got, u.Id)
		}
		if token = res.NextPageToken; token == "" {
			if pages != 2 {
				t.Errorf("%d pages instead of 3", pages+1)
			}
			break
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestAFullLastPageHasNoNextPage(t *testing.T) {
	t.Parallel()
	client := serveMemory(t)
	createUser(t, client, "ann")
	res, err := client.ListUsers(within(t), &userv1.ListUsersRequest{PageSize: 1})
	if err != nil || res.NextPageToken != "" {
		t.Errorf("got %v, %v, want no next page", res, err)
	}
}

func TestListRefusesWhatIsNoPage(t *testing.T) {
	t.Parallel()
	client := serveMemory(t)
	_, err := client.ListUsers(within(t), &userv1.ListUsersRequest{PageSize: -1})
	wantInvalid(t, err, "page_size", "negative")
	resume := receive(t, watch(t, client, "")).ResumeToken
	for _, token := range []string{"x", "!", "cDEueA", resume} {
		_, err := client.ListUsers(within(t), &userv1.ListUsersRequest{PageToken: token})
		wantInvalid(t, err, "page_token", "no token of ours")
	}
}

func TestUpdateMasks(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		mask      []string
		in        *userv1.User
		wantEmail string
		wantName  string
	}{
		"one field":                       {[]string{"display_name"}, &userv1.User{DisplayName: "Bob", Email: "no@example.com"}, "ann@example.com", "Bob"},
		"a field is emptied":              {[]string{"display_name"}, &userv1.User{}, "ann@example.com", ""},
		"both fields":                     {[]string{"display_name", "email"}, &userv1.User{DisplayName: "Bob", Email: "bob@example.com"}, "bob@example.com", "Bob"},
		"a star replaces all":             {[]string{"*"}, &userv1.User{Email: "bob@example.com"}, "bob@example.com", ""},
		"no mask means fields with value": {nil, &userv1.User{DisplayName: "Bob"}, "ann@example.com", "Bob"},
		"no mask and no value: as it was": {nil, &userv1.User{}, "ann@example.com", "ann"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			client := serveMemory(t)
			ann := createUser(t, client, "ann")
			tt.in.Id = ann.Id
			res, err := client.UpdateUser(within(t), &userv1.UpdateUserRequest{User: tt.in, UpdateMask: &fieldmaskpb.FieldMask{Paths: tt.mask}})
			if err != nil {
				t.Fatal(err)
			}
			if res.User.Email != tt.wantEmail || res.User.DisplayName != tt.wantName {
				t.Errorf("got %v, want %q and %q", res.User, tt.wantEmail, tt.wantName)
			}
			if changed := tt.wantEmail != ann.Email || tt.wantName != ann.DisplayName; changed == (res.User.UpdateTime.AsTime().Equal(ann.UpdateTime.AsTime())) {
				t.Errorf("update_time %v after %v", res.User.UpdateTime.AsTime(), ann.UpdateTime.AsTime())
			}
		})
	}
}

func TestUpdateRefusesWhatCannotBeChanged(t *testing.T) {
	t.Parallel()
	client := serveMemory(t)
	ann := createUser(t, client, "ann")
	update := func(u *userv1.User, paths ...string) error {
		_, err := client.UpdateUser(within(t), &userv1.UpdateUserRequest{User: u, UpdateMask: &fieldmaskpb.FieldMask{Paths: paths}})
		return err
	}
	wantInvalid(t, update(nil), "user", "missing")
	wantInvalid(t, update(&userv1.User{DisplayName: "x"}), "user.id", "is empty")
	for _, path := range []string{"id", "create_time", "nickname", "user.email"} {
		wantInvalid(t, update(&userv1.User{Id: ann.Id}, path), "update_mask", fmt.Sprintf("%q is no field that can be changed", path))
	}
	wantInvalid(t, update(&userv1.User{Id: ann.Id}, "*", "email"), "update_mask", `"*"`)
	wantInvalid(t, update(&userv1.User{Id: ann.Id}, "email"), "user.email", "needs an email")
}

// broken is a store whose storage fails.
type broken struct {
	user.Store
	err error
}

func (b broken) Get(context.Context, string) (user.User, error) { return user.User{}, b.err }

func TestStorageFailuresAreLoggedInFullAndToldInBrief(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		err  error
		code codes.Code
	}{
		"a failure":      {errors.New("disk /dev/secret is gone"), codes.Internal},
		"a busy store":   {fmt.Errorf("secret: %w", user.ErrBusy), codes.Unavailable},
		"a closed store": {user.ErrClosed, codes.Unavailable},
		"a deadline":     {fmt.Errorf("secret: %w", context.DeadlineExceeded), codes.DeadlineExceeded},
		"a cancellation": {fmt.Errorf("secret: %w", context.Canceled), codes.Canceled},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := user.NewServer(broken{err: tt.err}, never).GetUser(within(t), &userv1.GetUserRequest{Id: "x"})
			if !errors.Is(err, tt.err) || !strings.Contains(err.Error(), tt.err.Error()) {
				t.Errorf("the operator is told %q, not the cause %q", err, tt.err)
			}
			_, err = serve(t, broken{err: tt.err}).GetUser(within(t), &userv1.GetUserRequest{Id: "x"})
			if st := status.Convert(err); st.Code() != tt.code || strings.Contains(st.Message(), "secret") || !strings.HasPrefix(st.Message(), "get user: ") {
				t.Errorf("the client is told %v, want %v without details", st, tt.code)
			}
		})
	}
}
