package loop_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"

	"github.com/newsvc/newsvc/framework/internal/loop"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestStopWaitsForTheBody(t *testing.T) {
	t.Parallel()
	var left atomic.Bool
	l := loop.Start(t.Context(), func(ctx context.Context) {
		<-ctx.Done()
		left.Store(true)
	})
	l.Stop()
	if !left.Load() {
		t.Fatal("Stop returned before the body did")
	}
	l.Stop() // a second Stop finds nothing to do
}

func TestJoinGivesUpWithItsContext(t *testing.T) {
	t.Parallel()
	l := loop.Start(t.Context(), func(ctx context.Context) { <-ctx.Done() })
	defer l.Stop()
	cause := errors.New("out of time")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(cause)
	if err := l.Join(ctx); !errors.Is(err, cause) {
		t.Fatalf("Join = %v, want %v", err, cause)
	}
}

func TestGroupCancelsAllBeforeItWaits(t *testing.T) {
	t.Parallel()
	var g loop.Group
	gone := make(chan struct{})
	// The first loop ends only after the second one has ended: a group that stopped them in turn would hang.
	g.Start(t.Context(), func(ctx context.Context) { <-ctx.Done(); <-gone })
	g.Start(t.Context(), func(ctx context.Context) { <-ctx.Done(); close(gone) })
	g.Stop()
}

func TestLoopEndsWithItsParent(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	l := loop.Start(ctx, func(ctx context.Context) { <-ctx.Done() })
	cancel()
	<-l.Done()
}
