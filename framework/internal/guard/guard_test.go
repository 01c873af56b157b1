package guard_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/newsvc/newsvc/framework/internal/guard"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var errTrouble = errors.New("trouble")

func TestCallNamesWhatFailed(t *testing.T) {
	t.Parallel()
	err := guard.Call(t.Context(), "it", func(context.Context) error { return errTrouble })
	if !errors.Is(err, errTrouble) || err.Error() != "it: trouble" {
		t.Errorf("err = %v", err)
	}
	if err := guard.Call(t.Context(), "", func(context.Context) error { return errTrouble }); err.Error() != "trouble" {
		t.Errorf("err = %v", err)
	}
	if err := guard.Call(t.Context(), "it", func(context.Context) error { return nil }); err != nil {
		t.Errorf("err = %v", err)
	}
}

func TestPanicIsAnErrorWithItsStack(t *testing.T) {
	t.Parallel()
	err := guard.Call(t.Context(), "it", func(context.Context) error { panic("oh") })
	if err == nil || !strings.Contains(err.Error(), "it: panic: oh") || !strings.Contains(err.Error(), "guard_test.go") {
		t.Errorf("err = %v", err)
	}
}

func TestFunctionThatObeysItsContextIsWaitedFor(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		err := guard.Call(ctx, "it", func(ctx context.Context) error {
			<-ctx.Done()
			late := time.NewTimer(guard.Grace / 2)
			<-late.C
			return errTrouble
		})
		if !errors.Is(err, errTrouble) {
			t.Errorf("err = %v", err)
		}
	})
}

func TestFunctionThatDoesNotReturnIsLeftBehind(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		release := make(chan struct{})
		began := time.Now()
		err := guard.Call(ctx, "it", func(context.Context) error { <-release; return nil })
		if err == nil || !strings.Contains(err.Error(), "it does not return") || time.Since(began) != time.Second+guard.Grace {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
		close(release)
	})
}

func TestStartHookEndsWithTheStart(t *testing.T) {
	t.Parallel()
	starting, giveUp := context.WithCancelCause(t.Context())
	hook := guard.UntilEnd(starting, "hook", func(ctx context.Context) error { giveUp(errTrouble); <-ctx.Done(); return ctx.Err() })
	err := hook(t.Context())
	if !errors.Is(err, errTrouble) || !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "hook") {
		t.Errorf("err = %v", err)
	}
	ran := false
	if err := guard.UntilEnd(starting, "hook", func(context.Context) error { ran = true; return nil })(t.Context()); !errors.Is(err, errTrouble) || ran {
		t.Errorf("a hook began after the end: %v, ran %v", err, ran)
	}
}

func TestStopHookHasABudgetOfItsOwn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		over, cancel := context.WithCancel(t.Context())
		cancel()
		var told error
		hook := guard.Within(time.Second, "hook", func(ctx context.Context) error {
			if err := ctx.Err(); err != nil {
				t.Errorf("its time was over before it began: %v", err)
			}
			<-ctx.Done()
			return errTrouble
		}, func(err error) { told = err })
		if err := hook(over); !errors.Is(err, errTrouble) || told != err {
			t.Errorf("err = %v, told %v", err, told)
		}
	})
}

func TestFirstErrorStays(t *testing.T) {
	t.Parallel()
	var f guard.First
	if f.Err() != nil {
		t.Error("an error from nowhere")
	}
	f.Set(errTrouble)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() { f.Set(errors.New("later")) })
	}
	wg.Wait()
	if f.Err() != errTrouble {
		t.Errorf("err = %v", f.Err())
	}
}
