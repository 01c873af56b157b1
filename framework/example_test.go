package framework_test

import (
	"context"

	"github.com/newsvc/newsvc/framework/app"
	userv1 "github.com/newsvc/newsvc/proto/user/v1"
)

type users struct {
	userv1.UnimplementedUserServiceServer
}

func newUsers() *users { return &users{} }

func (*users) GetUser(_ context.Context, req *userv1.GetUserRequest) (*userv1.GetUserResponse, error) {
	return &userv1.GetUserResponse{User: &userv1.User{Id: req.GetId(), DisplayName: "Ada"}}, nil
}

func main() {
	app.Run("user-service", app.Serve(userv1.RegisterUserServiceServer, newUsers))
}

// Example is the program of the package's comment. It is compiled and not run: a service runs until it gets a signal.
func Example() { main() }
