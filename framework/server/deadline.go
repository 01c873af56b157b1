package server

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// deadline is the slot of that name.
type deadline struct{ most, least, reserve time.Duration }

func newDeadline(l Limits) *deadline {
	return &deadline{most: l.MaxTimeout, least: l.MinTimeout, reserve: l.AnswerReserve}
}

// check returns the time that the handler is to have, zero for what the context says already, or a refusal.
func (d *deadline) check(ctx context.Context) (time.Duration, error) {
	until, bounded := ctx.Deadline()
	left := d.most
	changed := d.most > 0
	if bounded {
		theirs := time.Until(until)
		if theirs <= 0 {
			return 0, status.Error(codes.DeadlineExceeded, "the caller's deadline was over before the call was begun")
		}
		if theirs < d.least {
			return 0, status.Error(codes.DeadlineExceeded, fmt.Sprintf(
				"%s were left of the caller's deadline, and server.limits.min_timeout is %s; give the call more time", theirs.Round(time.Microsecond), d.least))
		}
		if d.most == 0 || theirs <= d.most {
			// Most calls come with a deadline that is nearer; they must not pay for a context.
			left, changed = theirs, d.reserve > 0
		}
	}
	if !changed {
		return 0, nil
	}
	// Whoever asks for less than twice the reserve gets half of what there is.
	return left - min(d.reserve, left/2), nil
}
