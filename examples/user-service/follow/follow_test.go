package follow_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/newsvc/newsvc/examples/user-service/follow"
	userv1 "github.com/newsvc/newsvc/proto/user/v1"
)

// script is a client whose streams bring what the test says, one entry for each.
type script struct {
	userv1.UserServiceClient
	streams []stream
	tokens  []string // that were asked for
}

type stream struct {
	tokens []string
	end    error
}

func (s *script) WatchUsers(ctx context.Context, req *userv1.WatchUsersRequest, _ ...grpc.CallOption) (grpc.ServerStreamingClient[userv1.WatchUsersResponse], error) {
	s.tokens = append(s.tokens, req.GetResumeToken())
	if len(s.streams) == 0 {
		<-ctx.Done()
		return nil, status.FromContextError(ctx.Err()).Err()
	}
	next := s.streams[0]
	s.streams = s.streams[1:]
	return &reader{stream: next}, nil
}

type reader struct {
	grpc.ClientStream
	stream
}

func (r *reader) Recv() (*userv1.WatchUsersResponse, error) {
	if len(r.tokens) == 0 {
		return nil, r.end
	}
	token := r.tokens[0]
	r.tokens = r.tokens[1:]
	return &userv1.WatchUsersResponse{ResumeToken: token}, nil
}

func TestUsersGoesOnAfterTheLastMessage(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	gone := status.Error(codes.Unavailable, "shutting down")
	s := &script{streams: []stream{{[]string{"a", "b"}, gone}, {nil, gone}, {[]string{"b", "c"}, gone}}}
	var got []string
	enough := errors.New("enough")
	err := follow.Users(ctx, s, "0", func(res *userv1.WatchUsersResponse) error {
		got = append(got, res.GetResumeToken())
		if res.GetResumeToken() == "c" {
			return enough
		}
		return nil
	})
	if !errors.Is(err, enough) {
		t.Errorf("it ended with %v, want the error of take", err)
	}
	if want := []string{"a", "b", "b", "c"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if want := []string{"0", "b", "b"}; !slices.Equal(s.tokens, want) {
		t.Errorf("it asked to go on at %q, want %q", s.tokens, want)
	}
}

func TestUsersEndsWhereGoingOnMakesNoSense(t *testing.T) {
	t.Parallel()
	for _, code := range []codes.Code{codes.OutOfRange, codes.InvalidArgument, codes.PermissionDenied} {
		s := &script{streams: []stream{{nil, status.Error(code, "no")}}}
		if err := follow.Users(t.Context(), s, "", nil); status.Code(err) != code {
			t.Errorf("it ended with %v, want %v", err, code)
		}
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	over := fmt.Errorf("the program ends")
	s := &script{streams: []stream{{[]string{"a"}, status.Error(codes.Unavailable, "")}}}
	err := follow.Users(ctx, s, "", func(*userv1.WatchUsersResponse) error { cancel(over); return nil })
	if !errors.Is(err, over) {
		t.Errorf("it ended with %v, want the cause of its context", err)
	}
}
