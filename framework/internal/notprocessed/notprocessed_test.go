package notprocessed_test

import (
	"errors"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/newsvc/newsvc/framework/internal/notprocessed"
)

func TestOnlyTheMarkIsTheMark(t *testing.T) {
	t.Parallel()
	foreign, err := status.New(codes.Unavailable, "x").WithDetails(&errdetails.ErrorInfo{Domain: "other", Reason: notprocessed.Reason})
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		err  error
		want bool
	}{
		"marked":          {notprocessed.Error("draining"), true},
		"nil":             {nil, false},
		"plain":           {errors.New("x"), false},
		"unmarked status": {status.Error(codes.Unavailable, "x"), false},
		"foreign domain":  {foreign.Err(), false},
	} {
		if got := notprocessed.Is(tc.err); got != tc.want {
			t.Errorf("%s: Is = %v, want %v", name, got, tc.want)
		}
	}
	if got := status.Convert(notprocessed.Error("draining")).Message(); got != "draining" {
		t.Errorf("message = %q, want %q", got, "draining")
	}
}

func TestARefusalMaySayHowLongToWait(t *testing.T) {
	t.Parallel()
	err := notprocessed.Later("full", 70*time.Millisecond)
	if !notprocessed.Is(err) || notprocessed.Wait(err) != 70*time.Millisecond {
		t.Errorf("%v: marked %v, wait %s; want a mark and 70 ms", err, notprocessed.Is(err), notprocessed.Wait(err))
	}
	for _, other := range []error{nil, errors.New("x"), notprocessed.Error("draining"), notprocessed.Later("full", -time.Second)} {
		if wait := notprocessed.Wait(other); wait != 0 {
			t.Errorf("%v says to wait %s, want nothing", other, wait)
		}
	}
}
