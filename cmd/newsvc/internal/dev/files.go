package dev

import (
	"crypto/sha256"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/generate"
)

const (
	// coarse is the time for which a file may be saved again without that being seen in its size and time: file systems count
	// time in steps, of two seconds at the most.
	coarse = 2 * time.Second
	// behind is how much older than the clock the time of a file that is just saved may be, on most systems.
	behind = 20 * time.Millisecond
)

// stamp is what tells one state of a file from another.
type stamp struct {
	info  fs.FileInfo
	young bool // it was looked at so soon after it was saved that it may be saved again without a trace
	sum   [sha256.Size]byte
}

// wanted are the directories that matter now. Of those that are true, all that is in them belongs to services, even when they are
// new themselves.
func (w *watcher) wanted() map[string]bool {
	all := map[string]bool{}
	for _, u := range w.units {
		for dir := range u.directories() {
			all[dir] = false
		}
		all[u.dir] = false
		for _, dir := range w.above(u) {
			all[dir] = false
		}
	}
	for _, u := range w.units {
		if p, err := generate.Find(u.dir); err == nil {
			below(all, p.Proto, func(string) bool { return true })
		}
		for _, e := range u.made().embeds {
			below(all, e.root(), e.enters)
		}
	}
	return all
}

// directories are those that have files which the service is made of.
func (u *unit) directories() map[string]bool {
	src, all := u.made(), map[string]bool{}
	for dir := range src.dirs {
		all[dir] = true
	}
	for path := range src.files {
		all[filepath.Dir(path)] = true
	}
	return all
}

// below adds a directory, even one that does not exist yet, and those in it.
func below(all map[string]bool, dir string, enters func(name string) bool) {
	all[dir] = true
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil || !d.IsDir():
		case path != dir && !enters(d.Name()):
			return fs.SkipDir
		default:
			all[path] = true
		}
		return nil //nolint:nilerr // what can't be read is nothing to watch
	})
}

// scan looks at all files in the directories and returns those that differ from what was seen before. A directory that is looked
// at for the first time has no changes, unless all that is in it belongs to services.
func (w *watcher) scan(want map[string]bool) (changed []string) {
	seen := map[string]bool{}
	for dir, all := range want {
		entries, err := os.ReadDir(dir)
		known := w.dirs[dir] || all
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
	for dir := range w.dirs {
		if _, ok := want[dir]; !ok {
			delete(w.dirs, dir) // should it matter again, it is a new one
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
	young := time.Since(info.ModTime()) < coarse
	old, known := w.files[path]
	if known && !old.young && old.info.Size() == info.Size() && old.info.ModTime().Equal(info.ModTime()) && os.SameFile(old.info, info) {
		return false
	}
	now, err := sum(path)
	if err != nil {
		return false
	}
	w.files[path] = stamp{info, young, now}
	return !known || now != old.sum
}

// join tells services of what was saved in directories that they are made of since they were last listed or built, and that
// nobody has told them of, since nobody knew that it was theirs.
func (w *watcher) join() {
	for _, u := range w.units {
		now, before, since := u.directories(), w.owned[u], u.made().since
		w.owned[u] = now
		for dir := range now {
			if !before[dir] {
				w.late(u, dir, since)
			}
		}
	}
}

// late makes a reload due if a file of the service in dir was saved since then.
func (w *watcher) late(u *unit, dir string, since time.Time) {
	entries, _ := os.ReadDir(dir) // one that is not there has none
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if info, err := os.Stat(path); err == nil && !info.IsDir() && u.owns(path) && saved(info, since) {
			u.reloads(due{reasons: []string{shown(u.root, path)}, changed: true})
		}
	}
}

// saved reports whether a file was, since then.
func saved(info fs.FileInfo, since time.Time) bool {
	at := touched(info)
	if at.Nanosecond() == 0 { // the file system counts whole seconds, or two
		since = since.Truncate(coarse)
	}
	return at.After(since.Add(-behind))
}
