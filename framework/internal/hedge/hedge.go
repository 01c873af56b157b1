// Package hedge asks etcd more than once where one of its members may be silent: it answers nothing though it takes calls, as
// a member does that is cut off from the others. clientv3 hands calls to the members in turn, but its turn also counts what it
// repeats by itself, so calls made one after another may all meet the silent one.
package hedge

import (
	"context"
	"time"

	"github.com/newsvc/newsvc/framework/internal/loop"
)

// Plan says how often is asked. The zero value is one call.
type Plan struct {
	// Calls is how many calls are made at most; 0 is one.
	Calls int
	// Pace is the time without an answer after which one more is made; 0 makes all at once.
	Pace time.Duration
	// If is asked before each call but the first; while it says no, none is made. Nil always says yes. Without a connection
	// calls only wait, and all of them would go out at the moment at which it is back.
	If func() bool
}

// First makes calls according to the plan and returns the first good answer; the others are given up. When none of those that
// were made is good, the error is the last one's. call must end with its context.
func First[T any](ctx context.Context, p Plan, call func(context.Context) (T, error)) (answer T, err error) {
	type result struct {
		answer T
		err    error
	}
	results := make(chan result, max(p.Calls, 1))
	var calls loop.Group
	defer calls.Stop()
	open, left := 0, max(p.Calls, 1)
	begin := func() {
		open++
		left--
		calls.Start(ctx, func(ctx context.Context) {
			a, err := call(ctx)
			results <- result{a, err}
		})
	}
	begin()
	for p.Pace <= 0 && left > 0 && p.worth() {
		begin()
	}
	var late <-chan time.Time
	if p.Pace > 0 {
		t := time.NewTicker(p.Pace)
		defer t.Stop()
		late = t.C
	}
	for open > 0 {
		select { // each call ends with ctx
		case r := <-results:
			open--
			if r.err == nil {
				return r.answer, nil
			}
			err = r.err
		case <-late:
			if left > 0 && p.worth() {
				begin()
			}
		}
	}
	return answer, err
}

func (p Plan) worth() bool { return p.If == nil || p.If() }
