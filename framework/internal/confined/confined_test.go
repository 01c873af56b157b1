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

func TestTwoThatAreJoinedBothKeepTheirReasons(t *testing.T) {
	t.Parallel()
	users := confined.New(codes.Unavailable, "no users", "nobody under /secret/users")
	orders := confined.New(codes.DeadlineExceeded, "no orders", "nobody under /secret/orders")
	st := status.Convert(confined.Public(fmt.Errorf("page: %w", errors.Join(users, orders))))
	if st.Code() != codes.Unavailable || st.Message() != "page: no users\nno orders" {
		t.Errorf("%v leaves the process", st)
	}
}

// answer is an error of a service that decides itself what is sent.
type answer struct{ error }

func (answer) GRPCStatus() *status.Status { return status.New(codes.NotFound, "no such page") }
func (a answer) Unwrap() error            { return a.error }

func TestAnErrorWithAStatusOfItsOwnKeepsIt(t *testing.T) {
	t.Parallel()
	err := answer{confined.New(codes.Unavailable, "nobody there", "nobody under /secret")}
	if st := status.Convert(confined.Public(err)); st.Code() != codes.NotFound || st.Message() != "no such page" {
		t.Errorf("%v leaves the process", st)
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
