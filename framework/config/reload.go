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

	"github.com/newsvc/newsvc/framework/internal/loop"
)

// ApplyTimeout is how long what takes over a section may need. One that takes longer is left behind: its section keeps
// the old values, and gets no further ones before it has returned. Then what it did counts: see [Reloader.Apply].
const ApplyTimeout = 10 * time.Second

const (
	// readTimeout is how long files may take to be read; a file server may never answer, and a pipe neither.
	readTimeout = 5 * time.Second
	// stopGrace is how long a stop waits for the taker that runs.
	stopGrace = time.Second
	// settle is how long files must stay as they are before they are read: whoever writes one may not be done.
	settle = 200 * time.Millisecond
	// unsettled is how long a kick waits for files that keep changing.
	unsettled = 2 * time.Second
)

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
	seen   sightings  // of the last attempt
	stuck  *loop.Loop // nil, or what reads files and was left behind
	state  State
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
// force and what is to be, one at a time, and not at the same time as another one of this reloader unless that was left behind; and
// not after ctx of Run has ended, which a call that is under way is told by its own ctx. Its error leaves the whole
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

// Run reloads until ctx ends: at each kick, and when a file that was read, or that would have been, is another one than before and
// has stayed so for a moment. Files are looked at every so often, and at a kick; 0 is at a kick only. told is called after each
// reload, from this goroutine. When Run returns, nothing is being taken over any more, save what was left behind.
func (r *Reloader) Run(ctx context.Context, every time.Duration, told func(Outcome)) {
	pause := settle
	if every > 0 {
		pause = min(settle, every)
	}
	timer := time.NewTimer(max(every, time.Millisecond))
	defer timer.Stop()
	rest := func() {
		if timer.Stop(); every > 0 {
			timer.Reset(every)
		}
	}
	rest()
	var candidate sightings
	var since, kicked time.Time // how long the candidate has stayed the same, and how long a kick waits; zero without one
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.kicks:
			if kicked.IsZero() {
				kicked = time.Now()
			}
		case <-timer.C:
		}
		seen, now, err := r.look(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil: // which a reload tells
		case !now.equal(seen) && !now.equal(candidate):
			candidate, since = now, time.Now()
			fallthrough
		case !now.equal(seen) && time.Since(since) < pause:
			if kicked.IsZero() || time.Since(kicked) < unsettled {
				timer.Reset(pause - time.Since(since))
				continue
			}
		case now.equal(seen) && kicked.IsZero():
			candidate = nil
			rest()
			continue
		}
		if err != nil && kicked.IsZero() && r.hangs() {
			rest()
			continue
		}
		candidate, kicked = nil, time.Time{}
		out := r.Reload(ctx)
		if ctx.Err() != nil { // it was broken off
			return
		}
		told(out)
		rest()
	}
}

// errHangs is why nothing can be read; whoever told it need not tell it again.
var errHangs = errors.New("the files of the configuration do not let themselves be read")

// hangs says whether it was told that files can't be read.
func (r *Reloader) hangs() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return errors.Is(r.state.Refused, errHangs)
}

// look looks at the files that were seen at the last attempt.
func (r *Reloader) look(ctx context.Context) (seen, now sightings, err error) {
	r.mu.Lock()
	seen = r.seen
	r.mu.Unlock()
	var again sightings
	if err := r.reading(ctx, func() { again = seen.again() }); err != nil {
		return seen, nil, err
	}
	return seen, again, nil
}

// built is what a reload makes of all layers.
type built struct {
	next *Config
	seen sightings
	err  error
}

// build reads all layers. false is that ctx has ended meanwhile.
func (r *Reloader) build(ctx context.Context, src Sources, had sightings) (built, bool) {
	var b built
	if err := r.reading(ctx, func() { b.next, b.seen, b.err = load(src, r.sections, had, nil) }); err != nil {
		return built{err: err}, ctx.Err() == nil
	}
	return b, ctx.Err() == nil
}

// reading runs something that reads files, no longer than [readTimeout]. What was left behind has Run reload when it returns,
// and until then nothing is read. What read writes must not be looked at after an error.
func (r *Reloader) reading(ctx context.Context, read func()) error {
	r.mu.Lock()
	stuck, files := r.stuck, slices.Sorted(maps.Keys(r.seen))
	r.mu.Unlock()
	if stuck != nil {
		select {
		case <-stuck.Done():
		default:
			return fmt.Errorf("%w: reading %q takes longer than %v", errHangs, files, readTimeout)
		}
	}
	limited, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	left := within(limited, context.WithoutCancel(ctx), func(context.Context) { read() }, r.Kick)
	r.mu.Lock()
	r.stuck = left
	r.mu.Unlock()
	switch {
	case left == nil:
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	}
	return fmt.Errorf("%w: reading %q takes longer than %v", errHangs, files, readTimeout)
}

// within runs body with ctx and waits for it until limit ends. It returns nil when body has returned, else the loop that was left
// behind; late is called then when body returns.
func within(limit, ctx context.Context, body func(context.Context), late func()) *loop.Loop {
	var mu sync.Mutex
	var done, left bool
	run := loop.Start(ctx, func(ctx context.Context) {
		body(ctx)
		mu.Lock()
		done = true
		tell := left
		mu.Unlock()
		if tell {
			late()
		}
	})
	_ = run.Join(limit)
	mu.Lock()
	left = !done
	mu.Unlock()
	if !left {
		<-run.Done()
		return nil
	}
	return run
}

// Reload reads all layers now and takes over what can be. It waits for its turn, and for those that take over sections.
func (r *Reloader) Reload(ctx context.Context) Outcome {
	select {
	case r.turn <- struct{}{}:
		defer func() { <-r.turn }()
	case <-ctx.Done():
	}
	if ctx.Err() != nil {
		return Outcome{State: r.State()}
	}
	src := r.src
	r.mu.Lock()
	src.Layers = slices.Clone(r.layers)
	takers := slices.Clone(r.takers)
	r.mu.Unlock()
	running := r.force.Load()
	b, ok := r.build(ctx, src, running.seen)
	next, seen, err := b.next, b.seen, b.err
	if !ok {
		return Outcome{State: r.State()}
	}
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
