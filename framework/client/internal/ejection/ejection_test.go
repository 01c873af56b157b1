package ejection_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"pgregory.net/rapid"

	"github.com/newsvc/newsvc/framework/client/internal/ejection"
)

const never = time.Hour

// sick are the ways in which one instance may be sick, with what it says when it is asked.
func sick(w *world) map[string]struct {
	answer func(string) (time.Duration, codes.Code)
	probe  bool
} {
	return map[string]struct {
		answer func(string) (time.Duration, codes.Code)
		probe  bool
	}{
		"hangs":                {func(string) (time.Duration, codes.Code) { return never, codes.OK }, false},
		"hangs, probe answers": {func(string) (time.Duration, codes.Code) { return never, codes.OK }, true},
		"UNAVAILABLE":          {func(string) (time.Duration, codes.Code) { return time.Millisecond, codes.Unavailable }, true},
		"INTERNAL":             {func(string) (time.Duration, codes.Code) { return time.Millisecond, codes.Internal }, true},
		"half of it INTERNAL": {func(m string) (time.Duration, codes.Code) {
			d, _ := w.well(m)
			return d, []codes.Code{codes.OK, codes.Internal}[w.rng.IntN(2)]
		}, true},
		"20 times as slow":       {func(m string) (time.Duration, codes.Code) { d, _ := w.well(m); return 20 * d, codes.OK }, false},
		"slow, probe is as ever": {func(m string) (time.Duration, codes.Code) { d, _ := w.well(m); return 20 * d, codes.OK }, true},
	}
}

func TestASickInstanceGetsUnderTwoPercentOfTheCallsAndReturnsWhenItIsWell(t *testing.T) {
	t.Parallel()
	for name := range sick(nil) {
		for _, load := range []string{"30 per second", "200 per second", "16 callers"} {
			for _, instances := range []int{2, 5, 20} {
				if load == "30 per second" && strings.Contains(name, "half") {
					continue // too few calls to tell shares apart in time
				}
				t.Run(fmt.Sprintf("%s/%s/%d", name, load, instances), func(t *testing.T) {
					t.Parallel()
					w := newWorld(t, defaults(), instances)
					var n int
					fmt.Sscanf(load, "%d", &n)
					if strings.HasSuffix(load, "callers") {
						w.callers(n)
					} else {
						w.rate(n)
					}
					w.run(10 * time.Second)
					if n := w.ejections(""); n != 0 {
						t.Fatalf("%d ejections though all are well: %v", n, w.log)
					}
					s := sick(w)[name]
					w.nodes[0].answer, w.nodes[0].probe = s.answer, func() bool { return s.probe }
					w.run(10 * time.Second)
					if got := w.share(0, 20*time.Second); got >= 0.02 {
						t.Errorf("the sick one has %.1f %% of the calls\n%s", 100*got, strings.Join(w.log, "\n"))
					}
					w.nodes[0].answer, w.nodes[0].probe = w.well, func() bool { return true }
					w.run(15 * time.Second)
					if got, want := w.share(0, 5*time.Second), 1/float64(instances); got < 0.8*want {
						t.Errorf("it is well again and has %.1f %% of the calls\n%s", 100*got, strings.Join(w.log, "\n"))
					}
				})
			}
		}
	}
}

func TestWhatAilsAllEjectsNone(t *testing.T) {
	t.Parallel()
	for name := range sick(nil) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, defaults(), 5)
			w.rate(200)
			w.run(5 * time.Second)
			for _, n := range w.nodes {
				n.answer = sick(w)[name].answer
			}
			w.run(30 * time.Second)
			if n := w.ejections(""); n != 0 {
				t.Errorf("%d ejections:\n%s", n, strings.Join(w.log, "\n"))
			}
		})
	}
}

func TestAPauseOfTheCallerEjectsNone(t *testing.T) {
	t.Parallel()
	w := newWorld(t, defaults(), 5)
	w.callers(64)
	var resumes time.Time
	for _, n := range w.nodes {
		n.answer = func(m string) (time.Duration, codes.Code) {
			d, code := w.well(m)
			return max(d, resumes.Sub(w.now)), code
		}
	}
	for range 20 {
		w.run(time.Second)
		resumes = w.now.Add(300 * time.Millisecond)
	}
	if n := w.ejections(""); n != 0 {
		t.Errorf("%d ejections:\n%s", n, strings.Join(w.log, "\n"))
	}
}

func TestAShortPauseOfOneInstanceEjectsNone(t *testing.T) {
	t.Parallel()
	w := newWorld(t, defaults(), 5)
	w.callers(64)
	var resumes time.Time
	w.nodes[0].answer = func(m string) (time.Duration, codes.Code) {
		d, code := w.well(m)
		return max(d, resumes.Sub(w.now)), code
	}
	for range 20 {
		w.run(time.Second)
		resumes = w.now.Add(200 * time.Millisecond)
	}
	if n := w.ejections(""); n != 0 {
		t.Errorf("%d ejections:\n%s", n, strings.Join(w.log, "\n"))
	}
}

