package confined_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/newsvc/newsvc/framework/internal/confined"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestOnlyThePublicTextLeavesTheProcess(t *testing.T) {
	t.Parallel()
	err := confined.New(codes.Unavailable, "nobody there", "nobody under /secret")
	if !strings.Contains(err.Error(), "/secret") {
		t.Errorf("%q hides the reason from our own log", err)
	}
	for name, err := range map[string]error{
		"itself":        err,
		"wrapped":       fmt.Errorf("get user: %w", err),
		"wrapped twice": fmt.Errorf("a: %w", fmt.Errorf("b: %w", err)),
		"joined":        errors.Join(errors.New("other"), err),
	} {
		st := status.Convert(confined.Public(err))
		if st.Code() != codes.Unavailable || strings.Contains(st.Message(), "/secret") || !strings.Contains(st.Message(), "nobody there") {
			t.Errorf("%s: %v leaves the process", name, st)
		}
	}
}

func TestOtherErrorsAreLeftAsTheyAre(t *testing.T) {
	t.Parallel()
	for _, err := range []error{nil, errors.New("x"), status.Error(codes.NotFound, "y")} {
		if got := confined.Public(err); got != err {
			t.Errorf("Public(%v) = %v", err, got)
		}
	}
}

func TestSuccessAllocatesNothing(t *testing.T) {
	if n := testing.AllocsPerRun(100, func() { _ = confined.Public(nil) }); n != 0 {
		t.Errorf("%v allocations, want none: every call passes here", n)
	}
}
