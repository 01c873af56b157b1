package gateway_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/newsvc/newsvc/framework/gateway"
	"github.com/newsvc/newsvc/framework/internal/confined"
	userv1 "github.com/newsvc/newsvc/proto/user/v1"
	"github.com/newsvc/newsvc/proto/user/v1/userv1gw"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// users is the client of a service that has one user.
type users struct {
	userv1.UserServiceClient
	seen metadata.MD
}

func (u *users) GetUser(ctx context.Context, req *userv1.GetUserRequest, opts ...grpc.CallOption) (*userv1.GetUserResponse, error) {
	u.seen, _ = metadata.FromOutgoingContext(ctx)
	for _, o := range opts {
		if h, ok := o.(grpc.HeaderCallOption); ok {
			*h.HeaderAddr = metadata.Pairs(gateway.InstanceMetadata, "127.0.0.1:9000", "internal", "secret")
		}
	}
	switch req.GetId() {
	case "nobody":
		return nil, confined.New(codes.Unavailable, `no instance of "user-service" takes calls`, `nothing under "/newsvc/default" in etcd at 10.0.0.9:2379`)
	case "nobody-wrapped":
		_, err := u.GetUser(ctx, &userv1.GetUserRequest{Id: "nobody"})
		return nil, fmt.Errorf("get a user: %w", err)
	}
	if req.GetId() != "1" {
		return nil, status.Errorf(codes.NotFound, "no user %q", req.GetId())
	}
	return &userv1.GetUserResponse{User: &userv1.User{Id: "1"}}, nil
}

func (u *users) CreateUser(_ context.Context, req *userv1.CreateUserRequest, _ ...grpc.CallOption) (*userv1.CreateUserResponse, error) {
	return &userv1.CreateUserResponse{User: &userv1.User{Id: "2", Email: req.GetUser().GetEmail()}}, nil
}

func handler(t *testing.T, p gateway.Params, u *users) http.Handler {
	t.Helper()
	p.Routes = append(p.Routes, func(ctx context.Context, mux *runtime.ServeMux) error {
		return userv1gw.RegisterUserServiceHandlerClient(ctx, mux, u)
	})
	h, err := gateway.New(p)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func ask(t *testing.T, h http.Handler, method, path, body string, header ...string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), method, path, strings.NewReader(body))
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func TestAnswersAreJSONWithDefaultValues(t *testing.T) {
	t.Parallel()
	w := ask(t, handler(t, gateway.Params{}, &users{}), http.MethodGet, "/v1/users/1", "")
	var got map[string]any // the rule has response_body: "user"
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || w.Code != http.StatusOK {
		t.Fatalf("%d %s: %v", w.Code, w.Body, err)
	}
	if email, ok := got["email"]; got["id"] != "1" || !ok || email != "" {
		t.Errorf("user %v, want the id and an empty email", got)
	}
	if kind := w.Header().Get("Content-Type"); kind != "application/json" {
		t.Errorf("content type %q", kind)
	}
}

func TestErrorsOfServicesBecomeHTTPStatuses(t *testing.T) {
	t.Parallel()
	h := handler(t, gateway.Params{}, &users{})
	for _, c := range []struct {
		method, path, body string
		code               int
		says               string
	}{
		{http.MethodGet, "/v1/users/7", "", http.StatusNotFound, `no user \"7\"`},
		{http.MethodPost, "/v1/users", `{"user":{"email":"a@example.com","emial":"b"}}`, http.StatusBadRequest, "emial"},
		{http.MethodPost, "/v1/users", `{"user":`, http.StatusBadRequest, "message"},
		{http.MethodPost, "/v1/users", `{"user":{"email":5}}`, http.StatusBadRequest, "message"},
		{http.MethodGet, "/v1/nobody", "", http.StatusNotFound, "Not Found"},
		{http.MethodPut, "/v1/users/1", "", http.StatusMethodNotAllowed, "PUT is not a method of"},
	} {
		w := ask(t, h, c.method, c.path, c.body)
		if w.Code != c.code || !strings.Contains(w.Body.String(), c.says) {
			t.Errorf("%s %s %s: %d %s, want %d about %q", c.method, c.path, c.body, w.Code, w.Body, c.code, c.says)
		}
	}
	if w := ask(t, h, http.MethodPost, "/v1/users", `{"user":{"email":"a@example.com"}}`); w.Code != http.StatusOK || !strings.Contains(w.Body.String(), "a@example.com") {
		t.Errorf("a right request: %d %s", w.Code, w.Body)
	}
}

