package config

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/newsvc/newsvc/framework/internal/guard"
	"github.com/newsvc/newsvc/framework/internal/loop"
)

// taker takes over the new values of one section. Its fields are for whoever has the turn to reload.
type taker struct {
	section string
	apply   func(ctx context.Context, old, next *Config) error
	running *loop.Loop // nil, or a call that was left behind
	late    *error     // what that call returns; to be read once it is done
	unsure  *Config    // nil, or what it may have taken over although something else is in force
}

// take hands the sections that changed to their takers, in the order in which those were named. It returns what is then in force.
func (r *Reloader) take(ctx context.Context, running, next *Config, takers []*taker) (*Config, map[string]error) {
	concerns := func(section string) bool {
		return slices.ContainsFunc(takers, func(t *taker) bool { return t.section == section })
	}
	still := map[string]bool{} // sections that can't be taken over in part
	now := inForce(running, next, concerns)
	for _, s := range now.sections {
		if concerns(s.name) && validate(s.value) != nil {
			still[s.name] = true
		}
	}
	failed := map[string]error{}
	takes := func(section string) bool { return concerns(section) && !still[section] && failed[section] == nil }
	now = inForce(running, next, takes)
	changes := diff(running, now)
	done := map[string][]*taker{}
	for _, t := range takers {
		s := now.sectionAt(t.section)
		if s == nil || failed[t.section] != nil {
			continue
		}
		old := running
		if len(now.in(s, changes)) == 0 {
			if t.unsure == nil {
				continue
			}
			old = t.unsure
		}
		if err := r.call(ctx, t, old, now); err != nil {
			failed[t.section] = err
			for _, before := range slices.Backward(done[t.section]) {
				if err := r.call(ctx, before, now, running); err != nil {
					before.unsure = now
					failed[t.section] = errors.Join(failed[t.section], fmt.Errorf("and going back to the old values failed: %w", err))
				}
			}
			continue
		}
		done[t.section] = append(done[t.section], t)
	}
	if len(failed) > 0 {
		now = inForce(running, next, takes)
	}
	return now, failed
}

func (c *Config) sectionAt(path string) *section {
	for _, s := range c.sections {
		if s.name == path {
			return s
		}
	}
	return nil
}

// call runs a taker, no longer than it is waited for, and not when ctx has ended.
func (r *Reloader) call(ctx context.Context, t *taker, old, next *Config) error {
	if ctx.Err() != nil {
		return fmt.Errorf("the reload was broken off: %w", context.Cause(ctx))
	}
	if t.running != nil {
		select {
		case <-t.running.Done():
			t.running = nil
		default:
			return errors.New("what takes it over is still busy with an earlier change")
		}
		if *t.late == nil && len(next.in(next.sectionAt(t.section), diff(t.unsure, next))) == 0 {
			t.unsure = nil // it came late to what is to be
			return nil
		}
	}
	limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), ApplyTimeout)
	defer cancel()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(stopGrace, cancel) })()
	bounded, end := context.WithTimeout(ctx, ApplyTimeout)
	defer end()
	err := new(error)
	left := within(limited, bounded, func(ctx context.Context) {
		*err = guard.Recovered(ctx, func(ctx context.Context) error { return t.apply(ctx, old, next) })
	}, r.Kick)
	if left != nil {
		t.running, t.late, t.unsure = left, err, next
		if ctx.Err() != nil {
			return fmt.Errorf("what takes it over did not return although the reload was broken off: %w", context.Cause(ctx))
		}
		return fmt.Errorf("what takes it over did not return within %v; it is left behind", ApplyTimeout)
	}
	if *err == nil {
		t.unsure = nil
	}
	return *err
}
