// Package stopsignal turns the signals that ask a process to stop into the end of a context, and a second one into the
// end of the process: whoever signals twice does not want to wait.
package stopsignal

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"runtime"
	"syscall"

	"go.uber.org/zap"

	"github.com/newsvc/newsvc/framework/internal/loop"
)

// Error is the cause of the context that a signal ended.
type Error struct{ syscall.Signal }

// Error names the signal.
func (e Error) Error() string { return "signal " + e.Signal.String() }

// Watch takes over SIGINT, SIGTERM, SIGHUP and SIGQUIT; SIGHUP stays ignored where it was, as under nohup. The first one
// ends the context with an [Error] as its cause; the second calls exit with 128 and the signal's number. stop gives the
// signals back and waits for nothing but itself.
func Watch(exit func(code int)) (ctx context.Context, stop func()) {
	in := make(chan os.Signal, 2)
	signal.Notify(in, syscall.SIGINT, syscall.SIGTERM, syscall.SIGQUIT)
	if !signal.Ignored(syscall.SIGHUP) {
		signal.Notify(in, syscall.SIGHUP)
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	l := loop.Start(context.Background(), func(stopped context.Context) {
		defer signal.Stop(in)
		for first := true; ; first = false {
			select {
			case <-stopped.Done():
				return
			case s := <-in:
				n, _ := s.(syscall.Signal)
				if !first {
					exit(128 + int(n))
				}
				cancel(Error{n})
			}
		}
	})
	return ctx, func() { l.Stop(); cancel(context.Canceled) }
}

// Log writes which signal ended a context of [Watch], and for SIGQUIT the stacks of all goroutines.
func Log(ctx context.Context, log *zap.Logger) {
	cause := context.Cause(ctx)
	log.Info("stopping", zap.String("reason", cause.Error()))
	if sig := (Error{}); errors.As(cause, &sig) && sig.Signal == syscall.SIGQUIT {
		stacks := make([]byte, 4<<20)
		log.Warn("goroutine stacks", zap.ByteString("stacks", stacks[:runtime.Stack(stacks, true)]))
	}
}
