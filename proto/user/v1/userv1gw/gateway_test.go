package userv1gw_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc"

	userv1 "github.com/newsvc/newsvc/proto/user/v1"
	"github.com/newsvc/newsvc/proto/user/v1/userv1gw"
)

// echo answers what it was asked, so that a test sees what the HTTP request was translated into.
type echo struct{ userv1.UserServiceClient }

func (echo) CreateUser(_ context.Context, r *userv1.CreateUserRequest, _ ...grpc.CallOption) (*userv1.CreateUserResponse, error) {
	r.User.Id = "1"
	return &userv1.CreateUserResponse{User: r.User}, nil
}

func (echo) GetUser(_ context.Context, r *userv1.GetUserRequest, _ ...grpc.CallOption) (*userv1.GetUserResponse, error) {
	return &userv1.GetUserResponse{User: &userv1.User{Id: r.Id}}, nil
}

func (echo) ListUsers(_ context.Context, r *userv1.ListUsersRequest, _ ...grpc.CallOption) (*userv1.ListUsersResponse, error) {
	return &userv1.ListUsersResponse{Users: make([]*userv1.User, r.PageSize), NextPageToken: r.PageToken + "+"}, nil
}

func (echo) UpdateUser(_ context.Context, r *userv1.UpdateUserRequest, _ ...grpc.CallOption) (*userv1.UpdateUserResponse, error) {
	r.User.Email = strings.Join(r.UpdateMask.GetPaths(), ",")
	return &userv1.UpdateUserResponse{User: r.User}, nil
}

func (echo) DeleteUser(context.Context, *userv1.DeleteUserRequest, ...grpc.CallOption) (*userv1.DeleteUserResponse, error) {
	return &userv1.DeleteUserResponse{}, nil
}

func TestHTTPRequestsReachTheirMethods(t *testing.T) {
	t.Parallel()
	mux := runtime.NewServeMux(runtime.WithMarshalerOption(runtime.MIMEWildcard, &runtime.JSONPb{}))
	if err := userv1gw.RegisterUserServiceHandlerClient(t.Context(), mux, echo{}); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ name, method, target, body, want string }{
		{"create answers the user itself", "POST", "/v1/users", `{"user":{"email":"ann@example.com","displayName":"Ann"}}`, `{"id":"1","email":"ann@example.com","displayName":"Ann"}`},
		{"get answers the user itself", "GET", "/v1/users/7", "", `{"id":"7"}`},
		{"list takes its page from the query", "GET", "/v1/users?pageSize=1&pageToken=abc", "", `{"users":[{}],"nextPageToken":"abc+"}`},
		{"patch takes the id from the path and the mask from the body", "PATCH", "/v1/users/7", `{"user":{"displayName":"Bob"},"updateMask":"displayName"}`, `{"id":"7","email":"display_name","displayName":"Bob"}`},
		{"delete answers an empty object", "DELETE", "/v1/users/7", "", `{}`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			answer := httptest.NewRecorder()
			mux.ServeHTTP(answer, httptest.NewRequestWithContext(t.Context(), tt.method, tt.target, strings.NewReader(tt.body)))
			if answer.Code != http.StatusOK {
				t.Fatalf("status %d, body %s", answer.Code, answer.Body)
			}
			if diff := cmp.Diff(decode(t, []byte(tt.want)), decode(t, answer.Body.Bytes())); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestOpenAPIDescribesEveryPath(t *testing.T) {
	t.Parallel()
	doc, ok := decode(t, userv1gw.OpenAPI()).(map[string]any)
	if !ok {
		t.Fatalf("the document is no JSON object: %.80s", userv1gw.OpenAPI())
	}
	paths, _ := doc["paths"].(map[string]any)
	for _, path := range []string{"/v1/users", "/v1/users/{id}", "/v1/users/{user.id}", "/v1/users:watch"} {
		if paths[path] == nil {
			t.Errorf("path %q is missing", path)
		}
	}
}

func decode(t *testing.T, data []byte) any {
	t.Helper()
	var v any
	if err := json.Unmarshal(data, &v); err != nil {
		t.Fatalf("%v in %s", err, data)
	}
	return v
}
