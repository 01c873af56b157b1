package dev

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	calleePatience = 10 * time.Second // of a service with those that it calls, at its first start
	slowCallee     = 2 * time.Second  // the wait for them after which that is told
)

// order has services wait, at their first start, for those that they call, so that they find them at once and have no reason to
// warn. Whom they call the programs say themselves. Of those that call each other, one has to be first.
func (s *session) order(ctx context.Context) {
	callees := make([][]string, len(s.units))
	var g sync.WaitGroup
	for i, u := range s.units {
		g.Go(func() { callees[i] = u.callees(ctx) })
	}
	g.Wait()
	for i, u := range s.units {
		for _, other := range s.units {
			if slices.Contains(callees[i], other.name) && !other.reaches(u) {
				u.calls = append(u.calls, other)
			}
		}
	}
	for _, u := range s.units {
		waits := u.waits(time.Now())
		for _, slot := range u.slots {
			slot.waits = waits
		}
	}
}

// callees are the names of the services that it calls; none when it can't tell.
func (u *unit) callees(ctx context.Context) []string {
	var answer struct {
		Callees []struct {
			Name string `json:"name"`
		} `json:"callees"`
	}
	binary := u.binary()
	if binary == "" {
		return nil
	}
	if raw, err := u.introspect(ctx, binary, "callees"); err != nil || json.Unmarshal(raw, &answer) != nil {
		return nil
	}
	names := make([]string, 0, len(answer.Callees))
	for _, c := range answer.Callees {
		names = append(names, c.Name)
	}
	return names
}

// reaches reports whether u is other, or waits for it.
func (u *unit) reaches(other *unit) bool {
	return u == other || slices.ContainsFunc(u.calls, func(c *unit) bool { return c.reaches(other) })
}

// waits returns what reports whether one that it calls may come to serve soon. It is safe for concurrent use.
func (u *unit) waits(began time.Time) func() bool {
	if len(u.calls) == 0 {
		return nil
	}
	var told sync.Once
	return func() bool {
		var names []string
		for _, c := range u.calls {
			if slices.ContainsFunc(c.slots, (*slot).starts) {
				names = append(names, c.name)
			}
		}
		waited := time.Since(began)
		if len(names) > 0 && waited > slowCallee {
			told.Do(func() {
				u.out.say(u.name, "waiting for "+strings.Join(names, ", ")+" to serve, "+short(calleePatience)+" at the most")
			})
		}
		return len(names) > 0 && waited < calleePatience
	}
}

// starts reports whether a process may come to serve soon, and does not do so yet.
func (s *slot) starts() bool {
	_, serves := s.instance()
	return !serves && !s.idle() && !s.failing.Load() && !s.finished.Load()
}
