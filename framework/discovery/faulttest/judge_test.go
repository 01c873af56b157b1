package faulttest_test

import (
	"errors"
	"testing"
	"time"

	"github.com/newsvc/newsvc/framework/discovery/faulttest"
)

// violated is the invariant that an error says is violated; empty: none.
func violated(err error) string {
	if v, ok := errors.AsType[*faulttest.ViolationError](err); ok {
		return v.Invariant
	}
	return ""
}

func TestABusyMachineExcusesLittle(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		late, behind time.Duration
		want         string
		unjudged     int
	}{
		"in time":              {40 * time.Millisecond, 0, "", 0},
		"late":                 {60 * time.Millisecond, 0, "I8", 0},
		"late as timers are":   {200 * time.Millisecond, 60 * time.Millisecond, "", 0},
		"much later than that": {2 * time.Second, 150 * time.Millisecond, "I8", 0},
		"nobody can tell":      {2 * time.Second, 700 * time.Millisecond, "", 1},
	} {
		j := faulttest.NewJudge()
		if got := violated(j.Report(faulttest.Report{LateBy: tt.late, Behind: tt.behind})); got != tt.want {
			t.Errorf("%s: violated is %q, want %q", name, got, tt.want)
		}
		if all, unjudged := j.Phases(); all != 1 || unjudged != tt.unjudged {
			t.Errorf("%s: %d of %d phases were not judged, want %d of 1", name, unjudged, all, tt.unjudged)
		}
	}
}

func TestALongRunThatCouldNotJudgeFails(t *testing.T) {
	t.Parallel()
	j := faulttest.NewJudge()
	for _, behind := range []time.Duration{0, time.Second, time.Second} {
		if err := j.Report(faulttest.Report{Behind: behind}); err != nil {
			t.Error(err)
		}
	}
	if got := violated(j.End(10 * time.Minute)); got != "I8" {
		t.Errorf("two of three phases were not judged, and violated is %q", got)
	}
	if err := j.End(time.Minute); err != nil {
		t.Errorf("a short run: %v", err)
	}
}

func TestOnlyWhatAKilledServerHadIsExcused(t *testing.T) {
	t.Parallel()
	const killed = "127.0.0.1:1000"
	at := time.Now()
	failure := func(kind, server string, after time.Duration) []faulttest.Failure {
		return []faulttest.Failure{{Kind: kind, Server: server, Due: at.Add(-10 * time.Millisecond), At: at.Add(after)}}
	}
	for name, tt := range map[string]struct {
		r    faulttest.Report
		want string
	}{
		"a write":                      {faulttest.Report{Failed: 1, FailedWrites: 1, Failures: failure(faulttest.KindWrite, killed, 0)}, ""},
		"a write of nobody knows whom": {faulttest.Report{Failed: 1, FailedWrites: 1, Failures: failure(faulttest.KindWrite, "", 0)}, ""},
		"a write of another server":    {faulttest.Report{Failed: 1, FailedWrites: 1, Failures: failure(faulttest.KindWrite, "127.0.0.1:2", 0)}, "I3"},
		"a write that failed later":    {faulttest.Report{Failed: 1, FailedWrites: 1, Failures: failure(faulttest.KindWrite, killed, 2*time.Second)}, "I3"},
		"a read":                       {faulttest.Report{Failed: 1, Failures: failure(faulttest.KindRead, killed, 0)}, "I3"},
		"more than is told":            {faulttest.Report{Failed: 100, FailedWrites: 100, Failures: failure(faulttest.KindWrite, killed, 0)}, "I3"},
		"two, one of them told":        {faulttest.Report{Failed: 2, FailedWrites: 2, Failures: failure(faulttest.KindWrite, killed, 0)}, ""},
		"a read that is not told":      {faulttest.Report{Failed: 2, FailedWrites: 1, Failures: failure(faulttest.KindWrite, killed, 0)}, "I3"},
		"streams that are not told":    {faulttest.Report{Streams: faulttest.Streams{Lost: 60, Failures: failure(faulttest.KindStream, killed, 0)}}, "I3"},
		"an answer of another service": {faulttest.Report{Misrouted: 1}, "I2"},
	} {
		j := faulttest.NewJudge()
		j.Killed(killed, at)
		if got := violated(j.Report(tt.r)); got != tt.want {
			t.Errorf("%s: violated is %q, want %q", name, got, tt.want)
		}
	}
}