func TestDifferencesOfMicrosecondsEjectNone(t *testing.T) {
	t.Parallel()
	w := newWorld(t, defaults(), 5)
	for n, nd := range w.nodes {
		nd.answer = func(string) (time.Duration, codes.Code) {
			d := 100 * time.Microsecond
			if n == 0 {
				d *= 40
			}
			return d, codes.OK
		}
	}
	w.callers(8)
	w.run(20 * time.Second)
	if n := w.ejections(""); n != 0 {
		t.Errorf("%d ejections:\n%s", n, strings.Join(w.log, "\n"))
	}
}

func TestAnInstanceThatIsFarAwayIsEjectedWhenItFallsSickOnly(t *testing.T) {
	t.Parallel()
	w := newWorld(t, defaults(), 3)
	far := 200 * time.Millisecond
	w.nodes[0].Far(far)
	sick := time.Duration(1)
	w.nodes[0].answer = func(m string) (time.Duration, codes.Code) {
		d, code := w.well(m)
		return far + sick*d, code
	}
	w.rate(100)
	w.run(30 * time.Second)
	if n := w.ejections(""); n != 0 {
		t.Fatalf("%d ejections though all are well:\n%s", n, strings.Join(w.log, "\n"))
	}
	sick = 20
	w.run(10 * time.Second)
	if w.ejections("0") == 0 {
		t.Error("it became 20 times as slow and is in use")
	}
}

// One stall of this machine, or of a handshake, while a connection was made must not hide for as long as it lasts that the
// instance is slow.
func TestAWayThatWasMeasuredTooLongIsCorrectedByAnswers(t *testing.T) {
	t.Parallel()
	w := newWorld(t, defaults(), 3)
	far := 200 * time.Millisecond
	w.nodes[0].Far(20 * far)
	sick := time.Duration(1)
	w.nodes[0].answer = func(m string) (time.Duration, codes.Code) {
		d, code := w.well(m)
		return far + sick*d, code
	}
	w.rate(100)
	w.run(30 * time.Second)
	if n := w.ejections(""); n != 0 {
		t.Fatalf("%d ejections though all are well:\n%s", n, strings.Join(w.log, "\n"))
	}
	w.nodes[0].Far(20 * far) // as with each change of the others
	sick = 20
	w.run(10 * time.Second)
	if w.ejections("0") == 0 {
		t.Error("it became 20 times as slow and is in use")
	}
}

func TestDeadlinesThatAreShortForAMethodEjectNone(t *testing.T) {
	t.Parallel()
	w := newWorld(t, defaults(), 5)
	w.methods = []string{"/b"}
	w.rate(100)
	w.run(5 * time.Second)
	w.timeout = 60 * time.Millisecond
	w.run(20 * time.Second)
	if n := w.ejections(""); n != 0 {
		t.Errorf("%d ejections:\n%s", n, strings.Join(w.log, "\n"))
	}
}

func TestAFrozenInstanceIsEjectedBeforeDeadlinesEnd(t *testing.T) {
	t.Parallel()
	w := newWorld(t, defaults(), 3)
	w.methods = []string{"/a"}
	w.callers(8)
	w.run(5 * time.Second)
	w.timeout = time.Second
	w.nodes[0].answer = func(string) (time.Duration, codes.Code) { return never, codes.OK }
	w.nodes[0].probe = func() bool { return false }
	w.run(800 * time.Millisecond)
	if w.nodes[0].Takes() {
		t.Error("800 ms after it froze it takes calls")
	}
	w.run(44200 * time.Millisecond)
	if w.failed > 8 {
		t.Errorf("%d calls failed, want those of 8 callers at most\n%s", w.failed, strings.Join(w.log, "\n"))
	}
}

func TestOneOfOneIsNeverEjected(t *testing.T) {
	t.Parallel()
	w := newWorld(t, defaults(), 1)
	w.rate(100)
	w.run(time.Second)
	w.nodes[0].answer = func(string) (time.Duration, codes.Code) { return time.Millisecond, codes.Unavailable }
	w.run(10 * time.Second)
	if !w.nodes[0].Takes() {
		t.Error("the only instance is ejected")
	}
}

func TestTheEjectedArePardonedWhenOthersGo(t *testing.T) {
	t.Parallel()
	w := newWorld(t, defaults(), 4)
	w.rate(100)
	w.run(time.Second)
	for _, n := range w.nodes[:2] {
		n.answer = func(string) (time.Duration, codes.Code) { return time.Millisecond, codes.Unavailable }
	}
	w.run(time.Second)
	if w.nodes[0].Takes() || w.nodes[1].Takes() {
		t.Fatalf("two of four fail and are in use:\n%s", strings.Join(w.log, "\n"))
	}
	w.connect(w.nodes[3], false)
	if !w.nodes[0].Takes() && !w.nodes[1].Takes() {
		t.Error("two of three are ejected")
	}
	w.connect(w.nodes[2], false)
	if !w.nodes[0].Takes() && !w.nodes[1].Takes() {
		t.Error("both of two are ejected")
	}
}

