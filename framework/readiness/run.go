package readiness

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/newsvc/newsvc/framework/internal/loop"
)

// Start begins to run the checks and to call subscribers, until ctx ends or [Gate.Close] is called. A second Start
// does nothing.
func (g *Gate) Start(ctx context.Context) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.loops != nil || g.closed {
		return
	}
	g.loops = &loop.Group{}
	g.loops.Start(ctx, g.poll)
	g.loops.Start(ctx, g.notify)
	g.changedLocked()
}

// Close ends checks and calls and waits until they have ended; the last report stays. It must not be called from a
// check or a subscriber. It may be called more than once.
func (g *Gate) Close() {
	g.mu.Lock()
	g.closed = true
	loops := g.loops
	g.mu.Unlock()
	if loops != nil {
		loops.Stop()
	}
}

// poll runs rounds of checks until ctx ends.
func (g *Gate) poll(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-g.kick:
		case <-ctx.Done():
			return
		}
		g.round(ctx)
		timer.Reset(g.interval)
	}
}

// round runs every check once, side by side, so that a slow one does not delay the verdict on the others.
func (g *Gate) round(ctx context.Context) {
	g.mu.Lock()
	entries := slices.Clone(g.entries)
	g.mu.Unlock()
	var running []*loop.Loop
	for _, e := range entries {
		if e.check == nil {
			continue
		}
		running = append(running, loop.Start(ctx, func(ctx context.Context) {
			err := g.run(ctx, e.check)
			if ctx.Err() == nil { // an end of the process is no verdict
				g.set(e, err)
			}
		}))
	}
	for _, l := range running {
		<-l.Done()
	}
}

// run calls one check within the timeout. A panic is a failed check: it must not end a process that is serving.
func (g *Gate) run(ctx context.Context, check Check) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("the check panicked: %v", p)
		}
	}()
	ctx, cancel := context.WithTimeoutCause(ctx, g.timeout, fmt.Errorf("no answer within %s", g.timeout))
	defer cancel()
	err = check(ctx)
	if err != nil && ctx.Err() != nil {
		return fmt.Errorf("%w (%w)", context.Cause(ctx), err)
	}
	return err
}

// notify calls subscribers until ctx ends.
func (g *Gate) notify(ctx context.Context) {
	for {
		g.mu.Lock()
		version, changed, r := g.version, g.changed, g.reportLocked()
		var due []*subscriber
		for _, s := range g.subs {
			if s.seen != version {
				s.seen = version
				due = append(due, s)
			}
		}
		g.mu.Unlock()
		for _, s := range due {
			own := r
			own.Checks = slices.Clone(r.Checks)
			s.fn(own)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// Handler answers with the report as JSON: 200 when ready, 503 when not.
func (g *Gate) Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		g.Report().Answer(w)
	})
}

// Answer writes the report as [Gate.Handler] does.
func (r Report) Answer(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	if !r.Ready {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_ = json.NewEncoder(w).Encode(r) // the peer has gone; nobody is left to tell
}
