package config

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/newsvc/newsvc/framework/internal/guard"
	"github.com/newsvc/newsvc/framework/internal/loop"
)

// ApplyTimeout is how long what takes over a section may need. One that takes longer is left behind: its section keeps
// the old values, and gets no further ones before it has returned.
const ApplyTimeout = 10 * time.Second

// Reloader keeps a configuration current: it builds a new one from all layers, validates it as a whole, compares it key by
// key with what is in force, hands each section that changed to whom it concerns, and swaps. Whatever is wrong with the new one,
// the old one stays. Its methods may be called from any goroutine.
//
// What is in force differs from what the layers say in keys that need a restart, in sections that nobody takes over, and in
// sections whose taker refused.
type Reloader struct {
	src      Sources // of the first load; layers are replaced by SetLayer
	sections []Section
	kicks    chan struct{}
	turn     chan struct{} // holds one element; whoever has it reloads. Takers run without a lock that readers need
	force    atomic.Pointer[Config]

	mu     sync.Mutex // guards what follows; nothing is called under it
	takers []*taker
	layers []Layer
	seen   sightings // of the last attempt
	state  State
}

// taker takes over the new values of one section.
type taker struct {
	section string
	apply   func(ctx context.Context, old, next *Config) error
	running *loop.Loop // nil, or what was left behind
}

// State tells where a [Reloader] stands.
type State struct {
	// Loaded is when what is in force was taken over.
	Loaded time.Time
	// Refused is why the layers as they are now can't be used; nil when they can. Since is since when.
	Refused error
	Since   time.Time
	// Failed are sections that keep their old values because whoever takes them over refused, by their path.
	Failed map[string]error
	// Pending are the keys whose change needs a restart.
	Pending []Change
	// Applied, Unchanged and Rejected count the reloads by how they ended.
	Applied, Unchanged, Rejected int
}

// Outcome is what one reload did.
type Outcome struct {
	// Applied are the keys that have taken effect.
	Applied []Change
	// Layers are those of [Sources.Layers] and [Reloader.SetLayer] that were read.
	Layers []Layer
	// State is what holds from now on.
	State State
}

// NewReloader returns a reloader for a configuration that [Load] made from the same sources and sections. It starts nothing.
func NewReloader(first *Config, src Sources, sections ...Section) *Reloader {
	r := &Reloader{
		src: src, sections: sections, kicks: make(chan struct{}, 1), turn: make(chan struct{}, 1), layers: slices.Clone(src.Layers), seen: first.seen,
		state: State{Loaded: time.Now()},
	}
	r.force.Store(first)
	return r
}

// Current is what is in force. It never changes; a reload puts another one in its place.
func (r *Reloader) Current() *Config { return r.force.Load() }

// Layers are the layers from elsewhere that the next reload reads.
func (r *Reloader) Layers() []Layer {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.layers)
}

// State tells where the reloader stands.
func (r *Reloader) State() State {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.state.clone()
}

func (s State) clone() State {
	s.Pending = slices.Clone(s.Pending)
	s.Failed = maps.Clone(s.Failed)
	return s
}

// Apply names what takes over a section when one of its keys that need no restart has changed: apply is called with what was in
// force and what is to be, one at a time, and never at the same time as another one of this reloader. Its error leaves the whole
// section as it was, until the next reload. Without anybody to take it over, each change of a section needs a restart. Several
// may take one section; when one refuses, those before it are called again with the sides exchanged.
func (r *Reloader) Apply(section string, apply func(ctx context.Context, old, next *Config) error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.takers = append(r.takers, &taker{section: section, apply: apply})
}

// SetLayer puts a layer in the place of the one with the same name, or adds it, and has Run reload soon.
func (r *Reloader) SetLayer(l Layer) {
	r.mu.Lock()
	i := slices.IndexFunc(r.layers, func(o Layer) bool { return o.Name == l.Name })
	if i < 0 {
		r.layers = append(r.layers, l)
	} else {
		r.layers[i] = l
	}
	r.mu.Unlock()
	r.Kick()
}

// Kick has Run reload soon. It does not wait.
func (r *Reloader) Kick() {
	select {
	case r.kicks <- struct{}{}:
	default:
	}
}

// Refuse notes, before Run, that what the program started with is not what its layers say, and why.
func (r *Reloader) Refuse(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.state.Refused, r.state.Since = err, time.Now()
}

// settle is how long files must stay as they are before they are read: whoever writes one may not be done.
const settle = 200 * time.Millisecond