func TestSentencesGrowAndStartAnewAfterACalmTime(t *testing.T) {
	t.Parallel()
	w := newWorld(t, defaults(), 5)
	w.rate(100)
	w.run(time.Second)
	w.nodes[0].answer = func(string) (time.Duration, codes.Code) { return time.Millisecond, codes.Unavailable }
	w.run(time.Second)
	var tries []time.Duration
	for before := w.nodes[0].calls; len(tries) < 5; {
		w.run(100 * time.Millisecond)
		if w.nodes[0].calls > before {
			before = w.nodes[0].calls
			tries = append(tries, w.now.Sub(w.start))
		}
	}
	for n, want := range []time.Duration{4 * time.Second, 8 * time.Second, 10 * time.Second, 10 * time.Second} {
		if got := tries[n+1] - tries[n]; got < want*8/10 || got > want*13/10 {
			t.Errorf("sentence %d took %v, want about %v", n+2, got, want)
		}
	}
	w.nodes[0].answer = w.well
	w.run(2 * time.Minute)
	w.nodes[0].answer = func(string) (time.Duration, codes.Code) { return time.Millisecond, codes.Unavailable }
	before := len(w.log)
	w.run(time.Second)
	if len(w.log) == before || !strings.Contains(w.log[before], "ejected=true") || !strings.Contains(w.log[before], "for 2s") {
		t.Errorf("after a calm time: %v", w.log[before:])
	}
}

func TestAnEjectionIsToldOnceHoweverOftenItsTrialsFail(t *testing.T) {
	t.Parallel()
	w := newWorld(t, defaults(), 5)
	w.rate(100)
	w.run(time.Second)
	w.nodes[0].answer = func(string) (time.Duration, codes.Code) { return time.Millisecond, codes.Unavailable }
	w.run(time.Minute)
	w.nodes[0].answer = w.well
	w.run(15 * time.Second)
	if len(w.log) != 2 {
		t.Errorf("want one ejection and one return:\n%s", strings.Join(w.log, "\n"))
	}
}

func TestWithoutUnaryCallsATrialEndsByItself(t *testing.T) {
	t.Parallel()
	w := newWorld(t, defaults(), 2)
	for range 3 {
		var c ejection.Call
		w.nodes[0].Begin(&c, "/stream", false, false, w.now)
		w.changed(c.End(ejection.Failed, codes.Unavailable, time.Millisecond))
	}
	if w.nodes[0].Takes() {
		t.Fatal("three streams failed and it is in use")
	}
	w.run(10 * time.Second)
	if !w.nodes[0].Takes() {
		t.Error("nobody calls it, and it never returns")
	}
}

func TestOutcomes(t *testing.T) {
	t.Parallel()
	for code, want := range map[codes.Code]ejection.Outcome{
		codes.OK: ejection.Answered, codes.NotFound: ejection.Answered, codes.PermissionDenied: ejection.Answered,
		codes.Canceled: ejection.Ignored, codes.ResourceExhausted: ejection.Ignored,
		codes.Unavailable: ejection.Failed, codes.DeadlineExceeded: ejection.TimedOut,
		codes.Internal: ejection.Broken, codes.Unknown: ejection.Broken, codes.DataLoss: ejection.Broken,
	} {
		if got := ejection.OutcomeOf(code); got != want {
			t.Errorf("%v is %v, want %v", code, got, want)
		}
	}
}

// TestWhateverHappens lets instances fall sick, heal, leave and return at random. The world checks at every moment that
// not too many are ejected; in the end all are well, and all are in use.
func TestWhateverHappens(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(r *rapid.T) {
		w := newWorld(t, defaults(), rapid.IntRange(1, 7).Draw(r, "instances"))
		w.rate(rapid.SampledFrom([]int{20, 60}).Draw(r, "rate"))
		for range rapid.IntRange(1, 12).Draw(r, "steps") {
			n := w.nodes[rapid.IntRange(0, len(w.nodes)-1).Draw(r, "instance")]
			switch kind := rapid.SampledFrom([]string{"hangs", "UNAVAILABLE", "INTERNAL", "20 times as slow", "well", "lost", "back", "released"}).Draw(r, "what"); kind {
			case "well":
				n.answer, n.probe = w.well, func() bool { return true }
			case "lost", "back":
				w.connect(n, kind == "back")
			case "released":
				w.changed(w.m.Release(w.now))
			default:
				s := sick(w)[kind]
				n.answer, n.probe = s.answer, func() bool { return s.probe }
			}
			w.run(time.Duration(rapid.IntRange(50, 8000).Draw(r, "ms")) * time.Millisecond)
		}
		for _, n := range w.nodes {
			n.answer, n.probe = w.well, func() bool { return true }
			w.connect(n, true)
		}
		w.run(40 * time.Second)
		for _, n := range w.nodes {
			if !n.Takes() {
				r.Fatalf("all are well and %s is not in use:\n%s", n.Name(), strings.Join(w.log, "\n"))
			}
		}
	})
}