// Whoever asks a public edge is a stranger; the full text is for the edge's own log.
func TestWhereACalleeWasLookedForStaysInside(t *testing.T) {
	t.Parallel()
	h := handler(t, gateway.Params{}, &users{})
	for _, path := range []string{"/v1/users/nobody", "/v1/users/nobody-wrapped"} {
		w := ask(t, h, http.MethodGet, path, "")
		body := w.Body.String()
		if w.Code != http.StatusServiceUnavailable || !strings.Contains(body, `no instance of \"user-service\" takes calls`) {
			t.Errorf("%s: %d %s, want 503 that names the service", path, w.Code, body)
		}
		if strings.Contains(body, "/newsvc/") || strings.Contains(body, "10.0.0.9") {
			t.Errorf("%s tells strangers of the registry: %s", path, body)
		}
	}
}

func TestOnlyKnownHeadersReachServices(t *testing.T) {
	t.Parallel()
	u := &users{}
	known := []string{"authorization", "Bearer x", "accept-language", "de", "x-request-id", "r1", "traceparent", "00-1-2-01", "tracestate", "a=b"}
	header := append([]string{"Cookie", "session=1", "X-Custom", "1", "Grpc-Metadata-Role", "admin", "Newsvc-Instance", "me"}, known...)
	ask(t, handler(t, gateway.Params{}, u), http.MethodGet, "/v1/users/1", "", header...)
	for i := 0; i < len(known); i += 2 {
		if got := u.seen.Get(known[i]); len(got) != 1 || got[0] != known[i+1] {
			t.Errorf("%s: %q, want %q once", known[i], got, known[i+1])
		}
	}
	for _, key := range []string{"cookie", "x-custom", "role", "grpc-metadata-role", "newsvc-instance", "grpcgateway-cookie"} {
		if got := u.seen.Get(key); got != nil {
			t.Errorf("%s reached the service: %q", key, got)
		}
	}
}

func TestInstanceIsToldUnderDevelopmentOnly(t *testing.T) {
	t.Parallel()
	for dev, want := range map[bool]string{true: "127.0.0.1:9000", false: ""} {
		w := ask(t, handler(t, gateway.Params{Dev: dev}, &users{}), http.MethodGet, "/v1/users/1", "")
		if got := w.Header().Get(gateway.InstanceHeader); got != want {
			t.Errorf("dev=%v: instance %q, want %q", dev, got, want)
		}
		for key, value := range w.Header() {
			if strings.Contains(strings.Join(value, " "), "secret") {
				t.Errorf("dev=%v: %s reached the browser", dev, key)
			}
		}
	}
}

func TestPageAndDocument(t *testing.T) {
	t.Parallel()
	doc := []byte(`{"openapi":"x"}`)
	for _, c := range []struct {
		p          gateway.Params
		page, json int
	}{
		{gateway.Params{OpenAPI: doc, Dev: true}, http.StatusOK, http.StatusOK},
		{gateway.Params{OpenAPI: doc}, http.StatusNotFound, http.StatusOK},
		{gateway.Params{Dev: true}, http.StatusNotFound, http.StatusNotFound},
	} {
		h := handler(t, c.p, &users{})
		if w := ask(t, h, http.MethodGet, "/", ""); w.Code != c.page || w.Code == http.StatusOK && !strings.HasPrefix(w.Header().Get("Content-Type"), "text/html") {
			t.Errorf("%+v: page %d %s", c.p, w.Code, w.Header().Get("Content-Type"))
		}
		if w := ask(t, h, http.MethodGet, "/openapi.json", ""); w.Code != c.json || w.Code == http.StatusOK && w.Body.String() != string(doc) {
			t.Errorf("%+v: document %d %s", c.p, w.Code, w.Body)
		}
	}
}

func TestRouteThatFailsIsAnError(t *testing.T) {
	t.Parallel()
	trouble := errors.New("trouble")
	_, err := gateway.New(gateway.Params{Routes: []gateway.Route{func(context.Context, *runtime.ServeMux) error { return trouble }}})
	if !errors.Is(err, trouble) {
		t.Errorf("err = %v", err)
	}
}
