package coordination

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/newsvc/newsvc/framework/internal/backoff"
)

const (
	retryBase  = 100 * time.Millisecond
	retryLimit = 3 * time.Second
)

// Lead has run called by one process at a time of all that lead under this name, again and again until ctx ends: when
// the leader stops, or is killed or cut off, another one's turn comes. The context of run ends with the leadership and
// with ctx. The leadership is kept until run has returned, so a run that does not return keeps it, and is handed over at
// once then.
//
// Lead returns nil when ctx has ended, and when run returned nil while it led: its work is done, and another process may
// begin with it. When run fails while it leads, the leadership is given up and Lead returns that error. A run whose
// leadership was lost may return what it likes: it is called again when this process leads again.
func (c *Coordinator) Lead(ctx context.Context, name string, run func(ctx context.Context, h *Hold) error) error {
	of, err := c.thing(leadership, name)
	if err != nil {
		return err
	}
	log := c.opt.Log.With(zap.String("leader", name))
	short := backoff.New(retryBase, retryLimit)
	for ctx.Err() == nil {
		h, _ := c.patient(ctx, of)
		if h == nil { // ctx has ended
			break
		}
		began := time.Now()
		lost, err := term(ctx, log, h, run)
		switch {
		case ctx.Err() != nil || lost:
		case err != nil:
			return fmt.Errorf("leading %q: %w", name, err)
		default:
			return nil
		}
		if time.Since(began) > h.lease.ttl {
			short.Reset()
		}
		_ = short.Wait(ctx) // terms that end as soon as they begin would be a busy loop
	}
	return nil
}

// term is one leadership from begin to end. It is given up also when run panics.
func term(ctx context.Context, log *zap.Logger, h *Hold, run func(context.Context, *Hold) error) (lost bool, err error) {
	log = log.With(zap.Int64("token", h.token))
	log.Info("leading")
	defer func() {
		cause := h.Err()
		lost = cause != nil && !errors.Is(cause, ErrReleased) // which run did itself, then
		if lost {
			log.Warn("the leadership was lost", zap.Error(cause))
		}
		if err := h.lease.release(); err != nil {
			log.Warn("the leadership could not be handed over; somebody else leads when the lease ends", zap.Error(err))
		} else if !lost {
			log.Info("not leading any more")
		}
	}()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(h.Context(), func() { cancel(context.Cause(h.Context())) })()
	return false, run(ctx, h)
}
