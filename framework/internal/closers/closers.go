// Package closers remembers what has to be closed and closes it in reverse order, whatever the single ones do.
package closers

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/newsvc/newsvc/framework/internal/guard"
)

// Set is what will have to be closed. The zero value is ready for use; its methods are safe for concurrent use.
type Set struct {
	mu  sync.Mutex
	all []closer
}

type closer struct {
	what  string
	close func(context.Context) error
}

// Add remembers value if it has a method Close() error or Close(context.Context) error; other values pass.
func (c *Set) Add(value any) {
	what := fmt.Sprintf("close %T", value)
	switch v := value.(type) {
	case interface{ Close() error }:
		c.Do(what, func(context.Context) error { return v.Close() })
	case interface{ Close(context.Context) error }:
		c.Do(what, v.Close)
	}
}

// Do remembers a function; what names it in errors.
func (c *Set) Do(what string, f func(context.Context) error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all = append(c.all, closer{what, f})
}

// Close closes everything once, the youngest first, and joins the errors. Each gets an equal share of the time that is
// left until ctx ends, so that one that takes too long, or does not return at all, costs the others nothing.
func (c *Set) Close(ctx context.Context) error {
	c.mu.Lock()
	all := c.all
	c.all = nil
	c.mu.Unlock()
	var errs []error
	for i, cl := range slices.Backward(all) {
		own, cancel := share(ctx, i+1)
		errs = append(errs, guard.Call(own, cl.what, cl.close))
		cancel()
	}
	return errors.Join(errs...)
}

// share is the time that one of n has.
func share(ctx context.Context, n int) (context.Context, context.CancelFunc) {
	deadline, ok := ctx.Deadline()
	if !ok || n == 1 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, time.Until(deadline)/time.Duration(n))
}
