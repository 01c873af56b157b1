package user

import (
	"context"
	"fmt"
	"slices"

	"google.golang.org/protobuf/types/known/fieldmaskpb"

	userv1 "github.com/newsvc/newsvc/proto/user/v1"
)

// Paths of an update mask.
const (
	maskEmail       = "email"
	maskDisplayName = "display_name"
	maskAll         = "*"
)

// UpdateUser implements userv1.UserServiceServer. An update that changes nothing leaves update_time alone and is seen by
// no watch, so repeating one is harmless.
func (s *Server) UpdateUser(ctx context.Context, req *userv1.UpdateUserRequest) (*userv1.UpdateUserResponse, error) {
	const what = "update user"
	in := req.GetUser()
	if in == nil {
		return nil, invalid(what, "user", "is missing")
	}
	if in.Id == "" {
		return nil, invalid(what, "user.id", "is empty; it says which user is meant")
	}
	paths, err := changedFields(in, req.GetUpdateMask())
	if err != nil {
		return nil, invalid(what, "update_mask", err.Error())
	}
	if in.Email == "" && slices.Contains(paths, maskEmail) {
		return nil, invalid(what, "user.email", "is empty; a user needs an email, leave it out of update_mask to keep it")
	}
	u, err := s.store.Update(ctx, in.Id, func(u *User) {
		old := *u
		for _, path := range paths {
			switch path {
			case maskEmail:
				u.Email = in.Email
			case maskDisplayName:
				u.DisplayName = in.DisplayName
			}
		}
		if *u != old {
			u.Updated = now()
		}
	})
	if err != nil {
		return nil, failure(what, err, in.Id, in.Email)
	}
	return &userv1.UpdateUserResponse{User: toProto(u)}, nil
}

// changedFields answers which fields a mask means. Without one it is those that have a value; * is all.
func changedFields(in *userv1.User, mask *fieldmaskpb.FieldMask) ([]string, error) {
	all := []string{maskEmail, maskDisplayName}
	paths := mask.GetPaths()
	switch {
	case len(paths) == 0:
		if in.Email != "" {
			paths = append(paths, maskEmail)
		}
		if in.DisplayName != "" {
			paths = append(paths, maskDisplayName)
		}
		return paths, nil
	case slices.Equal(paths, []string{maskAll}):
		return all, nil
	}
	for _, path := range paths {
		if !slices.Contains(all, path) {
			return nil, fmt.Errorf("%q is no field that can be changed; use %q, %q, or %q alone for both", path, maskEmail, maskDisplayName, maskAll)
		}
	}
	return paths, nil
}
