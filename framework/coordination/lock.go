package coordination

import (
	"context"
	"fmt"

	"go.uber.org/zap"

	"github.com/newsvc/newsvc/framework/internal/backoff"
)

// Lock waits until this process holds the lock, in the order of those who ask, or until ctx ends; ctx bounds the waiting
// only. While etcd is away it goes on asking. It is not reentrant: a second Lock of the same process waits for the first.
// Whoever holds must watch [Hold.Context], and is safe from others only where [Hold.Token] is checked.
func (c *Coordinator) Lock(ctx context.Context, name string) (*Hold, error) {
	of, err := c.thing(lock, name)
	if err != nil {
		return nil, err
	}
	h, err := c.patient(ctx, of)
	if err != nil {
		return nil, fmt.Errorf("waiting for the lock %q: %w", name, err)
	}
	return h, nil
}

// TryLock takes the lock if nobody has it. Else the error is [ErrLocked], and says who has it.
func (c *Coordinator) TryLock(ctx context.Context, name string) (*Hold, error) {
	of, err := c.thing(lock, name)
	if err != nil {
		return nil, err
	}
	// Unlike waiting, this is a few calls to etcd: nothing in it takes longer than one of them may.
	bounded, cancel := context.WithTimeout(ctx, c.opt.CallTimeout)
	defer cancel()
	h, err := c.acquire(bounded, of, true)
	if err == nil {
		return h, nil
	}
	if by, held, _ := c.LockedBy(ctx, name); held {
		err = fmt.Errorf("%w: %q with token %d", err, by.Identity, by.Token)
	}
	return nil, fmt.Errorf("taking the lock %q: %w", name, err)
}

// patient acquires, however often that takes, until ctx ends.
func (c *Coordinator) patient(ctx context.Context, of thing) (*Hold, error) {
	defer c.counts.waits(of)()
	what := of.String()
	wait := backoff.New(retryBase, retryLimit)
	told := false
	for {
		h, err := c.acquire(ctx, of, false)
		if err == nil {
			if told {
				c.opt.Log.Info("etcd answers again", zap.String("for", what))
			}
			return h, nil
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if !told {
			c.opt.Log.Warn("could not wait at etcd; asking again until it answers", zap.String("for", what), zap.Error(err))
			told = true
		}
		if err := wait.Wait(ctx); err != nil {
			return nil, err
		}
	}
}
