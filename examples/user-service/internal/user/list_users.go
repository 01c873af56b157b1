package user

import (
	"context"

	userv1 "github.com/newsvc/newsvc/proto/user/v1"
)

const (
	defaultPageSize = 50
	maxPageSize     = 1000
)

// ListUsers implements userv1.UserServiceServer.
func (s *Server) ListUsers(ctx context.Context, req *userv1.ListUsersRequest) (*userv1.ListUsersResponse, error) {
	const what = "list users"
	size := int(req.GetPageSize())
	switch {
	case size < 0:
		return nil, invalid(what, "page_size", "is negative; 0 means the default")
	case size == 0:
		size = defaultPageSize
	}
	size = min(size, maxPageSize)
	after, err := parsePageToken(req.GetPageToken())
	if err != nil {
		return nil, invalid(what, "page_token", err.Error())
	}
	// One more than asked for tells whether there is a next page.
	users, err := s.store.List(ctx, after, size+1)
	if err != nil {
		return nil, failure(what, err, "", "")
	}
	res := &userv1.ListUsersResponse{}
	if len(users) > size {
		users = users[:size]
		res.NextPageToken = pageToken(users[size-1].ID)
	}
	for _, u := range users {
		res.Users = append(res.Users, toProto(u))
	}
	return res, nil
}
