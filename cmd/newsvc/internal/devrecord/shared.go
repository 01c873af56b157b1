package devrecord

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

	"go.etcd.io/etcd/client/pkg/v3/fileutil"
)

// ShareError says that commands which run in other directories won't find a newsvc dev.
type ShareError struct{ Err error }

// Error says what that means.
func (e *ShareError) Error() string {
	return fmt.Sprintf("commands in other directories will not find this newsvc dev: %v", e.Err)
}

// Unwrap returns the cause.
func (e *ShareError) Unwrap() error { return e.Err }

// sharedDir is where this user's records lie, and nobody else's.
func sharedDir() (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	return filepath.Join(cache, "newsvc", "dev"), nil
}

// shared is the name of the copy. It has the process in it, so that whoever removes a dead one's never removes the record
// of its successor.
func (r Record) shared() (string, error) {
	dir, err := sharedDir()
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, fmt.Sprintf("%x-%d.json", sha256.Sum256([]byte(r.Root)), r.PID)), nil
}

func (r Record) share(raw []byte) error {
	path, err := r.shared()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	return replace(path, raw)
}

// Live returns the records of all newsvc dev that this user runs now, by root. Those of dead ones are removed. Without a
// cache directory there are none.
func Live() ([]Record, error) {
	dir, err := sharedDir()
	if err != nil {
		return nil, nil //nolint:nilerr // nobody could have written one either
	}
	files, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.ENOTDIR) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var live []Record
	for _, f := range files {
		if filepath.Ext(f.Name()) != ".json" {
			continue
		}
		path := filepath.Join(dir, f.Name())
		r, err := read(path)
		switch {
		case err == nil && r.Alive():
			live = append(live, r)
		case err == nil:
			_ = os.Remove(path) // that it can't be removed does not make it true
		}
	}
	slices.SortFunc(live, func(a, b Record) int { return strings.Compare(a.Root, b.Root) })
	return live, nil
}

// lockPause is the time between two attempts to get the lock.
const lockPause = 50 * time.Millisecond

// Lock keeps all other newsvc dev of this user from deciding which etcd is theirs, until unlock is called or the process
// ends: two that start at once would start one each. Without a cache directory there is nothing to agree on.
func Lock(ctx context.Context) (unlock func(), err error) {
	dir, err := sharedDir()
	if err != nil {
		return func() {}, nil // as in Live
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return func() {}, nil // nor can records be written there
	}
	tick := time.NewTicker(lockPause)
	defer tick.Stop()
	for {
		f, err := fileutil.TryLockFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
		if err == nil {
			return func() { _ = f.Close() }, nil
		}
		if !errors.Is(err, fileutil.ErrLocked) {
			return nil, err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}
