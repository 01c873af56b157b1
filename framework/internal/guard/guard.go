// Package guard calls functions that somebody else wrote, so that neither a panic nor one that does not return takes
// the rest of a start or a stop with it.
package guard

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/newsvc/newsvc/framework/internal/loop"
)

// Grace is how long after the end of its context a function may take to return.
const Grace = time.Second

// Call runs f and returns its error, with what, unless it is empty, before it. A panic is an error with the stack in it. When f has not returned by [Grace] after
// the end of ctx, Call returns an error that names what, and leaves f behind.
func Call(ctx context.Context, what string, f func(context.Context) error) error {
	var err error
	run := loop.Start(ctx, func(ctx context.Context) { err = Recovered(ctx, f) })
	if run.Join(ctx) != nil {
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), Grace)
		defer cancel()
		if run.Join(grace) != nil {
			return fmt.Errorf("%s does not return although its context ended (%w); it is left behind", what, context.Cause(ctx))
		}
	}
	<-run.Done() // f may have ended together with its context
	if err != nil && what != "" {
		return fmt.Errorf("%s: %w", what, err)
	}
	return err
}

// Recovered runs f in this goroutine and returns its error, or its panic as one.
func Recovered(ctx context.Context, f func(context.Context) error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	return f(ctx)
}

// UntilEnd wraps a start hook: its context ends with that of the hook and with starting, after whose end it does not
// begin. Its errors tell why starting ended.
func UntilEnd(starting context.Context, what string, start func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		ctx, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		defer context.AfterFunc(starting, func() { cancel(context.Cause(starting)) })()
		if starting.Err() != nil {
			return context.Cause(starting)
		}
		err := Call(ctx, what, start)
		if cause := context.Cause(starting); err != nil && cause != nil && !errors.Is(err, cause) {
			return fmt.Errorf("%w: %w", cause, err)
		}
		return err
	}
}

// Within wraps a stop hook: it has a budget of its own, whatever others have left of ctx, and is waited for no longer.
func Within(budget time.Duration, what string, stop func(context.Context) error, failed func(error)) func(context.Context) error {
	return func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), budget)
		defer cancel()
		err := Call(ctx, what, stop)
		if err != nil {
			failed(err)
		}
		return err
	}
}

// First remembers the first error it is told. The zero value is ready for use; its methods are safe for concurrent use.
type First struct{ err atomic.Pointer[error] }

// Set remembers err if nothing was remembered before.
func (f *First) Set(err error) { f.err.CompareAndSwap(nil, &err) }

// Err returns what is remembered; nil is nothing.
func (f *First) Err() error {
	if err := f.err.Load(); err != nil {
		return *err
	}
	return nil
}
