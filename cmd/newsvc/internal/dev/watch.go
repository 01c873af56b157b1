package dev

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/generate"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/problem"
)

const (
	settle   = 250 * time.Millisecond // without a further save, until the saves count as one
	longest  = 2 * time.Second        // after the first of them they count anyway
	lookEach = time.Second            // without notifications
	freshFor = 10 * time.Second       // from a new directory to what makes it a service, at most
)

// watcher tells services of changes of what they are made of. The system's notifications only wake it; what has changed is
// found by looking at the files, so that a file which was written without a change of its content is no change.
type watcher struct {
	root    string
	units   []*unit
	out     *output
	notify  func() (*fsnotify.Watcher, error)
	sources chan struct{}   // told when services are made of other files than before
	others  func() []string // services that have come into being since the start

	fs     *fsnotify.Watcher // nil: the files are looked at every second
	armed  map[string]bool   // directories that are watched
	files  map[string]stamp
	dirs   map[string]bool // directories that were looked at before
	first  time.Time       // when the first of the unsettled saves came
	fresh  time.Time       // until then services may come into being: a directory has
	absent bool            // a directory that is to be watched is not there
}

// stamp is what tells one state of a file from another.
type stamp struct {
	size int64
	time time.Time
	sum  [sha256.Size]byte
}

func newWatcher(root string, units []*unit, out *output) *watcher {
	return &watcher{
		root: root, units: units, out: out, notify: fsnotify.NewWatcher, others: func() []string { return nil },
		armed: map[string]bool{}, files: map[string]stamp{}, dirs: map[string]bool{},
	}
}

// open takes what is there as the state from which changes are counted.
func (w *watcher) open() {
	var err error
	if w.fs, err = w.notify(); err != nil {
		w.poll(err)
	}
	w.scan()
	w.arm()
}

// run tells of changes until ctx ends.
func (w *watcher) run(ctx context.Context) {
	defer w.close()
	settled := time.NewTimer(0) // what was saved since open
	defer settled.Stop()
	look := time.NewTicker(lookEach)
	defer look.Stop()
	for {
		var events chan fsnotify.Event
		var errs chan error
		if w.fs != nil {
			events, errs = w.fs.Events, w.fs.Errors
		}
		select {
		case <-ctx.Done():
			return
		case e := <-events:
			if w.relevant(e.Name) {
				w.saved(settled)
			}
		case err := <-errs: // events were lost, whatever it says
			_ = err
			w.saved(settled)
		case <-look.C:
			if w.fs == nil || w.absent {
				w.look(ctx)
			}
			w.greet()
		case <-w.sources:
			w.look(ctx)
		case <-settled.C:
			w.first = time.Time{}
			w.look(ctx)
		}
	}
}

func (w *watcher) close() {
	if w.fs != nil {
		_ = w.fs.Close()
	}
}

// saved puts off the look at the files until no further save comes, within bounds.
func (w *watcher) saved(settled *time.Timer) {
	if w.first.IsZero() {
		w.first = time.Now()
	}
	settled.Reset(max(0, min(settle, longest-time.Since(w.first))))
}

// look finds out what has changed and tells those whom it concerns.
func (w *watcher) look(ctx context.Context) {
	changed := w.scan()
	if len(changed) > 0 {
		changed = append(changed, w.generate(ctx, changed)...)
		w.tell(ctx, changed)
	}
	w.arm()
}

// tell makes reloads due.
func (w *watcher) tell(ctx context.Context, changed []string) {
	for _, u := range w.units {
		for _, path := range changed {
			switch {
			case u.isConfig(path):
				u.tails.Go(func() { u.configured(ctx, path) })
			case u.isMarker(path) && !missing(path):
				u.out.say(u.name, shown(u.root, path)+" has changed; what it says of dev takes effect when newsvc dev is started anew")
			case u.isMarker(path) || u.owns(path):
				u.reloads(due{reasons: []string{shown(u.root, path)}, changed: true})
			}
		}
	}
}

func missing(path string) bool {
	_, err := os.Stat(path)
	return errors.Is(err, fs.ErrNotExist)
}

// greet tells of services that have come into being.
func (w *watcher) greet() {
	if time.Now().After(w.fresh) {
		return
	}
	for _, name := range w.others() {
		w.out.say("newsvc", fmt.Sprintf("there is a new service, %s; newsvc dev runs it when it is started anew: Ctrl-C, then newsvc dev", name))
	}
}

// above are the directories in which services lie, from the root on.
func (w *watcher) above(u *unit) []string {
	var all []string
	for dir := u.dir; dir != w.root && strings.HasPrefix(dir, w.root); {
		dir = filepath.Dir(dir)
		all = append(all, dir)
	}
	return all
}

// shown is a file as people know it.
func shown(root, path string) string {
	if rel, err := filepath.Rel(root, path); err == nil && !strings.HasPrefix(rel, "..") {
		return rel
	}
	return path
}

