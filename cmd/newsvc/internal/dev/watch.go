package dev

import (
	"context"
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

	"github.com/newsvc/newsvc/cmd/newsvc/internal/addrpc"
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
	dirs   map[string]bool           // directories that were looked at before
	owned  map[*unit]map[string]bool // directories that each service was made of at the last look
	lost   map[string]bool           // generated files that it was told of that they have lost their source
	first  time.Time                 // when the first of the unsettled saves came
	fresh  time.Time                 // until then services may come into being: a directory has
	absent bool                      // a directory that is to be watched is not there
}

func newWatcher(root string, units []*unit, out *output) *watcher {
	return &watcher{
		root: root, units: units, out: out, notify: fsnotify.NewWatcher, others: func() []string { return nil },
		armed: map[string]bool{}, files: map[string]stamp{}, dirs: map[string]bool{}, owned: map[*unit]map[string]bool{}, lost: map[string]bool{},
	}
}

// open takes what is there as the state from which changes are counted.
func (w *watcher) open() {
	var err error
	if w.fs, err = w.notify(); err != nil {
		w.poll(err)
	}
	want := w.arm()
	for dir := range want {
		want[dir] = false // what is there is no change
	}
	w.scan(want)
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

// look finds out what has changed and tells those whom it concerns. Directories are watched before they are looked at, so that
// what is saved after that is seen by a further look.
func (w *watcher) look(ctx context.Context) {
	if changed := w.scan(w.arm()); len(changed) > 0 {
		w.tell(ctx, append(changed, w.generate(ctx, changed)...))
	}
	w.join()
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

// generate brings generated Go up to date when a .proto file is among what has changed; it returns what has changed since. A
// .proto file that is saved meanwhile is generated from, too.
func (w *watcher) generate(ctx context.Context, changed []string) (since []string) {
	for w.generateOnce(ctx, changed) && ctx.Err() == nil {
		changed = w.scan(w.arm())
		since = append(since, changed...)
	}
	return since
}

// generateOnce reports whether there was something to generate from.
func (w *watcher) generateOnce(ctx context.Context, changed []string) bool {
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
			w.unwritten(ctx, p.Root)
		}
		w.orphans(p.Root, res.Orphans)
	}
	return len(roots) > 0
}

// unwritten tells of methods that no Go code has yet: it builds without them.
func (w *watcher) unwritten(ctx context.Context, dir string) {
	missed, err := addrpc.FindUnwritten(ctx, dir)
	if err != nil {
		return // the compiler says what is wrong with the Go code
	}
	for _, m := range missed {
		w.out.say("newsvc", fmt.Sprintf("note: %s; a stub: %s", m, m.Add))
	}
}

// orphans tells, once, of generated files whose source is gone. Nothing is deleted.
func (w *watcher) orphans(root string, files []string) {
	now := map[string]bool{}
	for _, file := range files {
		path := filepath.Join(root, file)
		if now[path] = true; !w.lost[path] {
			name := shown(w.root, path)
			w.out.say("newsvc", fmt.Sprintf("note: %s has lost its source; when nobody needs it: rm %s", name, name))
		}
		w.lost[path] = true
	}
	for path := range w.lost {
		if strings.HasPrefix(path, root+string(filepath.Separator)) && !now[path] {
			delete(w.lost, path)
		}
	}
}

// opened is a line that begins with the name of a file below dir, with a name that can be opened from root.
func opened(root, dir, line string) string {
	file, _, ok := strings.Cut(line, ":")
	if _, err := os.Stat(filepath.Join(dir, file)); !ok || err != nil || filepath.IsAbs(file) {
		return line
	}
	return shown(root, filepath.Join(dir, file)) + line[len(file):]
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

// arm has the system tell of changes in all directories that matter, and returns them. One that was made below a new one before
// that was watched is found by a further round.
func (w *watcher) arm() (want map[string]bool) {
	want = w.wanted()
	if w.fs == nil {
		return want
	}
	for before := w.armed; ; before = w.armed {
		w.absent, w.armed = false, map[string]bool{}
		grown := false
		for dir := range want {
			err := w.fs.Add(dir) // again for those that it has: one that was gone meanwhile is another one
			switch {
			case err == nil:
				w.armed[dir] = true
				grown = grown || !before[dir]
			case errors.Is(err, fs.ErrNotExist):
				w.absent = true
			default:
				w.poll(err)
				return want
			}
		}
		if want = w.wanted(); !grown {
			return want
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
