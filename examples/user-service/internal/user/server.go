// Package user is the domain of the example user-service: who users are, where they are kept and how they change.
//
// It knows the generated gRPC code, a database and nothing of the framework that serves it: [NewServer] gives an
// implementation of userv1.UserServiceServer that runs on any grpc.Server, over a [Store] that [NewStore] opens.
// Each method of the service has a file of its own. Requests are expected to have passed the rules written in the
// .proto; what would damage stored data is checked here again.
package user

import (
	"context"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/timestamppb"

	userv1 "github.com/newsvc/newsvc/proto/user/v1"
)

// Server implements userv1.UserServiceServer. Its methods may be called concurrently; it owns nothing to close.
type Server struct {
	userv1.UnimplementedUserServiceServer
	store    Store
	draining func(context.Context) <-chan struct{}
}

var _ userv1.UserServiceServer = (*Server)(nil)

// NewServer answers a server over store, which the caller closes after the last call ended. The channel that draining
// answers is closed when the process is about to stop: watches then end, and their clients go on elsewhere.
func NewServer(store Store, draining func(context.Context) <-chan struct{}) *Server {
	return &Server{store: store, draining: draining}
}

// newID answers an id nobody has used, greater than those made earlier: lists show users by age.
func newID() (string, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return "", err
	}
	return id.String(), nil
}

// now is the time in the precision that stores keep.
func now() time.Time { return time.Now().UTC().Truncate(time.Microsecond) }

func toProto(u User) *userv1.User {
	return &userv1.User{
		Id:          u.ID,
		Email:       u.Email,
		DisplayName: u.DisplayName,
		CreateTime:  timestamppb.New(u.Created),
		UpdateTime:  timestamppb.New(u.Updated),
	}
}
