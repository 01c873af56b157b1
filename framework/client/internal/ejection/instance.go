package ejection

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
)

// Outcome is what the end of a call says of the instance that had it.
type Outcome int

// The outcomes.
const (
	Ignored  Outcome = iota // nothing: the caller gave up, or the call was refused before a handler ran
	Answered                // it answered; errors of the application are answers
	Failed                  // UNAVAILABLE
	TimedOut                // DEADLINE_EXCEEDED
	Broken                  // INTERNAL, UNKNOWN or DATA_LOSS
)

// OutcomeOf is the outcome of a call that ended with code and was processed.
func OutcomeOf(code codes.Code) Outcome {
	switch code { //nolint:exhaustive // the rest are answers
	case codes.Canceled, codes.ResourceExhausted:
		return Ignored // RESOURCE_EXHAUSTED: who sheds load is alive, and quick answers of that kind say nothing
	case codes.Unavailable:
		return Failed
	case codes.DeadlineExceeded:
		return TimedOut
	case codes.Internal, codes.Unknown, codes.DataLoss:
		return Broken
	}
	return Answered
}

const (
	slowWeight = 0.15 // of one call in the share of slow ones: five slow calls in a row make more than half
	failWeight = 0.04 // of one call in the share of failed ones: nine in a row make three in ten
	high       = 0.5  // share of slow calls of an instance that is slow
	low        = 0.2  // and of one that is well
)

// Instance is what is known of one instance. Its methods are safe for concurrent use.
type Instance struct {
	m      *Machine
	name   string
	phase  atomic.Int32
	well   atomic.Bool // nothing speaks against it at present
	trying atomic.Bool // the call that was about to try it has begun

	way     atomic.Int64 // how far away it is, ns
	fastest atomic.Int64 // what the fastest answer took, ns; 0 before the first

	mu       sync.Mutex // guards what follows
	stay     int        // counts resets; what began before one does not count after it
	running  calls      // unary, not slow yet
	hanging  calls      // unary, counted as slow already
	averages map[*method]*average
	row      int           // calls that failed since the last answer to a call that began after the first of them
	rowFrom  time.Duration // when the first of them ended
	last     codes.Code    // the last failure's
	score    float64       // share of slow calls, the latest weigh most
	highFrom time.Duration // since when score is high
	slowAt   time.Duration // of the last slow call
	slowest  *method       // of the last slow call
	answered time.Duration // the last answer
	failing  float64       // share of failed calls, the latest weigh most
	judged   int           // calls that it is made of

	// What follows is guarded by the machine's lock.
	index     int // in the machine's list
	seen      int // the machine's count when it was connected last
	connected bool
	returned  bool          // it has been out
	since     time.Duration // in phase In: its return; else its ejection
	until     time.Duration // of a sentence or trial
	times     int           // ejections without a calm time between them
	reason    Reason
	probed    string        // how the last question of this sentence failed; empty before one did
	canary    bool          // a call tries it, or is about to
	promised  time.Duration // when a call was about to
	goods     int           // calls of the trial that went well
	slows     int           // and that were slow
}

// average is a moving mean of times.
type average struct {
	mean float64
	n    int
}

func (a *average) add(d time.Duration) {
	a.n = min(a.n+1, 10)
	a.mean += (float64(d) - a.mean) / float64(a.n)
}

// Name is what the instance was added as.
func (i *Instance) Name() string { return i.name }

// Far tells how long the way to the instance and back takes, which is not its fault: calls may take that much longer. A
// faster answer than that corrects it.
func (i *Instance) Far(way time.Duration) { i.way.Store(int64(way)) }

// Takes reports whether the instance takes calls like any other. It costs one read.
func (i *Instance) Takes() bool { return Phase(i.phase.Load()) == In }

// Standing is how an instance stands, for people. All but Phase is empty in phase In.
type Standing struct {
	Phase  Phase
	Reason Reason
	// Since is when it was ejected, Until when its present sentence ends; what follows that is up to its answers.
	Since, Until time.Time
	// Probed is how the last question after its sentence failed; empty until one did.
	Probed string
}

// Standing is how the instance stands now.
func (i *Instance) Standing() Standing {
	i.m.mu.Lock()
	defer i.m.mu.Unlock()
	s := Standing{Phase: Phase(i.phase.Load())}
	if s.Phase == In {
		return s
	}
	s.Reason, s.Since, s.Probed = i.reason, i.m.epoch.Add(i.since), i.probed
	if s.Phase == Out && s.Probed == "" {
		s.Until = i.m.epoch.Add(i.until)
	}
	return s
}

