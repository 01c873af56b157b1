// Package stopsignal turns the signals that ask a process to stop into the end of a context, and a second one into the
// end of the process: whoever signals twice does not want to wait.
package stopsignal

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"runtime"
	"sync/atomic"
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
	ctx, _, stop = WatchHangup(exit)
	return ctx, stop
}

// WatchHangup is Watch with a function that gives SIGHUP another meaning: from its call on, SIGHUP calls instead, and stops
// nothing; also where it was ignored, as under nohup. instead must return at once.
func WatchHangup(exit func(code int)) (ctx context.Context, onHangup func(instead func()), stop func()) {
	in := make(chan os.Signal, 2)
	signal.Notify(in, syscall.SIGINT, syscall.SIGTERM, syscall.SIGQUIT)
	if !signal.Ignored(syscall.SIGHUP) {
		signal.Notify(in, syscall.SIGHUP)
	}
	var other atomic.Pointer[func()]
	ctx, cancel := context.WithCancelCause(context.Background())
	l := loop.Start(context.Background(), func(stopped context.Context) {
		defer signal.Stop(in)
		for first := true; ; {
			select {
			case <-stopped.Done():
				return
			case s := <-in:
				n, _ := s.(syscall.Signal)
				if instead := other.Load(); n == syscall.SIGHUP && instead != nil {
					(*instead)()
					continue
				}
				if !first {
					exit(128 + int(n))
				}
				first = false
				cancel(Error{n})
			}
		}
	})
	onHangup = func(instead func()) {
		other.Store(&instead)
		signal.Notify(in, syscall.SIGHUP)
	}
	return ctx, onHangup, func() { l.Stop(); cancel(context.Canceled) }
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
