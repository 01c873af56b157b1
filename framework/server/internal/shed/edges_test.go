package shed_test

import (
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/newsvc/newsvc/framework/server/internal/shed"
)

// A bound that was found an hour ago says nothing of a server that has had nothing to do since.
func TestABoundDoesNotOutliveAnIdleHour(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(8, fixed(20*time.Millisecond))
		d.arrive(200, 5*time.Second, shed.Default)
		d.arrive(1200, 5*time.Second, shed.Default)
		before := d.l.State()
		if before.Bound == 0 || before.InFlight != 0 {
			t.Fatalf("state = %+v, want a bound and nothing in flight", before)
		}
		for i := range 5 {
			wait(time.Hour)
			if refused, _ := d.arrive(5000, 20*time.Millisecond, shed.Default); refused > 0 {
				t.Errorf("burst %d after an idle hour: %d of about 100 were refused; the bound is %d", i, refused, d.l.State().Bound)
			}
		}
	})
}

// Calls that end with a mistake of the caller are answered. When everything gets slower they are no sign of a queue.
func TestMistakesOfCallersAreNoQueue(t *testing.T) {
	t.Parallel()
	for _, mistakes := range []int{0, 10, 30, 60} {
		synctest.Test(t, func(t *testing.T) {
			speed := 5 * time.Millisecond
			l := shed.New(shed.Options{Target: 10 * time.Millisecond, MinInFlight: 10})
			rng := rand.New(rand.NewPCG(1, 2))
			run := func(length time.Duration) (refused, n int) {
				results := make(chan bool, 100_000)
				for end := time.Now().Add(length); time.Now().Before(end); n++ {
					bad := rng.IntN(100) < mistakes
					go func() {
						began, ok := l.Admit(shed.Default)
						if ok {
							wait(speed)
							if bad {
								l.Mistake()
							}
							l.Done(began, !bad)
						}
						results <- ok
					}()
					wait(time.Duration(rng.ExpFloat64() / 500 * float64(time.Second)))
				}
				for range n {
					if !<-results {
						refused++
					}
				}
				return refused, n
			}
			run(10 * time.Second)
			for _, slower := range []time.Duration{18, 40, 100, 400} {
				speed = slower * time.Millisecond
				refused, n := run(10 * time.Second)
				if slower < 50 && refused > 0 {
					t.Errorf("%d %% mistakes, at %s: %d of %d calls were refused, though there was no queue", mistakes, speed, refused, n)
				}
				t.Logf("%d %% mistakes, at %s: %d of %d refused, bound %d", mistakes, speed, refused, n, l.State().Bound)
			}
		})
	}
}
