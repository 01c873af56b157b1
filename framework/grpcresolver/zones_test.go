package grpcresolver_test

import (
	"fmt"
	"testing"
)

// Subsets are drawn without regard to zones. What a caller that prefers its zone finds of it is documented in docs/calls.md;
// these are its numbers.
func TestASubsetHoldsAZoneAboutInProportion(t *testing.T) {
	t.Parallel()
	const callers = 200
	known := fleet(1000)
	for _, zone := range []struct {
		part        int // of the 1000
		least, most int // in any subset
		none        int // callers at most that find nobody of it
	}{
		{333, 18, 50, 0},
		{100, 1, 25, 0},
		{10, 0, 7, callers / 2},
	} {
		of := map[string]bool{}
		for n := range zone.part {
			of[known[n*len(known)/zone.part].Addr] = true
		}
		least, most, none, sum := callers, 0, 0, 0
		for seed := range callers {
			n := 0
			for _, addr := range chosen(t, fmt.Sprint("caller ", seed), known) {
				if of[addr] {
					n++
				}
			}
			least, most, sum = min(least, n), max(most, n), sum+n
			if n == 0 {
				none++
			}
		}
		t.Logf("of a zone with %d of %d: %d to %d, %.1f on average; %d of %d callers know none", zone.part, len(known), least, most, float64(sum)/callers, none, callers)
		if least < zone.least || most > zone.most || none > zone.none {
			t.Errorf("a subset of 100 holds %d to %d of a zone with %d of %d, and %d of %d callers know none of it; want %d to %d, and %d at most",
				least, most, zone.part, len(known), none, callers, zone.least, zone.most, zone.none)
		}
	}
}
