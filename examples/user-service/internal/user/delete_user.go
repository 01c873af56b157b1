package user

import (
	"context"

	userv1 "github.com/newsvc/newsvc/proto/user/v1"
)

// DeleteUser implements userv1.UserServiceServer.
func (s *Server) DeleteUser(ctx context.Context, req *userv1.DeleteUserRequest) (*userv1.DeleteUserResponse, error) {
	if err := s.store.Delete(ctx, req.GetId()); err != nil {
		return nil, failure("delete user", err, req.GetId(), "")
	}
	return &userv1.DeleteUserResponse{}, nil
}
