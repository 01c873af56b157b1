// Package model draws schedules of faults at random and runs code under them in virtual time, against an etcd of package
// fakeetcd. What a schedule means, and what has to hold under it, is the test's; this package draws, runs, shrinks and prints.
//
// A schedule that failed is printed so that it can be pasted into a test of its own as a [Schedule]. Nothing runs before
// [Check].
package model

import (
	"context"
	"flag"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"pgregory.net/rapid"

	"github.com/newsvc/newsvc/framework/internal/backoff"
	"github.com/newsvc/newsvc/framework/internal/fakeetcd"
)

// Step is one thing that happens, some time after the one before.
type Step struct {
	// Wait is the time since the step before.
	Wait time.Duration
	// Kind says what happens, N in which variant.
	Kind string
	N    int
}

// Schedule is what happens, in order.
type Schedule []Step

// String is Go source.
func (s Schedule) String() string {
	var b strings.Builder
	b.WriteString("model.Schedule{")
	for _, st := range s {
		fmt.Fprintf(&b, "\n\t{Wait: %d, Kind: %q, N: %d}, // %v", int64(st.Wait), st.Kind, st.N, st.Wait)
	}
	b.WriteString("\n}")
	return b.String()
}

// client makes a client; one with a password when the schedule knows tokens.
func (s Schedule) client(etcd *fakeetcd.Server) (*clientv3.Client, error) {
	for _, st := range s {
		if st.Kind == "expire tokens" {
			etcd.Protect()
			return etcd.ClientWithPassword("shop", "secret")
		}
	}
	return etcd.Client()
}

// World is what a run is given: an etcd, a client of it, and a source of faults.
type World struct {
	Server  *fakeetcd.Server
	Client  *clientv3.Client
	Trouble *fakeetcd.Trouble
}

// Run is one run of a schedule. It returns the first promise that was broken.
type Run func(ctx context.Context, w World, s Schedule) error

// budget is how long one Check takes at most, in real time, unless a number of schedules was asked for.
const budget = 2 * time.Second

// Check has rapid draw schedules of at most that many steps of the given kinds, and logs how fast time passed. It ends after
// two seconds; with the flag -rapid.checks it runs as many schedules as that says.
func Check(t *testing.T, kinds []string, most int, run Run) {
	t.Helper()
	begin, n := time.Now(), 0
	var virtual time.Duration
	asked := false
	flag.Visit(func(f *flag.Flag) { asked = asked || strings.HasPrefix(f.Name, "rapid.") })
	rapid.Check(t, func(rt *rapid.T) {
		s := draw(rt, kinds, most)
		if !asked && time.Since(begin) > budget {
			return
		}
		took, err := bubble(t, s, run)
		virtual += took
		n++
		if err != nil {
			rt.Fatalf("%v\nafter %v", err, s)
		}
	})
	took := time.Since(begin)
	t.Logf("%d schedules, %.1f virtual hours in %v: %.1f in a second", n, virtual.Hours(), took.Round(time.Millisecond), virtual.Hours()/took.Seconds())
}

// Repeat runs one schedule several times: what happens at the same moment happens in another order each time.
func Repeat(t *testing.T, times int, s Schedule, run Run) {
	t.Helper()
	for range times {
		if _, err := bubble(t, s, run); err != nil {
			t.Fatalf("%v\nafter %v", err, s)
		}
	}
}

// draw draws a schedule. Waits are of all magnitudes, so that things happen at once, within a call, and within a lease.
func draw(t *rapid.T, kinds []string, most int) Schedule {
	waits := rapid.Custom(func(t *rapid.T) time.Duration {
		unit := rapid.SampledFrom([]time.Duration{0, time.Millisecond, 30 * time.Millisecond, time.Second, 10 * time.Second}).Draw(t, "unit")
		return unit * time.Duration(rapid.IntRange(1, 9).Draw(t, "times"))
	})
	step := rapid.Custom(func(t *rapid.T) Step {
		return Step{waits.Draw(t, "wait"), rapid.SampledFrom(kinds).Draw(t, "kind"), rapid.IntRange(0, 99).Draw(t, "n")}
	})
	return rapid.SliceOfN(step, 1, most).Draw(t, "schedule")
}

func bubble(t *testing.T, s Schedule, run Run) (took time.Duration, err error) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		w := World{Server: fakeetcd.New()}
		defer w.Server.Close()
		w.Trouble = fakeetcd.NewTrouble(w.Server)
		if w.Client, err = s.client(w.Server); err != nil {
			return
		}
		defer w.Client.Close()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		err = run(ctx, w, s)
		took = time.Since(begin)
	})
	return took, err
}

// Within asks until ok returns nil, and returns what it returned last.
func Within(ctx context.Context, d time.Duration, ok func() error) error {
	const gap = 20 * time.Millisecond
	end := time.Now().Add(d)
	for {
		err := ok()
		if err == nil || !time.Now().Before(end) || backoff.Sleep(ctx, gap) != nil {
			return err
		}
	}
}
