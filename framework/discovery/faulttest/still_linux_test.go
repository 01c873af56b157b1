package faulttest_test

import (
	"testing"
	"time"

	"github.com/newsvc/newsvc/framework/discovery/faulttest"
)

func TestAProcessStandsStillWhenFreezeReturns(t *testing.T) {
	t.Parallel()
	ctx := within(t, time.Minute)
	m := start(ctx, t, faulttest.ClusterConfig{}).Member(0)
	for range 50 {
		must(t, m.Freeze(ctx))
		if still, err := faulttest.AllStopped(m.PID()); err != nil || !still {
			t.Fatalf("still: %v, %v", still, err)
		}
		must(t, m.Thaw())
	}
}
