package newsvc_test

import (
	"context"
	"errors"
	"flag"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/newsvc/newsvc/framework/discovery/faulttest"
	"github.com/newsvc/newsvc/framework/discovery/faulttest/newsvc"
)

// Random faults for as long as asked:
//
//	go test ./framework/discovery/faulttest/newsvc -run TestSoak -soak.for 30m -soak.seed 1 -timeout 60m -v
var (
	soakFor  = flag.Duration("soak.for", 0, "how long random faults come; 0: some quick ones, once each")
	soakSeed = flag.Uint64("soak.seed", 0, "repeats a soak; 0 draws a seed")
)

// quickFaults are those of every test run.
func quickFaults() []string {
	return []string{
		"etcd frozen", "link silent", "keys deleted", "server killed", "leases revoked", "client restarted",
		"etcd killed", "address reused", "value corrupted", "etcd restored", "server restarted", "history compacted",
	}
}

func TestSoak(t *testing.T) {
	t.Parallel()
	opt := faulttest.SoakOptions{Adapter: newsvc.Name, Seed: *soakSeed, For: *soakFor, Log: testLog{t}}
	if opt.Seed == 0 {
		opt.Seed = rand.Uint64()
	}
	if opt.For == 0 {
		opt.Faults, opt.Members, opt.Rate = quickFaults(), 1, 10
	}
	ctx, cancel := context.WithTimeout(t.Context(), opt.For+5*time.Minute)
	defer cancel()
	report, err := newLab(t, built.subject).Soak(ctx, opt)
	if report != nil {
		t.Log("\n" + report.String())
	}
	if err != nil {
		t.Errorf("%v\nto repeat it: -soak.for %s -soak.seed %d", err, opt.For, opt.Seed)
	}
}

// A suite that finds nothing must have looked.
func TestASoakNoticesWhenCallsGoAstray(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	_, err := newLab(t, built.subject).Soak(ctx, faulttest.SoakOptions{
		Adapter: newsvc.NoAuthority, Seed: 2, Members: 1, Faults: []string{"address reused"},
	})
	var v *faulttest.ViolationError
	if !errors.As(err, &v) || v.Invariant != "I2" || !strings.Contains(err.Error(), "address reused") {
		t.Errorf("servers that answer for others go unnoticed, or the faults untold: %v", err)
	}
}

// testLog writes to the log of a test.
type testLog struct{ t *testing.T }

func (l testLog) Write(p []byte) (int, error) {
	l.t.Log(string(p[:len(p)-1]))
	return len(p), nil
}
