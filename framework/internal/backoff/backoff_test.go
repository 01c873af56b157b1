package backoff_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/newsvc/newsvc/framework/internal/backoff"
)

func TestWaitsGrowToTheLimitAndStayJittered(t *testing.T) {
	t.Parallel()
	b := backoff.New(100*time.Millisecond, time.Second)
	bounds := []time.Duration{100, 200, 400, 800, 1000, 1000}
	for i, bound := range bounds {
		bound *= time.Millisecond
		if d := b.Next(); d < bound/20 || d > bound {
			t.Errorf("wait %d = %v, want between %v and %v", i, d, bound/20, bound)
		}
	}
	b.Reset()
	if d := b.Next(); d > 100*time.Millisecond {
		t.Errorf("first wait after Reset = %v, want at most 100ms", d)
	}
}

func TestSleepEndsWithItsContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		cause := errors.New("stopped")
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Second, func() { cancel(cause) })
		start := time.Now()
		if err := backoff.Sleep(ctx, time.Hour); !errors.Is(err, cause) {
			t.Errorf("Sleep = %v, want %v", err, cause)
		}
		if d := time.Since(start); d != time.Second {
			t.Errorf("Sleep took %v, want 1s", d)
		}
		if err := backoff.Sleep(t.Context(), time.Minute); err != nil {
			t.Errorf("Sleep = %v, want nil", err)
		}
	})
}

func TestSpreadStaysWithinItsShare(t *testing.T) {
	t.Parallel()
	for range 1000 {
		if d := backoff.Spread(time.Second, 0.2); d < 800*time.Millisecond || d > 1200*time.Millisecond {
			t.Fatalf("Spread = %v, want 0.8s to 1.2s", d)
		}
		if d := backoff.UpTo(time.Second); d < 0 || d > time.Second {
			t.Fatalf("UpTo = %v, want 0 to 1s", d)
		}
	}
	if d := backoff.UpTo(0); d != 0 {
		t.Fatalf("UpTo(0) = %v, want 0", d)
	}
}
