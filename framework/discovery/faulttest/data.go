package faulttest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// A copy of the files of a process that stands still is what would be there had it been killed at that moment: all that
// etcd needs to start from. etcd's own snapshot is no way to get a whole cluster back without its tools.

// pause stops the process for a moment, unless it is frozen or does not run.
func (m *Member) pause(ctx context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.process == nil || m.frozen || !m.process.Running() {
		return nil
	}
	return m.process.Freeze(ctx)
}

// resume undoes pause.
func (m *Member) resume() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.process == nil || m.frozen || !m.process.Running() {
		return nil
	}
	return m.process.Thaw()
}

func (m *Member) copyData() error {
	if err := os.RemoveAll(m.copy()); err != nil {
		return err
	}
	return copyTree(m.data(), m.copy())
}

func (m *Member) putBack() error {
	if _, err := os.Stat(m.copy()); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("etcd %s has no copy of its data; call Backup first", m.name)
	}
	if err := m.removeData(); err != nil {
		return err
	}
	return copyTree(m.copy(), m.data())
}

// copyTree copies regular files and directories, with holes where there are only zeros: etcd's logs are mostly that.
func copyTree(from, to string) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		if d.IsDir() {
			return os.MkdirAll(filepath.Join(to, rel), 0o700)
		}
		return copyFile(path, filepath.Join(to, rel))
	})
}

func copyFile(from, to string) (err error) {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dst.Close()) }()
	var size int64
	buf, zeros := make([]byte, 256<<10), make([]byte, 256<<10)
	for {
		n, err := io.ReadFull(src, buf)
		if n > 0 && !bytes.Equal(buf[:n], zeros[:n]) {
			if _, err := dst.WriteAt(buf[:n], size); err != nil {
				return err
			}
		}
		size += int64(n)
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return dst.Truncate(size)
		}
		if err != nil {
			return err
		}
	}
}
