// Command user-service keeps users: proto/user/v1 over gRPC, found by the name user-service.
package main

import (
	"go.uber.org/fx"

	"github.com/newsvc/newsvc/examples/user-service/internal/user"
	"github.com/newsvc/newsvc/framework/app"
	userv1 "github.com/newsvc/newsvc/proto/user/v1"
)

func main() { app.Run("user-service", service()...) }

// service is the wiring, apart from main so that tests start the same.
func service() []fx.Option {
	return []fx.Option{
		app.Config("user", user.DefaultConfig()),
		app.Provide(user.NewStore),
		// newsvc:clients
		// newsvc:end
		app.Serve(userv1.RegisterUserServiceServer, user.NewServer),
	}
}
