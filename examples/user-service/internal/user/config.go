package user

import (
	"fmt"
	"time"
)

// Kinds of store for [Config.Store].
const (
	StoreSQLite = "sqlite"
	StoreMemory = "memory"
)

// Config is the section "user" of the service's configuration. All settings need a restart.
type Config struct {
	// Store is where users are kept: "sqlite" (default) in a file that all replicas on one machine share, "memory" in
	// this process, lost at its end and unknown to other replicas: for tests and trials.
	Store string `config:"store"`
	// Path of the SQLite file; its directory is made when missing. Relative to the working directory. Default
	// "data/users.db". SQLite locks do not work on network file systems: put replicas that share it on one machine.
	Path string `config:"path"`
	// BusyTimeout is how long a write waits for the writes of other replicas before it answers UNAVAILABLE. Default 3s;
	// less than the callers' timeout, so that they hear the reason.
	BusyTimeout time.Duration `config:"busy_timeout"`
	// PollInterval is how often a watch looks for changes made by other replicas; changes of this one are seen at once.
	// Default 100ms. Shorter is fresher and costs one small query per watch and interval.
	PollInterval time.Duration `config:"poll_interval"`
	// KeepChanges is how many changes are kept for watches that resume. Default 100000, about 20 MB. A watch that was away
	// for more changes than this must list the users again.
	KeepChanges int `config:"keep_changes"`
}

// DefaultConfig keeps users in data/users.db.
func DefaultConfig() Config {
	return Config{
		Store:        StoreSQLite,
		Path:         "data/users.db",
		BusyTimeout:  3 * time.Second,
		PollInterval: 100 * time.Millisecond,
		KeepChanges:  100_000,
	}
}

// Validate answers the first setting that cannot work, by its key.
func (c Config) Validate() error {
	switch {
	case c.Store != StoreSQLite && c.Store != StoreMemory:
		return fmt.Errorf("store: %q is unknown; write %q or %q", c.Store, StoreSQLite, StoreMemory)
	case c.Store == StoreSQLite && c.Path == "":
		return fmt.Errorf("path: %q names no file; write for example %q", c.Path, DefaultConfig().Path)
	case c.BusyTimeout < time.Millisecond:
		return fmt.Errorf("busy_timeout: \"%s\" is shorter than 1ms; write for example \"3s\"", c.BusyTimeout)
	case c.PollInterval < time.Millisecond:
		return fmt.Errorf("poll_interval: \"%s\" is shorter than 1ms; write for example \"100ms\"", c.PollInterval)
	case c.KeepChanges < 1:
		return fmt.Errorf("keep_changes: \"%d\" keeps nothing to resume from; write for example 100000", c.KeepChanges)
	}
	return nil
}
