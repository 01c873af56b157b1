package etcdsource

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/newsvc/newsvc/framework/config"
)

// copied is the file with the last good settings.
type copied struct {
	Prefix   string            `json:"prefix"`
	AsOf     time.Time         `json:"as_of"`
	Revision int64             `json:"revision"`
	Cluster  uint64            `json:"cluster,omitempty"`
	Settings map[string]string `json:"settings"`       // by key of etcd; nil when there is no copy
	Held     []string          `json:"held,omitempty"` // of them, the keys that etcd had lost
}

// stands says whether a copy tells all that next would.
func (c *copied) stands(next copied) bool {
	return c != nil && c.Cluster == next.Cluster && c.Revision <= next.Revision && maps.Equal(c.Settings, next.Settings) && slices.Equal(c.Held, next.Held)
}

// fileName can't be that of a service's instances, which lie in the same directory: no service has a dot in its name.
func (s *Source) fileName() string { return filepath.Join(s.opt.Dir, s.opt.Service+".config.json") }

// Keep writes a layer of this source to disk, for starts without etcd: it has proven good. It does nothing when the copy holds the
// same already, or when no directory was given. Only the user of the process can read the file, since there may be secrets in it.
func (s *Source) Keep(l config.Layer) error {
	if s.opt.Dir == "" || l.Name != s.Name() {
		return nil
	}
	next := copied{Prefix: s.opt.Prefix, Settings: make(map[string]string, len(l.Settings))}
	for _, set := range l.Settings {
		next.Settings[strings.TrimPrefix(set.Position.Name, "etcd ")] = set.Text
	}
	s.mu.Lock()
	next.AsOf, next.Revision, next.Cluster = s.state.AsOf, s.last.revision, s.last.cluster
	for key := range s.held {
		if _, there := next.Settings[key]; there {
			next.Held = append(next.Held, key)
		}
	}
	kept := s.kept
	s.mu.Unlock()
	slices.Sort(next.Held)
	if kept.stands(next) {
		return nil
	}
	data, err := json.Marshal(next)
	if err == nil {
		err = replace(s.opt.Dir, s.fileName(), data)
	}
	if err != nil {
		return fmt.Errorf("keep the configuration from etcd in %q: %w; make the directory of discovery.cache_dir writable", s.fileName(), err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.kept = &next
	return nil
}

// readCopy reads the file; none is no error and has no settings.
func (s *Source) readCopy() (copied, error) {
	if s.opt.Dir == "" {
		return copied{}, nil
	}
	data, err := os.ReadFile(s.fileName())
	if errors.Is(err, fs.ErrNotExist) {
		return copied{}, nil
	}
	var c copied
	if err == nil {
		err = json.Unmarshal(data, &c)
	}
	if err == nil && c.Prefix != s.opt.Prefix {
		return copied{}, nil // of another prefix: it says nothing about this one
	}
	if err != nil {
		return copied{}, fmt.Errorf("the copy %q can't be read: %w; remove it", s.fileName(), err)
	}
	if c.Settings == nil {
		c.Settings = map[string]string{}
	}
	return c, nil
}

// abandoned is the age from which on a half-written copy is not somebody's who still writes.
const abandoned = time.Minute

// replace makes the file appear whole or not at all, also after the machine has lost its power, and removes what a process that was
// killed meanwhile has left behind.
func replace(dir, name string, data []byte) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	left, _ := filepath.Glob(filepath.Join(dir, filepath.Base(name)+".*.tmp")) // the pattern is fine
	for _, old := range left {
		if info, err := os.Lstat(old); err == nil && time.Since(info.ModTime()) > abandoned {
			_ = os.Remove(old) // it only takes up room
		}
	}
	tmp, err := os.CreateTemp(dir, filepath.Base(name)+".*.tmp") // for the user alone
	if err != nil {
		return err
	}
	_, err = tmp.Write(data)
	if err == nil {
		err = tmp.Sync() // or the new name could be there before what it names
	}
	err = errors.Join(err, tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), name)
	}
	if err != nil {
		return errors.Join(err, os.Remove(tmp.Name()))
	}
	if d, err := os.Open(dir); err == nil { // that the name lasts is nice to have, and not every system can do it
		_ = d.Sync()
		_ = d.Close()
	}
	return nil
}
