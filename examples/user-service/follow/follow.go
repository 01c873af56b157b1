// Package follow keeps watching users across the ends of streams: instances drain, are killed, and connections break.
// It needs the generated client and nothing else, wherever that client's connection comes from.
package follow

import (
	"context"
	"math/rand/v2"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	userv1 "github.com/newsvc/newsvc/proto/user/v1"
)

const (
	// firstPause and longestPause bound the wait before a new stream; a stream that brought something starts over.
	firstPause, longestPause = 20 * time.Millisecond, 2 * time.Second
)

// Users calls take with every message of WatchUsers, in order, each change once: first with a KIND_SYNC, and with another
// one whenever the stream had to be opened anew. It begins after token, or now if that is empty. It returns when ctx
// ends, when take returns an error, which it returns, or when watching anew makes no sense: INVALID_ARGUMENT for a token
// that is none, OUT_OF_RANGE for one that is too old; then list the users and begin without a token.
//
// A message counts as received when take has returned. Who must not see a change twice after a crash of its own stores
// res.ResumeToken together with what it made of the change.
func Users(ctx context.Context, users userv1.UserServiceClient, token string, take func(*userv1.WatchUsersResponse) error) error {
	pause := firstPause
	for {
		before := token
		err := once(ctx, users, &token, take)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if own, ok := err.(taken); ok { //nolint:errorlint // nothing wraps it
			return own.error
		}
		if !again(err) {
			return err
		}
		if token != before {
			pause = firstPause // the last stream worked for a while
		}
		// Not at once and not all together: whoever drains ends the streams of all its clients in one moment.
		if !sleep(ctx, pause/2+rand.N(pause)) {
			return context.Cause(ctx)
		}
		pause = min(2*pause, longestPause)
	}
}

// once follows one stream to its end.
func once(ctx context.Context, users userv1.UserServiceClient, token *string, take func(*userv1.WatchUsersResponse) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends the stream when take fails
	stream, err := users.WatchUsers(ctx, &userv1.WatchUsersRequest{ResumeToken: *token})
	if err != nil {
		return err
	}
	for {
		res, err := stream.Recv()
		if err != nil {
			return err
		}
		if err := take(res); err != nil {
			return taken{err}
		}
		*token = res.GetResumeToken()
	}
}

// taken is an error of take's.
type taken struct{ error }

// again reports whether a stream that ended this way is worth another. UNAVAILABLE is what drains, kills and refusals end
// with; the others are what a broken connection or a proxy in between makes of it. An end without an error is one, too.
func again(err error) bool {
	switch status.Code(err) {
	case codes.InvalidArgument, codes.OutOfRange, codes.Unimplemented, codes.Unauthenticated, codes.PermissionDenied:
		return false
	default:
		return true
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
