// Package gatewayfx puts package gateway into an app: one Route for each service, and the OpenAPI document.
//
//	app.Run("gateway",
//		app.Client("user-service", userv1.NewUserServiceClient),
//		gatewayfx.Route(userv1gw.RegisterUserServiceHandlerClient),
//		gatewayfx.Serve(userv1gw.OpenAPI()),
//	)
package gatewayfx

import (
	"context"
	"net/http"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"go.uber.org/fx"

	"github.com/newsvc/newsvc/framework/app"
	"github.com/newsvc/newsvc/framework/gateway"
)

const routeGroup = `group:"newsvc.gateway.routes"`

// Route serves the HTTP rules of one gRPC service. register is the generated function that takes a client; the client
// is the one that app.Client provides, so calls go to the callee by name.
func Route[C any](register func(context.Context, *runtime.ServeMux, C) error) fx.Option {
	return fx.Provide(fx.Annotate(func(client C) gateway.Route {
		return func(ctx context.Context, mux *runtime.ServeMux) error { return register(ctx, mux, client) }
	}, fx.ResultTags(routeGroup)))
}

type params struct {
	fx.In
	Routes []gateway.Route `group:"newsvc.gateway.routes"`
	Dev    app.Dev
}

// Serve serves all routes on the listener of the section "http". openAPI is the document of what they serve; nil for
// none.
func Serve(openAPI []byte) fx.Option {
	return app.HTTP(func(p params) (http.Handler, error) {
		return gateway.New(gateway.Params{Routes: p.Routes, OpenAPI: openAPI, Dev: bool(p.Dev)})
	})
}
