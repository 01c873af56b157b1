package dev

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// unit is one service as newsvc dev runs it: what it is made of, and a slot for each instance.
type unit struct {
	service
	root  string
	env   []string
	out   *output
	force context.Context
	slots []*slot
	peers func() []*unit // all services, this one included
	found func()         // called when what the service is made of was looked up anew
	watch bool           // saves reload it
	calls []*unit        // those that are to serve before it is started for the first time

	dirty chan struct{}  // a reload is due
	tails sync.WaitGroup // what is still to be told of past reloads
	// builds, starts, current and sockets belong to whoever reloads, which is one at a time.
	builds, starts int
	current        string // the binary that runs
	currentSum     [sha256.Size]byte
	sockets        []*socket

	mu  sync.Mutex
	due due
	src sources
	set settings
}

// due is why a reload is due.
type due struct {
	reasons []string
	changed bool // something that the program is made of
	restart bool // even if the program is the same
}

func newUnit(force context.Context, s service, o *options, etcd []string, out *output) *unit {
	return &unit{
		service: s, root: o.root, env: environment(s, etcd, o.prefix), out: out, force: force,
		dirty: make(chan struct{}, 1), sockets: make([]*socket, s.replicas), found: func() {}, watch: !o.noWatch,
		src: sources{dirs: map[string]bool{}, files: map[string]bool{}},
	}
}

// fill makes the slots for the first binary; without one they wait for it.
func (u *unit) fill(ctx context.Context, binary string, changed func()) {
	if binary != "" {
		u.adopt(ctx, binary)
	}
	for i := range u.replicas {
		s := newSlot(u.force, u.program(ctx, i, binary), u.out, changed)
		s.exclusive, s.watched = u.exclusive, u.watch
		u.slots = append(u.slots, s)
	}
}

// adopt makes binary the one that runs, or is about to.
func (u *unit) adopt(ctx context.Context, binary string) {
	u.current = binary
	u.currentSum, _ = sum(binary) // without a sum it differs from the next one
	if s, ok := u.ask(ctx, binary); ok {
		u.mu.Lock()
		u.set = s
		u.mu.Unlock()
	}
}

// program is what a slot is to run.
func (u *unit) program(ctx context.Context, i int, binary string) program {
	u.starts++
	label := u.name
	if u.replicas > 1 {
		label = fmt.Sprintf("%s.%d", u.name, i+1)
	}
	// A name that no other process has, not even one that is left over from an earlier run.
	ready := filepath.Join(u.root, stateDir, "run", fmt.Sprintf("%s.%d.%d.json", u.name, os.Getpid(), u.starts))
	return program{
		label: label, dir: u.dir, path: binary, ready: ready, socket: u.socket(ctx, i),
		env: append(slices.Clone(u.env), "NEWSVC_READY_FILE="+ready),
	}
}

func (u *unit) settings() settings {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.set
}

// made is what the service is made of.
func (u *unit) made() sources {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.src
}

// look finds out what the service is made of; when that can't be told, what was known counts. Since is when the build began that
// goes with it, or now.
func (u *unit) look(ctx context.Context, since time.Time) {
	s, err := u.list(ctx)
	if ctx.Err() != nil {
		return
	}
	if failed := err != nil || len(s.dirs) == 0; failed && len(u.made().dirs) > 0 {
		return
	} else if failed {
		s = u.guess()
	}
	s.since = since
	u.mu.Lock()
	u.src = s
	u.mu.Unlock()
	u.found()
}

// owns reports whether the service is made of this file.
func (u *unit) owns(path string) bool {
	src := u.made()
	return src.files[path] || goSource(path) && src.dirs[filepath.Dir(path)] ||
		slices.ContainsFunc(src.embeds, func(e embed) bool { return e.has(path) })
}

// goSource reports whether a file is Go that is built into programs.
func goSource(path string) bool {
	name := filepath.Base(path)
	return strings.HasSuffix(name, ".go") && !strings.HasSuffix(name, "_test.go") && !strings.HasPrefix(name, ".") && !strings.HasPrefix(name, "_")
}

// reload asks for one: because a file of the program has changed, or because the processes have to be started anew.
func (u *unit) reloads(why due) {
	u.mu.Lock()
	u.due.add(why)
	u.mu.Unlock()
	wake(u.dirty)
}

// take is why a reload is due; who does not get to it gives it back.
func (u *unit) take() due {
	u.mu.Lock()
	defer u.mu.Unlock()
	all := u.due
	u.due = due{}
	return all
}

// giveBack puts what was taken before what has come since.
func (u *unit) giveBack(taken due) {
	u.mu.Lock()
	defer u.mu.Unlock()
	since := u.due
	u.due = taken
	u.due.add(since)
}

func (d *due) add(more due) {
	for _, r := range more.reasons {
		if !slices.Contains(d.reasons, r) {
			d.reasons = append(d.reasons, r)
		}
	}
	d.changed = d.changed || more.changed
	d.restart = d.restart || more.restart
}

// String says why.
func (d due) String() string {
	if n := len(d.reasons); n > 3 {
		return fmt.Sprintf("%s and %d more", strings.Join(d.reasons[:3], ", "), n-3)
	}
	return strings.Join(d.reasons, ", ")
}

// serves reports whether an instance does.
func (u *unit) serves() bool {
	return slices.ContainsFunc(u.slots, func(s *slot) bool { _, ok := s.instance(); return ok })
}

// well reports whether each instance serves, or is on its way to.
func (u *unit) well() bool {
	return !slices.ContainsFunc(u.slots, func(s *slot) bool { _, serves := s.instance(); return !serves && !s.starts() })
}

// meanwhile says what becomes of the service when something new is not to be.
func (u *unit) meanwhile() string {
	switch {
	case u.serves():
		return "the previous version goes on serving"
	case u.watch:
		return "waiting for a save"
	}
	return "nothing serves"
}

// environment is what a process finds: ours, what newsvc dev says, and settings unless the user made them already.
func environment(s service, etcd []string, prefix string) []string {
	env := append(os.Environ(), "NEWSVC_DEV=1")
	scope := strings.ToUpper(strings.ReplaceAll(s.name, "-", "_")) + "__"
	settings := [][2]string{
		{scope + "SERVER__LISTEN", "127.0.0.1:0"},
		{scope + "ADMIN__LISTEN", "127.0.0.1:0"},
		{scope + "ETCD__ENDPOINTS", strings.Join(etcd, ",")},
		{scope + "DISCOVERY__PREFIX", prefix},
	}
	if _, err := os.Stat(filepath.Join(s.dir, "config.dev.yaml")); err == nil {
		settings = append(settings, [2]string{"NEWSVC_ENV", "dev"})
	}
	for _, kv := range settings {
		if _, set := os.LookupEnv(kv[0]); !set {
			env = append(env, kv[0]+"="+kv[1])
		}
	}
	return env
}
