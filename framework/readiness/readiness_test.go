package readiness_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/newsvc/newsvc/framework/readiness"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// wait lets the time of the bubble pass.
func wait(ctx context.Context, d time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	<-ctx.Done()
	synctest.Wait()
}

func bubble(t *testing.T, body func(t *testing.T)) {
	t.Parallel()
	synctest.Test(t, body)
}

func TestNeverReadyBeforeStart(t *testing.T) {
	t.Parallel()
	g := readiness.New()
	if r := g.Report(); r.Ready || !slices.Equal(r.Reasons(), []string{"not started"}) {
		t.Errorf("report = %+v, reasons %q, want not started", r, r.Reasons())
	}
	g.Close()
	g.Start(t.Context())
	if g.Report().Ready {
		t.Error("a closed gate became ready")
	}
}

func TestReadyWhenEverythingIsMet(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := readiness.New()
		defer g.Close()
		g.Add("store", func(context.Context) error { return nil })
		callee := g.Condition("user-service")
		g.Start(t.Context())
		synctest.Wait()
		if r := g.Report(); r.Ready || !slices.Equal(r.Reasons(), []string{"user-service: not met yet"}) {
			t.Fatalf("reasons = %q, want the condition alone", r.Reasons())
		}
		callee.Set(nil)
		if r := g.Report(); !r.Ready || r.Reasons() != nil {
			t.Fatalf("reasons = %q, want none", r.Reasons())
		}
		callee.Set(errors.New("no instances"))
		if r := g.Report(); r.Ready || r.Checks[1].Error != "no instances" {
			t.Fatalf("report = %+v, want the condition lost", r)
		}
	})
}

func TestChecksArePolled(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := readiness.New()
		defer g.Close()
		var mu sync.Mutex
		var state error
		g.Add("store", func(context.Context) error { mu.Lock(); defer mu.Unlock(); return state })
		g.Start(t.Context())
		synctest.Wait()
		first := g.Report()
		if !first.Ready {
			t.Fatalf("the first run did not come at once: %q", first.Reasons())
		}
		mu.Lock()
		state = errors.New("connection refused")
		mu.Unlock()
		wait(t.Context(), readiness.DefaultInterval)
		r := g.Report()
		if r.Ready || r.Checks[0].Error != "connection refused" {
			t.Fatalf("report = %+v, want the failure after one interval", r)
		}
		if d := r.Checks[0].Since.Sub(first.Checks[0].Since); d != readiness.DefaultInterval {
			t.Errorf("since moved by %s, want %s", d, readiness.DefaultInterval)
		}
		wait(t.Context(), 3*readiness.DefaultInterval)
		if again := g.Report(); !again.Checks[0].Since.Equal(r.Checks[0].Since) {
			t.Error("since moved although the verdict did not change")
		}
	})
}

func TestCheckAddedLaterRunsAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := readiness.New()
		defer g.Close()
		g.Start(t.Context())
		wait(t.Context(), time.Second)
		g.Add("late", func(context.Context) error { return nil })
		synctest.Wait()
		if r := g.Report(); !r.Ready {
			t.Errorf("reasons = %q, want ready", r.Reasons())
		}
	})
}

func TestSlowCheckTimesOutAlone(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := readiness.New()
		defer g.Close()
		g.Add("hangs", func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
		g.Add("panics", func(context.Context) error { panic("boom") })
		g.Add("works", func(context.Context) error { return nil })
		g.Start(t.Context())
		wait(t.Context(), time.Millisecond)
		if r := g.Report(); !r.Checks[2].OK || r.Checks[1].Error != "the check panicked: boom" {
			t.Errorf("report = %+v, want verdicts on the others at once", r)
		}
		wait(t.Context(), readiness.DefaultTimeout)
		if r := g.Report(); !strings.HasPrefix(r.Checks[0].Error, "no answer within 2s") {
			t.Errorf("error = %q, want the timeout", r.Checks[0].Error)
		}
	})
}

func TestDrainIsSticky(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := readiness.New()
		defer g.Close()
		c := g.Condition("x")
		g.Start(t.Context())
		g.Drain()
		g.Drain()
		c.Set(nil)
		if r := g.Report(); r.Ready || !r.Draining {
			t.Errorf("report = %+v, want draining", r)
		}
		if err := g.Wait(t.Context()); err == nil || !strings.Contains(err.Error(), "draining") {
			t.Errorf("Wait = %v, want an error at once", err)
		}
	})
}

func TestSubscribersSeeThePresentAndEachChange(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := readiness.New()
		defer g.Close()
		c := g.Condition("x")
		var early, late []bool
		g.Subscribe(func(r readiness.Report) { early = append(early, r.Ready) })
		synctest.Wait()
		if len(early) != 0 {
			t.Fatal("called before Start")
		}
		g.Start(t.Context())
		synctest.Wait()
		c.Set(nil)
		synctest.Wait()
		cancel := g.Subscribe(func(r readiness.Report) { late = append(late, r.Ready) })
		synctest.Wait()
		g.Drain()
		synctest.Wait()
		cancel()
		c.Set(errors.New("gone"))
		synctest.Wait()
		if !slices.Equal(early, []bool{false, true, false, false}) {
			t.Errorf("first subscriber saw %v", early)
		}
		if !slices.Equal(late, []bool{true, false}) {
			t.Errorf("second subscriber saw %v, want the present first and nothing after cancel", late)
		}
	})
}

func TestWaitNamesWhatIsMissing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := readiness.New()
		defer g.Close()
		c := g.Condition("user-service")
		g.Start(t.Context())
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := g.Wait(ctx); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "user-service: not met yet") {
			t.Errorf("Wait = %v", err)
		}
		done := make(chan error, 1)
		go func() { done <- g.Wait(t.Context()) }()
		synctest.Wait()
		c.Set(nil)
		if err := <-done; err != nil {
			t.Errorf("Wait = %v, want nil", err)
		}
	})
}

func TestHandlerAnswersInJSON(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := readiness.New()
		defer g.Close()
		c := g.Condition("x")
		g.Start(t.Context())
		get := func() (int, readiness.Report) {
			w := httptest.NewRecorder()
			g.Handler().ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/readyz", nil))
			var r readiness.Report
			if err := json.Unmarshal(w.Body.Bytes(), &r); err != nil {
				t.Fatalf("%v in %q", err, w.Body)
			}
			return w.Code, r
		}
		if code, r := get(); code != http.StatusServiceUnavailable || r.Ready || r.Checks[0].Name != "x" || r.Checks[0].Error == "" {
			t.Errorf("not ready: %d %+v", code, r)
		}
		c.Set(nil)
		if code, r := get(); code != http.StatusOK || !r.Ready || !r.Checks[0].OK {
			t.Errorf("ready: %d %+v", code, r)
		}
	})
}

func TestOnlyTransitionsAreLogged(t *testing.T) {
	bubble(t, func(t *testing.T) {
		core, logs := observer.New(zap.InfoLevel)
		g := readiness.New(readiness.Log(zap.New(core)))
		defer g.Close()
		g.Add("fine", func(context.Context) error { return nil })
		c := g.Condition("x")
		g.Start(t.Context())
		c.Set(nil)
		wait(t.Context(), time.Minute)
		c.Set(errors.New("a"))
		c.Set(errors.New("b"))
		var texts []string
		for _, e := range logs.All() {
			texts = append(texts, e.Message)
		}
		if !slices.Equal(texts, []string{"ready", "no longer ready"}) {
			t.Errorf("log = %q", texts)
		}
	})
}
