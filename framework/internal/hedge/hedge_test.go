package hedge_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/newsvc/newsvc/framework/internal/hedge"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var errAnswer = errors.New("it is time to answer")

// silent answers nothing until its context ends.
func silent(ctx context.Context) (int, error) {
	<-ctx.Done()
	return 0, context.Cause(ctx)
}

func TestFirst(t *testing.T) {
	t.Parallel()
	bad, worse := errors.New("bad"), errors.New("worse")
	after := func(d time.Duration, n int, err error) func(context.Context) (int, error) {
		return func(ctx context.Context) (int, error) {
			ctx, cancel := context.WithTimeoutCause(ctx, d, errAnswer)
			defer cancel()
			if _, end := silent(ctx); !errors.Is(end, errAnswer) {
				return 0, end
			}
			return n, err
		}
	}
	for name, c := range map[string]struct {
		n      int
		pace   time.Duration
		calls  []func(context.Context) (int, error) // the last one stands for all that follow
		answer int
		err    error
		took   time.Duration
		begun  int32
	}{
		"a quick answer needs no second call": {3, time.Second, []func(context.Context) (int, error){after(time.Millisecond, 1, nil)}, 1, nil, time.Millisecond, 1},
		"a late one wins when it comes first": {
			3, time.Second, []func(context.Context) (int, error){after(1500*time.Millisecond, 1, nil), silent}, 1, nil, 1500 * time.Millisecond, 2,
		},
		"one is silent": {2, time.Second, []func(context.Context) (int, error){silent, after(time.Millisecond, 2, nil)}, 2, nil, time.Second + time.Millisecond, 2},
		"two are":       {3, time.Second, []func(context.Context) (int, error){silent, silent, after(0, 3, nil)}, 3, nil, 2 * time.Second, 3},
		"all at once":   {2, 0, []func(context.Context) (int, error){silent, after(time.Millisecond, 2, nil)}, 2, nil, time.Millisecond, 2},
		"an error is no reason to ask another one": {2, time.Second, []func(context.Context) (int, error){after(time.Millisecond, 0, bad)}, 0, bad, time.Millisecond, 1},
		"an error of one of two": {
			2, 0, []func(context.Context) (int, error){after(0, 0, bad), after(time.Second, 2, nil)}, 2, nil, time.Second, 2,
		},
		"errors of both":     {2, 0, []func(context.Context) (int, error){after(time.Second, 0, worse), after(0, 0, bad)}, 0, worse, time.Second, 2},
		"nobody ever":        {2, time.Second, []func(context.Context) (int, error){silent}, 0, context.DeadlineExceeded, 5 * time.Second, 2},
		"one, and it is all": {0, 0, []func(context.Context) (int, error){silent}, 0, context.DeadlineExceeded, 5 * time.Second, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
				defer cancel()
				var begun atomic.Int32
				began := time.Now()
				answer, err := hedge.First(ctx, hedge.Plan{Calls: c.n, Pace: c.pace}, func(ctx context.Context) (int, error) {
					return c.calls[min(int(begun.Add(1)), len(c.calls))-1](ctx)
				})
				if answer != c.answer || !errors.Is(err, c.err) {
					t.Errorf("got %d, %v, want %d, %v", answer, err, c.answer, c.err)
				}
				if took := time.Since(began); took != c.took || begun.Load() != c.begun {
					t.Errorf("%d calls in %v, want %d in %v", begun.Load(), took, c.begun, c.took)
				}
			})
		})
	}
}

func TestWithoutAConnectionOneCallWaits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		var begun atomic.Int32
		answer, err := hedge.First(t.Context(), hedge.Plan{Calls: 3, Pace: time.Second, If: func() bool { return time.Since(began) > 2500*time.Millisecond }},
			func(ctx context.Context) (int, error) {
				if begun.Add(1) == 1 {
					return silent(ctx)
				}
				return 2, nil
			})
		if took := time.Since(began); answer != 2 || err != nil || took != 3*time.Second || begun.Load() != 2 {
			t.Errorf("got %d, %v after %v and %d calls", answer, err, took, begun.Load())
		}
	})
}
