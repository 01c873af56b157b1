// Package closers remembers values that have a Close and closes them in reverse order.
package closers

import (
	"context"
	"errors"
	"fmt"
	"sync"
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
	var f func(context.Context) error
	switch v := value.(type) {
	case interface{ Close() error }:
		f = func(context.Context) error { return v.Close() }
	case interface{ Close(context.Context) error }:
		f = v.Close
	default:
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all = append(c.all, closer{fmt.Sprintf("%T", value), f})
}

// Close closes everything once, the youngest first, and joins the errors.
func (c *Set) Close(ctx context.Context) error {
	c.mu.Lock()
	all := c.all
	c.all = nil
	c.mu.Unlock()
	var errs []error
	for i := len(all) - 1; i >= 0; i-- {
		if err := all[i].close(ctx); err != nil {
			errs = append(errs, fmt.Errorf("close %s: %w", all[i].what, err))
		}
	}
	return errors.Join(errs...)
}
