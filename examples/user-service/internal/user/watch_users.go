package user

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	userv1 "github.com/newsvc/newsvc/proto/user/v1"
)

// watchBatch is how many changes are read at once: enough to catch up fast, little enough to hold in memory.
const watchBatch = 256

// errDraining is why a watch ends whose client is to go on elsewhere.
var errDraining = errors.New("this instance is shutting down")

// WatchUsers implements userv1.UserServiceServer. It ends as soon as the server drains, and not only when that has lost its
// patience, so that clients are not without news for long. It ends with the stream's context, too, and says with its cause.
func (s *Server) WatchUsers(req *userv1.WatchUsersRequest, stream grpc.ServerStreamingServer[userv1.WatchUsersResponse]) error {
	ctx, cancel := s.untilDrained(stream.Context())
	defer cancel()
	at, err := s.start(ctx, req.GetResumeToken())
	if err != nil {
		return watchEnd(ctx, err)
	}
	if err := stream.Send(&userv1.WatchUsersResponse{Kind: userv1.WatchUsersResponse_KIND_SYNC, ResumeToken: resumeToken(at)}); err != nil {
		return watchEnd(ctx, err)
	}
	for {
		changes, err := s.store.Changes(ctx, at, watchBatch)
		if err != nil {
			return watchEnd(ctx, err)
		}
		for _, c := range changes {
			if err := stream.Send(changeToProto(c)); err != nil {
				return watchEnd(ctx, err)
			}
			at = c.Position
		}
	}
}

// untilDrained answers ctx, ended also when the server drains.
func (s *Server) untilDrained(ctx context.Context) (context.Context, context.CancelFunc) {
	drained := s.draining(ctx)
	ctx, cancel := context.WithCancelCause(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		select {
		case <-drained:
			cancel(errDraining)
		case <-ctx.Done():
		}
	}()
	return ctx, func() { cancel(nil); <-done }
}

// start answers where a watch begins. It tells at once when a token is too old, before the first message.
func (s *Server) start(ctx context.Context, token string) (Position, error) {
	now, err := s.store.Position(ctx)
	if token == "" || err != nil {
		return now, err
	}
	at, err := parseResumeToken(token)
	if err != nil {
		return Position{}, invalid("watch users", "resume_token", err.Error())
	}
	if at != now {
		// There is something to read, or the position is lost: this does not wait.
		if _, err := s.store.Changes(ctx, at, 1); err != nil {
			return Position{}, err
		}
	}
	return at, nil
}

// watchEnd turns the reason why a watch ends into its status.
func watchEnd(ctx context.Context, err error) error {
	const what = "watch users"
	if cause := context.Cause(ctx); cause != nil {
		if errors.Is(cause, context.Canceled) || errors.Is(cause, context.DeadlineExceeded) {
			return status.FromContextError(cause).Err() // the client went away or gave it a deadline
		}
		if _, ok := status.FromError(cause); ok {
			return cause
		}
		return status.Error(codes.Unavailable, fmt.Sprintf("%s: %v; continue with the last resume_token", what, cause))
	}
	if errors.Is(err, ErrPositionLost) {
		return answer(codes.OutOfRange, what+": the changes after resume_token are no longer kept; list the users and watch from now on",
			&errdetails.ErrorInfo{Reason: "RESUME_TOKEN_EXPIRED", Domain: userv1.UserService_ServiceDesc.ServiceName})
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	return failure(what, err, "", "")
}

func changeToProto(c Change) *userv1.WatchUsersResponse {
	kind := userv1.WatchUsersResponse_KIND_UNSPECIFIED
	switch c.Kind {
	case Created:
		kind = userv1.WatchUsersResponse_KIND_CREATED
	case Updated:
		kind = userv1.WatchUsersResponse_KIND_UPDATED
	case Deleted:
		kind = userv1.WatchUsersResponse_KIND_DELETED
	}
	return &userv1.WatchUsersResponse{Kind: kind, User: toProto(c.User), ResumeToken: resumeToken(c.Position)}
}
