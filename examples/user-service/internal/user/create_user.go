package user

import (
	"context"

	userv1 "github.com/newsvc/newsvc/proto/user/v1"
)

// CreateUser implements userv1.UserServiceServer.
func (s *Server) CreateUser(ctx context.Context, req *userv1.CreateUserRequest) (*userv1.CreateUserResponse, error) {
	const what = "create user"
	in := req.GetUser()
	if in == nil {
		return nil, invalid(what, "user", "is missing")
	}
	if in.Email == "" {
		return nil, invalid(what, "user.email", "is empty; a user needs an email")
	}
	id, err := newID()
	if err != nil {
		return nil, failure(what, err, "", in.Email)
	}
	at := now()
	u := User{ID: id, Email: in.Email, DisplayName: in.DisplayName, Created: at, Updated: at}
	if err := s.store.Create(ctx, u); err != nil {
		return nil, failure(what, err, id, in.Email)
	}
	return &userv1.CreateUserResponse{User: toProto(u)}, nil
}