// generate brings generated Go up to date when a .proto file is among what has changed; it returns what that has changed.
func (w *watcher) generate(ctx context.Context, changed []string) []string {
	dirs := map[string]bool{}
	for _, path := range changed {
		if filepath.Ext(path) == ".proto" {
			dirs[filepath.Dir(path)] = true
		}
	}
	roots := map[string]bool{}
	for dir := range dirs {
		p, err := generate.Find(dir)
		if err != nil || roots[p.Root] {
			continue // a .proto file that nobody generates from
		}
		roots[p.Root] = true
		res, err := generate.Run(ctx, generate.Options{Dir: p.Root})
		switch pe := (*problem.Error)(nil); {
		case ctx.Err() != nil:
		case errors.As(err, &pe):
			w.out.say("newsvc", "generate: "+pe.What+"; the services go on as they are")
			for line := range strings.SplitSeq(strings.TrimSpace(pe.At), "\n") {
				w.out.say("newsvc", "  "+opened(w.root, p.Root, strings.TrimSpace(line)))
			}
		case err != nil:
			w.out.say("newsvc", "generate: "+err.Error())
		case len(res.Updated) > 0:
			w.out.say("newsvc", "generate: updated "+strings.Join(res.Updated, ", "))
		}
	}
	if len(roots) == 0 {
		return nil
	}
	return w.scan()
}

// opened is a line that begins with the name of a file below dir, with a name that can be opened from root.
func opened(root, dir, line string) string {
	file, _, ok := strings.Cut(line, ":")
	if _, err := os.Stat(filepath.Join(dir, file)); !ok || err != nil || filepath.IsAbs(file) {
		return line
	}
	return shown(root, filepath.Join(dir, file)) + line[len(file):]
}

// wanted are the directories that matter now.
func (w *watcher) wanted() map[string]bool {
	all := map[string]bool{}
	for _, u := range w.units {
		src := u.made()
		for dir := range src.dirs {
			all[dir] = true
		}
		for path := range src.files {
			all[filepath.Dir(path)] = true
		}
		all[u.dir] = true
		for _, dir := range w.above(u) {
			all[dir] = true
		}
		if p, err := generate.Find(u.dir); err == nil {
			_ = filepath.WalkDir(p.Proto, func(path string, d fs.DirEntry, err error) error {
				if err == nil && d.IsDir() {
					all[path] = true
				}
				return nil
			})
		}
	}
	return all
}

// relevant reports whether a change of that name may be one of what a service is made of.
func (w *watcher) relevant(path string) bool {
	if goSource(path) || filepath.Ext(path) == ".proto" || w.armed[path] {
		return true
	}
	if info, err := os.Stat(path); err == nil && info.IsDir() && filepath.Base(path)[0] != '.' {
		w.fresh = time.Now().Add(freshFor)
		return true // perhaps of .proto files
	}
	return slices.ContainsFunc(w.units, func(u *unit) bool { return u.isConfig(path) || u.isMarker(path) || u.owns(path) })
}

// scan looks at all files and returns those that differ from what was seen before. A directory that is looked at for the
// first time has no changes.
func (w *watcher) scan() (changed []string) {
	seen := map[string]bool{}
	for dir := range w.wanted() {
		entries, err := os.ReadDir(dir)
		known := w.dirs[dir]
		w.dirs[dir] = w.dirs[dir] || err == nil || errors.Is(err, fs.ErrNotExist)
		for _, e := range entries {
			path := filepath.Join(dir, e.Name())
			if e.IsDir() || !w.counts(path) {
				continue
			}
			seen[path] = true
			if w.differs(path) && known {
				changed = append(changed, path)
			}
		}
	}
	for path := range w.files {
		if !seen[path] {
			delete(w.files, path)
			changed = append(changed, path)
		}
	}
	slices.Sort(changed)
	return changed
}

// counts reports whether a service may be made of the file.
func (w *watcher) counts(path string) bool {
	return goSource(path) || filepath.Ext(path) == ".proto" ||
		slices.ContainsFunc(w.units, func(u *unit) bool { return u.isConfig(path) || u.isMarker(path) || u.owns(path) })
}

// differs notes the state of a file and reports whether it had another one.
func (w *watcher) differs(path string) bool {
	info, err := os.Stat(path)
	if err != nil {
		return false // it is just going; the next look misses it
	}
	old, known := w.files[path]
	if known && old.size == info.Size() && old.time.Equal(info.ModTime()) {
		return false
	}
	now, err := sum(path)
	if err != nil {
		return false
	}
	w.files[path] = stamp{info.Size(), info.ModTime(), now}
	return !known || now != old.sum
}

// arm has the system tell of changes in all directories that matter.
func (w *watcher) arm() {
	w.absent = false
	if w.fs == nil {
		return
	}
	w.armed = map[string]bool{}
	for dir := range w.wanted() {
		err := w.fs.Add(dir) // again for those that it has: one that was gone meanwhile is another one
		switch {
		case err == nil:
			w.armed[dir] = true
		case errors.Is(err, fs.ErrNotExist):
			w.absent = true
		default:
			w.poll(err)
			return
		}
	}
}

// poll is what is left when the system does not tell of changes.
func (w *watcher) poll(err error) {
	w.close()
	w.fs = nil
	w.out.say("newsvc", fmt.Sprintf("warning: the system does not tell of changed files (%v); looking at them every second instead", err))
	switch {
	case errors.Is(err, syscall.ENOSPC):
		w.out.say("newsvc", "  fix: sudo sysctl fs.inotify.max_user_watches=524288")
	case errors.Is(err, syscall.EMFILE):
		w.out.say("newsvc", "  fix: sudo sysctl fs.inotify.max_user_instances=1024")
	}
}
