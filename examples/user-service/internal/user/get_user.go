package user

import (
	"context"

	userv1 "github.com/newsvc/newsvc/proto/user/v1"
)

// GetUser implements userv1.UserServiceServer.
func (s *Server) GetUser(ctx context.Context, req *userv1.GetUserRequest) (*userv1.GetUserResponse, error) {
	u, err := s.store.Get(ctx, req.GetId())
	if err != nil {
		return nil, failure("get user", err, req.GetId(), "")
	}
	return &userv1.GetUserResponse{User: toProto(u)}, nil
}
