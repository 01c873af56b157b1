package main

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"go.uber.org/fx"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/newsvc/newsvc/framework/app"
	"github.com/newsvc/newsvc/framework/apptest"
	userv1 "github.com/newsvc/newsvc/proto/user/v1"
)

// fakeUsers stands in for user-service: one user, and what its callers sent along.
type fakeUsers struct {
	userv1.UnimplementedUserServiceServer
	seen chan metadata.MD
}

func (f *fakeUsers) GetUser(ctx context.Context, req *userv1.GetUserRequest) (*userv1.GetUserResponse, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	f.seen <- md
	if req.GetId() != "1" {
		st, err := status.New(codes.NotFound, "no such user").WithDetails(&errdetails.ResourceInfo{ResourceName: req.GetId()})
		if err != nil {
			return nil, err
		}
		return nil, st.Err()
	}
	return &userv1.GetUserResponse{User: &userv1.User{Id: "1", Email: "ada@example.com"}}, nil
}

func (f *fakeUsers) WatchUsers(_ *userv1.WatchUsersRequest, stream grpc.ServerStreamingServer[userv1.WatchUsersResponse]) error {
	for _, kind := range []userv1.WatchUsersResponse_Kind{userv1.WatchUsersResponse_KIND_SYNC, userv1.WatchUsersResponse_KIND_CREATED} {
		if err := stream.Send(&userv1.WatchUsersResponse{Kind: kind}); err != nil {
			return err
		}
	}
	return nil
}

// start runs the gateway as main does and answers its base URL and what the fake has seen of its calls.
func start(t *testing.T) (string, <-chan metadata.MD) {
	t.Helper()
	fake := &fakeUsers{seen: make(chan metadata.MD, 10)}
	var s *app.Stack
	apptest.Start(t,
		apptest.Fake("user-service", func(r grpc.ServiceRegistrar) { userv1.RegisterUserServiceServer(r, fake) }),
		apptest.Service("gateway", append(edge(), fx.Populate(&s))...),
	)
	_, addr, _ := s.Addresses()
	return "http://" + addr, fake.seen
}

// send makes a request and answers status and body.
func send(t *testing.T, method, url, body string, headers ...string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(text)
}

func TestAGetIsACallByName(t *testing.T) {
	t.Parallel()
	base, _ := start(t)
	code, body := send(t, "GET", base+"/v1/users/1", "")
	var user map[string]any
	if err := json.Unmarshal([]byte(body), &user); err != nil || code != 200 || user["email"] != "ada@example.com" {
		t.Errorf("status %d, %s, %v; want the user", code, body, err)
	}
}

func TestErrorsKeepCodeAndDetails(t *testing.T) {
	t.Parallel()
	base, _ := start(t)
	code, body := send(t, "GET", base+"/v1/users/2", "")
	if code != 404 || !strings.Contains(body, "no such user") || !strings.Contains(body, "ResourceInfo") {
		t.Errorf("status %d, %s; want 404 with its details", code, body)
	}
}

func TestAnUnknownMethodOfAPathIsNotAllowed(t *testing.T) {
	t.Parallel()
	base, seen := start(t)
	if code, body := send(t, "PUT", base+"/v1/users/1", ""); code != 405 || !strings.Contains(body, "PUT") {
		t.Errorf("status %d, %s; want 405 and what is not allowed", code, body)
	}
	if code, body := send(t, "GET", base+"/v2/users", ""); code != 404 {
		t.Errorf("status %d, %s; want 404", code, body)
	}
	if len(seen) > 0 {
		t.Errorf("the service was called: %v", <-seen)
	}
}

func TestOnlySomeHeadersReachTheService(t *testing.T) {
	t.Parallel()
	base, seen := start(t)
	send(t, "GET", base+"/v1/users/1", "", "Authorization", "Bearer x", "X-Request-Id", "r1", "Cookie", "secret", "Grpc-Metadata-User", "admin")
	md := <-seen
	for key, want := range map[string]string{"authorization": "Bearer x", "x-request-id": "r1"} {
		if got := md.Get(key); len(got) != 1 || got[0] != want {
			t.Errorf("%s: %q, want %q", key, got, want)
		}
	}
	for key, values := range md {
		if text := strings.Join(values, " "); strings.Contains(text, "secret") || strings.Contains(text, "admin") {
			t.Errorf("%s: %q came through", key, text)
		}
	}
}

func TestAWatchIsAStreamOfLines(t *testing.T) {
	t.Parallel()
	base, _ := start(t)
	_, body := send(t, "GET", base+"/v1/users:watch", "")
	if n := strings.Count(strings.TrimSpace(body), "\n") + 1; n != 2 || !strings.Contains(body, "KIND_SYNC") || !strings.Contains(body, "KIND_CREATED") {
		t.Errorf("%d lines: %s; want sync and creation", n, body)
	}
}
