// Package gateway is HTTP/JSON in front of gRPC services that are found by name: grpc-gateway's mux with settings that
// a public edge needs, the OpenAPI document of what it serves, and a page to try it. It opens no listener; the handler
// it makes goes to package httpserver or to any other HTTP server.
package gateway

import (
	"context"
	_ "embed"
	"fmt"
	"net/http"
	"net/textproto"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/newsvc/newsvc/framework/internal/confined"
)

// InstanceMetadata is the response header in which a server says under newsvc dev which instance answered.
const InstanceMetadata = "newsvc-instance"

// InstanceHeader is what the gateway makes of [InstanceMetadata].
const InstanceHeader = "X-Newsvc-Instance"

// Params is what a gateway is made from.
type Params struct {
	// Routes register the handlers of one service each, with the mux that is passed to them.
	Routes []Route
	// OpenAPI is served at /openapi.json; nil serves none, and then there is no page either.
	OpenAPI []byte
	// Dev serves a page at / to try it, and passes on which instance answered.
	Dev bool
}

// Route registers handlers on a mux, for example a closure over userv1gw.RegisterUserServiceHandlerClient.
type Route func(ctx context.Context, mux *runtime.ServeMux) error

//go:embed page.html
var page []byte

// New returns the handler. It calls the routes, whose registration needs no connection yet.
func New(p Params) (http.Handler, error) {
	mux := runtime.NewServeMux(
		runtime.WithMarshalerOption(runtime.MIMEWildcard, &runtime.HTTPBodyMarshaler{Marshaler: &runtime.JSONPb{
			MarshalOptions: protojson.MarshalOptions{EmitDefaultValues: true},
			// An unknown field is most often a misspelt one, so it is an error that names it.
			UnmarshalOptions: protojson.UnmarshalOptions{DiscardUnknown: false},
		}}),
		runtime.WithRoutingErrorHandler(routingError),
		runtime.WithErrorHandler(publicError),
		runtime.WithStreamErrorHandler(func(ctx context.Context, err error) *status.Status {
			return runtime.DefaultStreamErrorHandler(ctx, confined.Public(err))
		}),
		runtime.WithIncomingHeaderMatcher(incoming),
		runtime.WithOutgoingHeaderMatcher(outgoing(p.Dev)),
		runtime.WithOutgoingTrailerMatcher(func(string) (string, bool) { return "", false }),
	)
	for i, route := range p.Routes {
		// The context only ends the mux' own connections, of which there are none: clients are passed in.
		if err := route(context.Background(), mux); err != nil {
			return nil, fmt.Errorf("register route %d of the gateway: %w", i, err)
		}
	}
	h := http.NewServeMux()
	h.Handle("/", mux)
	if p.OpenAPI != nil {
		h.Handle("GET /openapi.json", content("application/json", p.OpenAPI))
	}
	if p.OpenAPI != nil && p.Dev {
		h.Handle("GET /{$}", content("text/html; charset=utf-8", page))
	}
	return h, nil
}

func content(kind string, body []byte) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", kind)
		w.Header().Set("X-Content-Type-Options", "nosniff")
		_, _ = w.Write(body) // the peer is gone; there is nobody left to tell
	})
}

// publicError leaves out what is not for strangers: where a callee was looked for and which instances it has.
func publicError(ctx context.Context, mux *runtime.ServeMux, m runtime.Marshaler, w http.ResponseWriter, r *http.Request, err error) {
	runtime.DefaultHTTPErrorHandler(ctx, mux, m, w, r, confined.Public(err))
}

// routingError answers requests that no route takes. grpc-gateway says 501 where a path has no such method.
func routingError(ctx context.Context, mux *runtime.ServeMux, m runtime.Marshaler, w http.ResponseWriter, r *http.Request, code int) {
	if code != http.StatusMethodNotAllowed {
		runtime.DefaultRoutingErrorHandler(ctx, mux, m, w, r, code)
		return
	}
	err := status.Errorf(codes.Unimplemented, "%s is not a method of %q", r.Method, r.URL.Path)
	runtime.DefaultHTTPErrorHandler(ctx, mux, m, w, r, &runtime.HTTPStatusError{HTTPStatus: code, Err: err})
}

// incoming passes what services need to know of a request: in which language it is asked, and in which trace. Who asks
// is passed by the mux itself, which adds Authorization whatever is said here; said here too, it would arrive twice.
func incoming(key string) (string, bool) {
	switch textproto.CanonicalMIMEHeaderKey(key) {
	case "Traceparent", "Tracestate", "Accept-Language", "X-Request-Id":
		return key, true
	}
	return "", false
}

func outgoing(dev bool) func(string) (string, bool) {
	return func(key string) (string, bool) {
		if dev && key == InstanceMetadata {
			return InstanceHeader, true
		}
		return "", false
	}
}
