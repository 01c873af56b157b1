package shed_test

import (
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/newsvc/newsvc/framework/server/internal/shed"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// desk is a resource of so many places, with a clock of the test's.
type desk struct {
	l      *shed.Limiter
	places chan struct{}
	work   func() time.Duration
}

func newDesk(places int, work func() time.Duration) *desk {
	return &desk{
		l: shed.New(shed.Options{Target: 10 * time.Millisecond, MinInFlight: 10}), places: make(chan struct{}, places), work: work,
	}
}

// visit is one call; it returns how long it took, false if it was refused.
func (d *desk) visit(p shed.Priority) (time.Duration, bool) {
	at := time.Now()
	began, ok := d.l.Admit(p)
	if !ok {
		return 0, false
	}
	d.places <- struct{}{}
	wait(d.work())
	<-d.places
	d.l.Done(began, true)
	return time.Since(at), true
}

func wait(d time.Duration) {
	t := time.NewTimer(d)
	<-t.C
}

// arrive makes calls at random moments, rate per second on average.
func (d *desk) arrive(rate float64, length time.Duration, p shed.Priority) (refused int, slowest time.Duration) {
	type result struct {
		took time.Duration
		ok   bool
	}
	results := make(chan result, 100_000)
	n := 0
	rng := rand.New(rand.NewPCG(1, 2))
	for end := time.Now().Add(length); time.Now().Before(end); n++ {
		go func() {
			took, ok := d.visit(p)
			results <- result{took, ok}
		}()
		wait(time.Duration(rng.ExpFloat64() / rate * float64(time.Second)))
	}
	for range n {
		r := <-results
		if !r.ok {
			refused++
		}
		slowest = max(slowest, r.took)
	}
	return refused, slowest
}

func fixed(d time.Duration) func() time.Duration { return func() time.Duration { return d } }

func TestNothingIsRefusedWhileTheServerKeepsUp(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		places int
		rate   float64
		work   func() time.Duration
	}{
		"steady at 85 %":            {8, 0.85 * 400, fixed(20 * time.Millisecond)},
		"no bound on what it does":  {10_000, 1000, fixed(50 * time.Millisecond)},
		"works for differing times": {8, 0.7 * 400, func() time.Duration { return time.Duration(rand.ExpFloat64() * float64(20*time.Millisecond)) }},
		"one call in ten is slow": {50, 400, func() time.Duration {
			if rand.IntN(10) == 0 {
				return 500 * time.Millisecond
			}
			return time.Millisecond
		}},
	} {
		synctest.Test(t, func(t *testing.T) {
			d := newDesk(tc.places, tc.work)
			if refused, _ := d.arrive(tc.rate, 20*time.Second, shed.Default); refused > 0 {
				t.Errorf("%s: %d calls were refused", name, refused)
			}
		})
	}
}

func TestABurstIsNoOverload(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(8, fixed(20*time.Millisecond))
		for range 20 {
			d.arrive(5, time.Second, shed.Default) // hardly anything to do
			if refused, _ := d.arrive(5000, 20*time.Millisecond, shed.Default); refused > 0 {
				t.Fatalf("%d of a burst were refused", refused)
			}
		}
	})
}

func TestEverythingBeingSlowerIsNoOverload(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		speed := 5 * time.Millisecond
		d := newDesk(10_000, func() time.Duration { return speed })
		d.arrive(500, 10*time.Second, shed.Default)
		for _, slower := range []time.Duration{20, 100, 400} {
			speed = slower * time.Millisecond
			n := int(500 * 10)
			if refused, _ := d.arrive(500, 10*time.Second, shed.Default); refused > n/5 { // looking into it takes a second or so
				t.Errorf("at %s: %d of about %d calls were refused, though there was no queue", speed, refused, n)
			}
			if b := d.l.State().Bound; b > 0 {
				t.Errorf("at %s: the bound is still %d", speed, b)
			}
		}
	})
}

func TestOverloadIsBoundedForAsLongAsItLasts(t *testing.T) {
	t.Parallel()
	for name, work := range map[string]func() time.Duration{
		"fixed":  fixed(20 * time.Millisecond),
		"random": func() time.Duration { return time.Duration(rand.ExpFloat64() * float64(20*time.Millisecond)) },
	} {
		synctest.Test(t, func(t *testing.T) {
			d := newDesk(8, work)
			d.arrive(200, 5*time.Second, shed.Default)
			d.arrive(1200, 2*time.Second, shed.Default) // found and brought down
			for range 8 {
				const length = 10 * time.Second
				before := d.l.State()
				refused, slowest := d.arrive(1200, length, shed.Default)
				answered := 1200*length.Seconds() - float64(refused)
				if goodput := answered / length.Seconds() / 400; goodput < 0.8 {
					t.Errorf("%s: goodput is %.0f %% of the capacity, with the bound at %d", name, goodput*100, before.Bound)
				}
				if slowest > 500*time.Millisecond {
					t.Errorf("%s: the slowest answer took %s, with the bound at %d", name, slowest, before.Bound)
				}
			}
		})
	}
}

func TestTheBoundIsLiftedWhenTheOverloadIsOver(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(8, fixed(20*time.Millisecond))
		d.arrive(200, 5*time.Second, shed.Default)
		d.arrive(1200, 5*time.Second, shed.Default)
		if d.l.State().Bound == 0 {
			t.Fatal("no overload was found at three times the capacity")
		}
		d.arrive(200, 3*time.Second, shed.Default)
		if b := d.l.State().Bound; b != 0 {
			t.Errorf("the bound is still %d", b)
		}
		if refused, _ := d.arrive(200, 10*time.Second, shed.Default); refused > 0 {
			t.Errorf("%d calls were refused afterwards", refused)
		}
	})
}

func TestMethodsThatAnswerTwiceASecondAreBoundedToo(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(4, fixed(2*time.Second))
		if refused, _ := d.arrive(1, time.Minute, shed.Default); refused > 0 {
			t.Errorf("%d calls were refused at half of the capacity", refused)
		}
		if refused, slowest := d.arrive(6, 2*time.Minute, shed.Default); refused < 300 || slowest > 40*time.Second {
			t.Errorf("at three times the capacity %d of about 720 calls were refused, and the slowest answer took %s", refused, slowest)
		}
	})
}

func TestPrioritiesThatTravel(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]shed.Priority{
		"critical": shed.Critical, "0": shed.Critical, "1": shed.High, "default": shed.Default, "2": shed.Default,
		"3": shed.Low, "4": shed.Sheddable, "sheddable": shed.Sheddable,
	} {
		if got, ok := shed.ParsePriority(text); got != want || !ok {
			t.Errorf("%q is %d, %v; want %d", text, got, ok, want)
		}
	}
	for _, text := range []string{"", "5", "-1", "urgent"} {
		if got, ok := shed.ParsePriority(text); got != shed.Default || ok {
			t.Errorf("%q is %d, %v; want the default and false", text, got, ok)
		}
	}
}

func BenchmarkCall(b *testing.B) {
	l := shed.New(shed.Options{Target: 10 * time.Millisecond, MinInFlight: 10})
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			began, _ := l.Admit(shed.Default)
			l.Done(began, true)
		}
	})
}
