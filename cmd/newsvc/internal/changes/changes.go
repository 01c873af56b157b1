// Package changes writes several files as one step: all of them, or the tree stays as it was. A command collects what it
// wants to write in a [Set], may show it ([Set.Plan], for --dry-run), and applies it at the end. It never deletes a
// file that it did not make, and never writes over a file that changed since it was read.
package changes

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

// Actions of a [Change].
const (
	Create = "create"
	Update = "update"
	Same   = "same"
)

// ErrChanged is the reason for which [Set.Apply] leaves all as it is when a file is not what it was when it was read.
var ErrChanged = errors.New("was changed by somebody else meanwhile")

// Change is what happens to one file.
type Change struct {
	Action string // [Create], [Update] or [Same]
	Path   string // absolute
}

// Set is a number of files and what is to be in them. Its zero value is ready to use, from one goroutine.
type Set struct {
	order []string
	files map[string]*entry
}

type entry struct {
	path string // where the file really is: links are followed
	mode fs.FileMode
	old  []byte // nil: there was none
	now  []byte

	temp, backup string
	done         bool
}

// Read returns what the file holds, pending changes included. A file that does not exist gives an error that is
// [fs.ErrNotExist].
func (s *Set) Read(name string) ([]byte, error) {
	if e, ok := s.files[name]; ok {
		if e.now == nil {
			return nil, &fs.PathError{Op: "read", Path: name, Err: fs.ErrNotExist}
		}
		return e.now, nil
	}
	return os.ReadFile(name)
}

// Write plans that the file at the absolute path holds content. It reads what is there now: that is what [Set.Apply] expects to
// find. What is no file, and a file that is read-only, is an error.
func (s *Set) Write(name string, content []byte) error {
	if content == nil {
		content = []byte{}
	}
	if e, ok := s.files[name]; ok {
		e.now = content
		return nil
	}
	e := &entry{path: name, mode: 0o644, now: content}
	if target, err := filepath.EvalSymlinks(name); err == nil {
		e.path = target
	}
	info, err := os.Lstat(e.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return err
	case !info.Mode().IsRegular():
		return &fs.PathError{Op: "write", Path: name, Err: errors.New("it is no regular file")}
	default:
		e.mode = info.Mode().Perm()
		if e.old, err = os.ReadFile(e.path); err != nil {
			return err
		}
		if e.old == nil {
			e.old = []byte{}
		}
		if e.mode&0o222 == 0 && e.action() != Same { // a rename would not ask
			return &fs.PathError{Op: "write", Path: name, Err: errors.New("it is read-only")}
		}
	}
	if s.files == nil {
		s.files = map[string]*entry{}
	}
	s.files[name] = e
	s.order = append(s.order, name)
	return nil
}

// Plan lists what Apply will do, in the order of the calls of Write.
func (s *Set) Plan() []Change {
	var list []Change
	for _, name := range s.order {
		list = append(list, Change{s.files[name].action(), name})
	}
	return list
}

// Told is a change as people and programs are told of it. Path is relative to where they are, with slashes; Note says what the
// change is, and may be empty.
type Told struct {
	Action string `json:"action"` // [Create] or [Update]
	Path   string `json:"path"`
	Note   string `json:"note,omitempty"`
}

// Tell lists what Apply will do, without the files that stay the same: with the form that shown gives each path, and the
// notes by path. It is empty, and not nil, when there is nothing to do.
func (s *Set) Tell(shown func(path string) string, notes map[string]string) []Told {
	list := []Told{}
	for _, c := range s.Plan() {
		if c.Action != Same {
			list = append(list, Told{c.Action, shown(c.Path), notes[c.Path]})
		}
	}
	return list
}

func (e *entry) action() string {
	switch {
	case e.old == nil:
		return Create
	case !bytes.Equal(e.old, e.now):
		return Update
	}
	return Same
}

