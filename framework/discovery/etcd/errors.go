package etcd

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/status"

	"github.com/newsvc/newsvc/framework/internal/backoff"
	"github.com/newsvc/newsvc/framework/internal/etcdlink"
)

// errors of etcd that no amount of hurry mends: somebody has to do something first.
var (
	permissionErrors = []error{
		rpctypes.ErrPermissionDenied, rpctypes.ErrUserEmpty, rpctypes.ErrAuthFailed, rpctypes.ErrUserNotFound,
		rpctypes.ErrRoleNotFound, rpctypes.ErrRoleNotGranted,
	}
	fullErrors    = []error{rpctypes.ErrNoSpace}
	corruptErrors = []error{rpctypes.ErrCorrupt}
)

// matches also looks at the text: why a watch was refused arrives as text only, inside another error's.
func matches(err error, kinds []error) bool {
	if err == nil {
		return false
	}
	for _, kind := range kinds {
		if errors.Is(err, kind) || strings.Contains(err.Error(), kind.Error()) {
			return true
		}
	}
	return false
}

func isCompacted(err error) bool { return matches(err, []error{rpctypes.ErrCompacted}) }

// isTooLarge reports whether an answer was larger than somebody on the way lets through.
func isTooLarge(err error) bool {
	return err != nil && strings.Contains(err.Error(), "message larger than max") // all that clientv3 leaves of gRPC's error
}

func isLeaseGone(err error) bool { return matches(err, []error{rpctypes.ErrLeaseNotFound}) }

// isPatient reports whether to wait long before the next attempt.
func isPatient(err error) bool {
	return matches(err, permissionErrors) || matches(err, fullErrors) || matches(err, corruptErrors)
}

// connectionBack is what is left of a wait at most once the connection that it was for is back. It is not zero so that not
// all come at one moment.
const connectionBack = 100 * time.Millisecond

// pause waits before the next attempt, as long as the error suggests. A connection that comes back, be it one that
// went away only during the wait, ends it within [connectionBack].
func pause(ctx context.Context, cli *clientv3.Client, bo *backoff.Backoff, patience time.Duration, err error) {
	left := pauseFor(bo, patience, err)
	if !isPatient(err) {
		began := time.Now()
		back := comesBack(ctx, cli.ActiveConnection(), left)
		if left -= time.Since(began); back {
			left = min(left, backoff.UpTo(connectionBack))
		}
	}
	_ = backoff.Sleep(ctx, left) // who calls looks at ctx next
}

// comesBack waits until a connection that is away, or goes away meanwhile, is there again, or for limit. It reports whether
// it came back.
func comesBack(ctx context.Context, conn *grpc.ClientConn, limit time.Duration) bool {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for st := conn.GetState(); conn.WaitForStateChange(ctx, st); {
		if st = conn.GetState(); st == connectivity.Ready {
			return true
		}
	}
	return false
}

// fullPatience is the wait while etcd has no space. Who mends that watches, and being refused costs etcd little, so
// instances that started meanwhile are there soon after.
const fullPatience = 2 * time.Second

func pauseFor(bo *backoff.Backoff, patience time.Duration, err error) time.Duration {
	if matches(err, fullErrors) {
		patience = min(patience, fullPatience)
	}
	if err != nil && isPatient(err) {
		return backoff.Spread(patience, 0.2)
	}
	return bo.Next()
}

// explain says what was attempted against which etcd, what went wrong, and what to do about it. It returns nil for nil.
func explain(cli *clientv3.Client, what string, err error) error {
	if err == nil {
		return nil
	}
	where := strings.Join(cli.Endpoints(), ", ")
	switch {
	case matches(err, permissionErrors):
		return fmt.Errorf("%s: etcd at %s refuses: %w; give the user read and write on the prefix, or check etcd.username and etcd.password", what, where, err)
	case matches(err, fullErrors):
		return fmt.Errorf("%s: etcd at %s is full: %w; compact and defragment it, then disarm the alarm", what, where, err)
	case isSilence(err):
		return fmt.Errorf("%s: etcd at %s %w", what, where, etcdlink.Silent(cli, err))
	}
	return fmt.Errorf("%s: etcd at %s: %w", what, where, err)
}

func isSilence(err error) bool {
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, errNoSign) {
		return true
	}
	code := status.Code(err)
	return code == codes.DeadlineExceeded || code == codes.Unavailable
}

// errNoSign is the reason for giving up on a stream that has been silent for too long.
var errNoSign = errors.New("no sign of life on the stream")