// Run reloads until ctx ends: at each kick, and when a file that was read, or that would have been, is another one than before.
// Files are looked at every so often; 0 is never. told is called after each reload, from this goroutine.
func (r *Reloader) Run(ctx context.Context, every time.Duration, told func(Outcome)) {
	timer := time.NewTimer(max(every, time.Millisecond))
	defer timer.Stop()
	tick := timer.C
	if every <= 0 {
		tick = nil
	}
	var candidate sightings
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.kicks:
		case <-tick:
			r.mu.Lock()
			seen := r.seen
			r.mu.Unlock()
			now := seen.again()
			if now.equal(seen) {
				candidate = nil
				timer.Reset(every)
				continue
			}
			if !now.equal(candidate) {
				candidate = now
				timer.Reset(min(settle, every))
				continue
			}
		}
		candidate = nil
		told(r.Reload(ctx))
		if tick != nil {
			timer.Reset(every)
		}
	}
}

// Reload reads all layers now and takes over what can be. It waits for its turn, and for those that take over sections.
func (r *Reloader) Reload(ctx context.Context) Outcome {
	select {
	case r.turn <- struct{}{}:
		defer func() { <-r.turn }()
	case <-ctx.Done():
		return Outcome{State: r.State()}
	}
	src := r.src
	r.mu.Lock()
	src.Layers = slices.Clone(r.layers)
	takers := slices.Clone(r.takers)
	r.mu.Unlock()
	running := r.force.Load()
	next, seen, err := load(src, r.sections, running.seen, nil)
	if err != nil {
		return r.note(seen, func(s *State) {
			if s.Refused == nil || s.Refused.Error() != err.Error() {
				s.Since = time.Now()
			}
			s.Refused = err
			s.Rejected++
		})
	}
	now, failed := r.take(ctx, running, next, takers)
	applied := diff(running, now)
	r.force.Store(now)
	out := r.note(seen, func(s *State) {
		s.Refused, s.Since, s.Failed = nil, time.Time{}, failed
		s.Pending = slices.DeleteFunc(diff(now, next), func(c Change) bool { return failed[now.owner(c.Key)] != nil })
		for i := range s.Pending {
			s.Pending[i].Reload = "restart"
		}
		if len(applied) == 0 {
			s.Unchanged++
			return
		}
		s.Applied++
		s.Loaded = time.Now()
	})
	out.Applied, out.Layers = applied, src.Layers
	return out
}

func (r *Reloader) note(seen sightings, change func(*State)) Outcome {
	r.mu.Lock()
	defer r.mu.Unlock()
	if seen != nil {
		r.seen = seen
	}
	change(&r.state)
	return Outcome{State: r.state.clone()}
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
		if s == nil || failed[t.section] != nil || len(now.in(s, changes)) == 0 {
			continue
		}
		if err := t.call(ctx, running, now); err != nil {
			failed[t.section] = err
			for _, before := range slices.Backward(done[t.section]) {
				if err := before.call(ctx, now, running); err != nil {
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

// call runs a taker, no longer than it is waited for.
func (t *taker) call(ctx context.Context, old, next *Config) error {
	if t.running != nil {
		select {
		case <-t.running.Done():
			t.running = nil
		default:
			return errors.New("what takes it over is still busy with an earlier change")
		}
	}
	ctx, cancel := context.WithTimeout(ctx, ApplyTimeout)
	defer cancel()
	var err error
	run := loop.Start(ctx, func(ctx context.Context) {
		err = guard.Recovered(ctx, func(ctx context.Context) error { return t.apply(ctx, old, next) })
	})
	if run.Join(ctx) != nil {
		select {
		case <-run.Done():
		default:
			t.running = run
			return fmt.Errorf("what takes it over did not return within %v; it is left behind", ApplyTimeout)
		}
	}
	return err
}

// Handler serves what [Config.Handler] does for what is in force, and where the reloader stands: why the layers as they are can't
// be used, sections that were refused, and keys that wait for a restart. extra adds to the page; it may be nil.
func (r *Reloader) Handler(extra func() map[string]any) http.Handler {
	return handler(func() any {
		page, s := r.Current().page(), r.State()
		page["loaded"] = s.Loaded
		page["pending"] = s.Pending
		if s.Pending == nil {
			page["pending"] = []Change{}
		}
		if s.Refused != nil {
			page["refused"] = map[string]any{"since": s.Since, "problems": problemLines(s.Refused)}
		}
		if len(s.Failed) > 0 {
			failed := map[string]string{}
			for section, err := range s.Failed {
				failed[section] = err.Error()
			}
			page["failed"] = failed
		}
		if extra != nil {
			maps.Copy(page, extra())
		}
		return page
	})
}

func problemLines(err error) []string {
	var all *Error
	if !errors.As(err, &all) {
		return []string{err.Error()}
	}
	lines := make([]string, 0, len(all.Problems))
	for _, p := range all.Problems {
		lines = append(lines, p.String())
	}
	return lines
}
