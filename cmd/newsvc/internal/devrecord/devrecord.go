// Package devrecord is what a running newsvc dev tells other tools: which etcd its services are registered in, and where
// they listen. The record lies twice: in the user's cache directory as soon as its etcd answers, where commands find it
// that run elsewhere, and as .newsvc/dev.json in the directory where dev was started once everything has served.
//
// A record counts as long as the process that wrote it lives; one that was killed leaves a record that nobody believes.
package devrecord

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// stateDir is the directory of scratch files in a project.
const stateDir = ".newsvc"

// Record is what one newsvc dev says of itself.
type Record struct {
	Version int `json:"version"`
	// PID is the process of newsvc dev, and Started tells it from a later process with that number; empty where the
	// system does not say.
	PID     int    `json:"pid"`
	Started string `json:"started,omitempty"`
	// Root is the directory in which it runs, absolute.
	Root string `json:"root"`
	// Complete is true from the moment at which everything has served.
	Complete bool `json:"complete"`
	Etcd     Etcd `json:"etcd"`
	// Services are those that it runs, by name.
	Services map[string]Service `json:"services"`
}

// Etcd is where the services are registered.
type Etcd struct {
	Endpoints []string `json:"endpoints"`
	Prefix    string   `json:"prefix"`
	// Owner is the process of the newsvc dev in which this etcd runs: its own, or that of the one it has joined. 0 means
	// an etcd that no newsvc dev has started.
	Owner int `json:"owner,omitempty"`
}

// Service is one service with the instances that serve.
type Service struct {
	Instances []Instance `json:"instances"`
	// Gone are the last ones that served and died; their keys may still be in etcd.
	Gone []Gone `json:"gone,omitempty"`
}

// Instance is one process of a service. Addresses are host:port, empty for listeners that it does not have.
type Instance struct {
	PID   int    `json:"pid"`
	GRPC  string `json:"grpc"`
	Admin string `json:"admin"`
	HTTP  string `json:"http"`
}

// Gone is an instance whose process has died.
type Gone struct {
	Instance
	// How it ended, as the system says it: "signal: killed".
	How string `json:"how"`
}

// New returns the record of this very process, for a newsvc dev that runs in root.
func New(root string) Record {
	pid := os.Getpid()
	return Record{Version: 1, PID: pid, Started: started(pid), Root: root, Services: map[string]Service{}}
}

// Path is where the record of a newsvc dev that was started in root lies.
func Path(root string) string { return filepath.Join(root, stateDir, "dev.json") }

// Write makes the record appear whole, or replaces the one that this process wrote before; .newsvc/dev.json is written when
// the record is complete. A failure to write the copy in the cache directory is a [*ShareError], and .newsvc/dev.json has
// been written all the same.
func (r Record) Write() error {
	raw, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	raw = append(raw, '\n')
	if r.Complete {
		if err := replace(Path(r.Root), raw); err != nil {
			return err
		}
	}
	if err := r.share(raw); err != nil {
		return &ShareError{err}
	}
	return nil
}

// Remove removes both copies; that one is gone already is no error.
func (r Record) Remove() error {
	err := gone(os.Remove(Path(r.Root)))
	if shared, cacheErr := r.shared(); cacheErr == nil {
		err = errors.Join(err, gone(os.Remove(shared)))
	}
	return err
}

// Alive reports whether the newsvc dev that wrote the record still runs.
func (r Record) Alive() bool {
	return Alive(r.PID) && (r.Started == "" || r.Started == started(r.PID))
}

// Here returns the record of a newsvc dev that runs in dir or in a directory above it, the nearest one. A record whose
// writer has died does not count.
func Here(dir string) (Record, bool, error) {
	dir, err := filepath.Abs(dir)
	if resolved, linkErr := filepath.EvalSymlinks(dir); err == nil && linkErr == nil {
		dir = resolved // as roots of records are
	}
	if err != nil {
		return Record{}, false, err
	}
	live, err := Live()
	if err != nil {
		return Record{}, false, err
	}
	for {
		r, err := read(Path(dir))
		switch {
		case err == nil && r.Alive():
			return r, true, nil
		case err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrPermission):
			return Record{}, false, err
		}
		if i := slices.IndexFunc(live, func(r Record) bool { return r.Root == dir }); i >= 0 { // not complete yet
			return live[i], true, nil
		}
		above := filepath.Dir(dir)
		if above == dir {
			return Record{}, false, nil
		}
		dir = above
	}
}

func read(path string) (Record, error) {
	var r Record
	raw, err := os.ReadFile(path)
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(raw, &r); err != nil {
		return r, fmt.Errorf("%s: %w; newsvc dev writes it anew", path, err)
	}
	return r, nil
}

// replace writes a file whole.
func replace(path string, raw []byte) error {
	tmp := fmt.Sprintf("%s.%d", path, os.Getpid())
	if err := os.WriteFile(tmp, raw, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

func gone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
