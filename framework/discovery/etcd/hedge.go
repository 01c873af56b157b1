package etcd

import (
	"context"

	"github.com/newsvc/newsvc/framework/internal/loop"
)

// hedge is how many members are asked at a time when one did not answer. Calls go to the members in turn, and without
// this a call might meet the same silent one again and again.
const hedge = 2

// firstOf makes n calls at a time and returns the first answer; the others are given up. When none answers, the error
// is one of theirs.
func firstOf[T any](ctx context.Context, n int, call func(context.Context) (T, error)) (answer T, err error) {
	type result struct {
		answer T
		err    error
	}
	results := make(chan result, n)
	var calls loop.Group
	defer calls.Stop()
	for range n {
		calls.Start(ctx, func(ctx context.Context) {
			a, err := call(ctx)
			results <- result{a, err}
		})
	}
	for range n {
		r := <-results // each call ends with ctx
		if r.err == nil {
			return r.answer, nil
		}
		err = r.err
	}
	return answer, err
}
