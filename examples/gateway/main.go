// Command gateway is HTTP/JSON in front of user-service, which it calls by name.
package main

import (
	"go.uber.org/fx"

	"github.com/newsvc/newsvc/framework/app"
	"github.com/newsvc/newsvc/framework/gateway/gatewayfx"
	userv1 "github.com/newsvc/newsvc/proto/user/v1"
	"github.com/newsvc/newsvc/proto/user/v1/userv1gw"
)

func main() { app.Run("gateway", edge()...) }

// edge is the wiring, apart from main so that tests start the same.
func edge() []fx.Option {
	return []fx.Option{
		// newsvc:clients
		app.Client("user-service", userv1.NewUserServiceClient),
		// newsvc:end
		gatewayfx.Route(userv1gw.RegisterUserServiceHandlerClient),
		gatewayfx.Serve(userv1gw.OpenAPI()),
	}
}
