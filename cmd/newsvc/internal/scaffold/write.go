package scaffold

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/problem"
)

// write puts all files below dir, or none. They are written to a directory beside it, which is then renamed: beside,
// because a rename does not cross file systems. Of what was there before, only an empty dir is replaced. Signals that would
// end the process wait, or what is beside would stay.
func write(dir string, files []File) (err error) {
	waiting := make(chan os.Signal, 1)
	signal.Notify(waiting, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer signal.Stop(waiting)
	parent := filepath.Dir(dir)
	made, err := makeParents(parent)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil && made != "" {
			_ = os.RemoveAll(made)
		}
	}()
	temp, err := os.MkdirTemp(parent, ".newsvc-create-")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(temp))
		}
	}()
	for _, f := range files {
		name := filepath.Join(temp, filepath.FromSlash(f.Path))
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(name, f.Content, 0o644); err != nil {
			return err
		}
	}
	if err := os.Chmod(temp, 0o755); err != nil {
		return err
	}
	// An empty directory only: Remove fails on any other, but would take a file or a link that came meanwhile.
	if info, err := os.Lstat(dir); err == nil && !info.IsDir() {
		return &os.PathError{Op: "create", Path: dir, Err: os.ErrExist}
	}
	if err := os.Remove(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return os.Rename(temp, dir)
}

// cannotWrite tells why nothing was written to a directory, and what to do about that.
func cannotWrite(shown, another string, err error) error {
	p := &problem.Error{What: fmt.Sprintf("cannot write %s: %v", shown, err), Fix: "make the directory writable, or " + another, Err: err}
	if at := (*fs.PathError)(nil); errors.As(err, &at) {
		p.What, p.At = fmt.Sprintf("cannot write %s: %v", shown, at.Err), at.Op+" "+at.Path
	}
	if errors.Is(err, syscall.ENOSPC) {
		p.Fix = "make room on the disk, which df shows, or " + another
	}
	return p
}

// makeParents creates parent and returns the topmost directory that was not there; empty when all were.
func makeParents(parent string) (string, error) {
	made := ""
	for dir := parent; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(dir); err == nil || filepath.Dir(dir) == dir {
			break
		}
		made = dir
	}
	return made, os.MkdirAll(parent, 0o755)
}