// Apply writes all files. New contents and copies of old ones are laid down beside the files first; then each is
// renamed into place. When anything fails, what was done is undone, and the error says so if even that did not work.
// Signals that would end the process have to wait until it is done.
func (s *Set) Apply() (err error) {
	waiting := make(chan os.Signal, 1)
	signal.Notify(waiting, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer signal.Stop(waiting)
	return s.apply()
}

func (s *Set) apply() (err error) {
	var made []string
	var pending []*entry
	for _, name := range s.order {
		if e := s.files[name]; e.action() != Same {
			pending = append(pending, e)
		}
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, undo(pending, made))
		}
		for _, e := range pending {
			for _, name := range []string{e.temp, e.backup} {
				if name != "" {
					_ = os.Remove(name) // renamed files are no longer there
				}
			}
		}
	}()
	for _, e := range pending {
		dirs, err := makeDirs(filepath.Dir(e.path))
		made = append(made, dirs...)
		if err != nil {
			return err
		}
		if err := e.prepare(); err != nil {
			return err
		}
	}
	for _, e := range pending {
		if err := e.swap(); err != nil {
			return err
		}
	}
	return nil
}

func (e *entry) prepare() (err error) {
	if e.temp, err = beside(e.path, e.now, e.mode); err != nil || e.old == nil {
		return err
	}
	e.backup, err = again(e.path, e.old, e.mode)
	return err
}

// again gives a file a second name, under which it can come back as it was: the same file, its times and owner too. Where
// there are no links it is a copy.
func again(name string, content []byte, mode fs.FileMode) (string, error) {
	info, err := os.Stat(name)
	if err != nil {
		return "", err
	}
	for range 10 {
		second := filepath.Join(filepath.Dir(name), fmt.Sprintf(".newsvc-%016x", rand.Uint64()))
		if err := os.Link(name, second); err == nil {
			return second, nil
		} else if !errors.Is(err, fs.ErrExist) {
			break
		}
	}
	second, err := beside(name, content, mode)
	if err != nil {
		return "", err
	}
	return second, os.Chtimes(second, time.Time{}, info.ModTime())
}

// swap puts the new content in place, unless somebody wrote the file meanwhile.
func (e *entry) swap() error {
	found, err := os.ReadFile(e.path)
	switch {
	case errors.Is(err, fs.ErrNotExist) && e.old == nil:
	case err != nil:
		return err
	case e.old == nil || !bytes.Equal(found, e.old):
		return fmt.Errorf("%s %w", e.path, ErrChanged)
	}
	if err := os.Rename(e.temp, e.path); err != nil {
		return err
	}
	e.done = true
	return nil
}

func undo(pending []*entry, made []string) error {
	var errs []error
	for _, e := range pending {
		if !e.done {
			continue
		}
		if e.old == nil {
			errs = append(errs, os.Remove(e.path))
		} else {
			errs = append(errs, os.Rename(e.backup, e.path))
		}
	}
	for _, e := range pending { // before the directories, which have to be empty
		if e.temp != "" && !e.done {
			errs = append(errs, os.Remove(e.temp))
			e.temp = ""
		}
	}
	for i := len(made) - 1; i >= 0; i-- {
		_ = os.Remove(made[i]) // stays when somebody put something into it
	}
	return errors.Join(errs...)
}

// beside writes a temporary file into the directory of name: a rename does not cross file systems.
func beside(name string, content []byte, mode fs.FileMode) (string, error) {
	f, err := os.CreateTemp(filepath.Dir(name), ".newsvc-*")
	if err != nil {
		return "", err
	}
	_, err = f.Write(content)
	err = errors.Join(err, f.Chmod(mode), f.Close())
	if err != nil {
		return "", errors.Join(err, os.Remove(f.Name()))
	}
	return f.Name(), nil
}

// makeDirs creates dir and returns the directories that were not there, outermost first.
func makeDirs(dir string) ([]string, error) {
	var missing []string
	for at := dir; ; at = filepath.Dir(at) {
		if _, err := os.Stat(at); err == nil || filepath.Dir(at) == at {
			break
		}
		missing = append([]string{at}, missing...)
	}
	for i, at := range missing {
		if err := os.Mkdir(at, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return missing[:i], err
		}
	}
	return missing, nil
}
