package app

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/fx"
	"go.uber.org/zap"

	"github.com/newsvc/newsvc/framework/internal/loop"
	"github.com/newsvc/newsvc/framework/stack"
)

// running is the last hook: workers and the server.
type running struct {
	boot    *boot
	stack   *stack.Stack
	workers []worker
	down    fx.Shutdowner

	tasks loop.Group
	watch *loop.Loop
}

func (r *running) start(ctx context.Context) error {
	failed := make(chan error, len(r.workers))
	for _, w := range r.workers {
		r.tasks.Start(context.Background(), func(ctx context.Context) {
			if err := w.Run(ctx); err != nil && ctx.Err() == nil {
				failed <- fmt.Errorf("worker %q ended: %w", w.name, err)
			}
		})
	}
	if err := r.stack.Start(ctx); err != nil {
		r.tasks.Stop()
		return err
	}
	r.watch = loop.Start(context.Background(), func(ctx context.Context) { r.wait(ctx, failed) })
	return nil
}

// wait ends the process when a listener or a worker fails by itself.
func (r *running) wait(ctx context.Context, failed <-chan error) {
	var err error
	select {
	case <-ctx.Done():
		return
	case err = <-r.stack.Failed():
	case err = <-failed:
	}
	r.boot.log.Error("stopping because a part failed", zap.Error(err))
	r.boot.fail(err)
	if err := r.down.Shutdown(fx.ExitCode(1)); err != nil {
		r.boot.log.Error("could not ask the process to stop", zap.Error(err))
	}
}

// stop drains with the stack's own budget, from a fresh context: Fx's is shared by all hooks.
func (r *running) stop(ctx context.Context) error {
	if r.watch != nil {
		r.watch.Stop()
	}
	err := r.stack.Drain(context.WithoutCancel(ctx))
	r.tasks.Stop()
	if err != nil {
		r.boot.log.Error("not all work could be finished", zap.Error(err))
		r.boot.fail(err)
	}
	return err
}

// endTimeout bounds each of the two last steps: closing what the service provided, and closing the stack.
const endTimeout = 5 * time.Second

// end closes what the service provided and then the stack. It does its work once.
func (b *boot) end(ctx context.Context, s *stack.Stack) error {
	ctx = context.WithoutCancel(ctx)
	provided, cancel := context.WithTimeout(ctx, endTimeout)
	defer cancel()
	err := b.closers.Close(provided)
	rest, cancelRest := context.WithTimeout(ctx, endTimeout)
	defer cancelRest()
	err = errors.Join(err, s.Close(rest))
	if err != nil {
		b.log.Error("not everything could be closed", zap.Error(err))
		b.fail(err)
	}
	return err
}

func oneHandler(all []handler) error {
	if len(all) > 1 {
		return fmt.Errorf("%s: app.HTTP: a handler is given at %s already; mount both on one mux", all[1].where, all[0].where)
	}
	return nil
}
