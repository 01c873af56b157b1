package closers_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/newsvc/newsvc/framework/internal/closers"
	"github.com/newsvc/newsvc/framework/internal/guard"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type plain struct{ f func() error }

func (p plain) Close() error { return p.f() }

type bounded struct{ f func(context.Context) error }

func (b *bounded) Close(ctx context.Context) error { return b.f(ctx) }

func TestYoungestIsClosedFirstAndOnce(t *testing.T) {
	t.Parallel()
	var s closers.Set
	var order []string
	s.Add(plain{func() error { order = append(order, "plain"); return nil }})
	s.Add("no closer")
	s.Add(nil)
	s.Add(&bounded{func(context.Context) error { order = append(order, "bounded"); return nil }})
	s.Do("function", func(context.Context) error { order = append(order, "function"); return nil })
	for range 2 {
		if err := s.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if want := []string{"function", "bounded", "plain"}; !slices.Equal(order, want) {
		t.Errorf("order %q, want %q", order, want)
	}
}

func TestErrorsAndPanicsKeepNobodyFromBeingClosed(t *testing.T) {
	t.Parallel()
	var s closers.Set
	trouble := errors.New("trouble")
	closed := 0
	s.Add(plain{func() error { closed++; return nil }})
	s.Add(plain{func() error { return trouble }})
	s.Add(&bounded{func(context.Context) error { panic("oh") }})
	err := s.Close(t.Context())
	if !errors.Is(err, trouble) || !strings.Contains(err.Error(), "close *closers_test.bounded: panic: oh") || closed != 1 {
		t.Errorf("closed %d, err = %v", closed, err)
	}
}

func TestEachHasItsShareOfTheTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var s closers.Set
		release := make(chan struct{})
		var left time.Duration
		s.Add(&bounded{func(ctx context.Context) error {
			deadline, _ := ctx.Deadline()
			left = time.Until(deadline)
			return nil
		}})
		s.Do("deaf", func(context.Context) error { <-release; return nil })
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		began := time.Now()
		err := s.Close(ctx)
		if err == nil || !strings.Contains(err.Error(), "deaf does not return") {
			t.Errorf("err = %v", err)
		}
		if took := time.Since(began); took != 5*time.Second+guard.Grace || left != 10*time.Second-took {
			t.Errorf("the deaf one took %v, the other had %v", took, left)
		}
		close(release)
	})
}
