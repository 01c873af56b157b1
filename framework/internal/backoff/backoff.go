// Package backoff spaces out repeated attempts: waits that grow, that are jittered so that a thousand processes do not
// knock at the same moment, and that end with their context.
//
// The jitter is "full jitter" as described by Marc Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
package backoff

import (
	"context"
	"math/rand/v2"
	"time"
)

// Backoff yields growing waits. It belongs to one goroutine.
type Backoff struct {
	base, limit, next time.Duration
}

// New returns a backoff whose first wait lies between 0 and base; each later one doubles that bound until it is limit.
// Both must be greater than zero and limit at least base.
func New(base, limit time.Duration) *Backoff {
	return &Backoff{base: base, limit: limit, next: base}
}

// Next returns the next wait, at least a twentieth of its bound, so that a row of unlucky draws is no busy loop.
func (b *Backoff) Next() time.Duration {
	bound := b.next
	b.next = min(2*bound, b.limit)
	floor := bound / 20
	return floor + rand.N(bound-floor+1)
}

// Reset makes the next wait a first one again; call it after a success.
func (b *Backoff) Reset() { b.next = b.base }

// Wait sleeps for the next wait. It returns the context's cause when ctx ends first.
func (b *Backoff) Wait(ctx context.Context) error { return Sleep(ctx, b.Next()) }

// Sleep waits for d or until ctx ends, and then returns the context's cause.
func Sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return context.Cause(ctx)
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Spread returns a duration drawn evenly from d·(1-share) to d·(1+share). Use it for periods, so that processes that
// were started together drift apart. share lies between 0 and 1.
func Spread(d time.Duration, share float64) time.Duration {
	width := time.Duration(float64(d) * share)
	if width <= 0 {
		return d
	}
	return d - width + rand.N(2*width+1)
}

// UpTo returns a duration drawn evenly from 0 to d.
func UpTo(d time.Duration) time.Duration {
	if d <= 0 {
		return 0
	}
	return rand.N(d + 1)
}