// before is why the instance was ejected in the first place.
func (i *Instance) before() string {
	_, text, later := strings.Cut(i.reason.Text, "; before that: ")
	if !later {
		return i.reason.Text
	}
	return text
}

func (i *Instance) out() bool { return Phase(i.phase.Load()) != In }

// connectLocked notes whether calls could be sent to the instance. What failed on a lost connection speaks against the next one
// only if that begins as badly.
func (i *Instance) connectLocked(yes bool, consecutive int) {
	if i.connected == yes {
		return
	}
	i.connected, i.canary = yes, false
	if !yes {
		return
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.row = min(i.row, max(0, consecutive-1))
	i.score, i.highFrom = 0, 0
	i.wellLocked()
}

// reset forgets what was held against the instance. What a method takes is kept.
func (i *Instance) reset() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.stay++
	i.row, i.score, i.highFrom = 0, 0, 0
	i.failing, i.judged = 0, 0
	for c := i.hanging.first; c != nil; c = i.hanging.first {
		i.hanging.remove(c)
	}
	for c := i.running.first; c != nil; c = i.running.first {
		i.running.remove(c)
	}
	i.wellLocked()
}

func (i *Instance) busy() bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.running.first != nil || i.hanging.first != nil
}

func (i *Instance) wellLocked() { i.well.Store(i.row == 0 && i.score <= low) }

// slowLocked counts a slow call, and fastLocked one that is not.
func (i *Instance) slowLocked(m *method, now time.Duration) {
	i.score += slowWeight * (1 - i.score)
	if i.score > high && i.highFrom == 0 {
		i.highFrom = now
	}
	i.slowAt, i.slowest = now, m
}

func (i *Instance) fastLocked() {
	i.score -= slowWeight * i.score
	if i.score <= high {
		i.highFrom = 0
	}
}

// countLocked counts a call for the rule about shares.
func (i *Instance) countLocked(failed bool) {
	i.judged++
	w := max(failWeight, 1/float64(i.judged+1)) // the first calls are a mean, over one more that went well
	i.failing -= w * i.failing
	if failed {
		i.failing += w
	}
}

// verdictLocked applies the rules that look at one instance; closely while it has just returned.
func (i *Instance) verdictLocked(cfg *Config, closely bool, now time.Duration) (Reason, bool) {
	most := cfg.Consecutive
	if closely {
		most = min(most, 2)
	}
	if silent := i.silentLocked(cfg, most, now); i.row+silent >= most {
		if silent == 0 {
			return Reason{Row, fmt.Sprintf("%d calls in a row failed, the last with %v", i.row, i.last)}, true
		}
		text := fmt.Sprintf("%d calls have had no answer for %v and more", silent, cfg.SlowAfter)
		if i.row > 0 {
			text += fmt.Sprintf(", after %d that failed", i.row)
		}
		return Reason{Silent, text}, true
	}
	if i.highFrom == 0 || cfg.SlowFactor == 0 {
		return Reason{}, false
	}
	// What came in one burst is not held against it: that may have been a pause, of either side.
	least := cfg.SlowAfter
	if closely {
		least /= 4
	}
	if i.slowAt-i.highFrom < least && (i.hanging.first == nil || now-i.highFrom < least) {
		return Reason{}, false
	}
	return Reason{Slow, i.slowTextLocked()}, true
}

func (i *Instance) slowTextLocked() string {
	text := fmt.Sprintf("%.0f %% of its last calls took too long", 100*i.score)
	if usual := i.slowest.usual.Load(); usual > 0 {
		text += fmt.Sprintf(", those of %s more than %v where %v is usual", i.slowest.name,
			time.Duration(i.slowest.limit.Load()).Round(time.Microsecond), time.Duration(usual).Round(time.Microsecond))
	}
	return text
}

// silentLocked counts, up to most, the calls that have had no answer for long while nothing else of the instance was
// answered either.
func (i *Instance) silentLocked(cfg *Config, most int, now time.Duration) int {
	n := 0
	for c := i.hanging.first; c != nil && n < most; c = c.next {
		if c.start > i.answered && now-c.start >= cfg.SlowAfter && c.late(now-c.start) {
			n++
		}
	}
	return n
}
