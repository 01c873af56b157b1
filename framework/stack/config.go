package stack

import (
	"fmt"
	"net"
	"time"

	"github.com/newsvc/newsvc/framework/discovery"
)

// AppConfig is the section "app": the life of the process.
type AppConfig struct {
	// StopTimeout bounds the drain, from the signal on; server.drain divides it. Default 25s, which fits the 30s that
	// Kubernetes grants; more lets long calls finish, less restarts faster.
	StopTimeout time.Duration `config:"stop_timeout"`
	// StartTimeout bounds constructors and start hooks. Default 60s.
	StartTimeout time.Duration `config:"start_timeout"`
	// SIGHUP is what that signal does: "stop", as the other signals that end a process, or "reload", which reads the
	// configuration again at once. Default "stop".
	SIGHUP string `config:"sighup" enum:"stop|reload"`
	// ConfigPoll is how often the configuration files are looked at. Default 2s; 0 looks only when SIGHUP says so. A look costs a
	// few microseconds.
	ConfigPoll time.Duration `config:"config_poll"`
	// ConfigPrefix is a prefix in etcd below which further settings lie; they win over the files, and what is changed there reaches
	// the running process. Default empty: none, and nothing waits for etcd. With it a start needs etcd, or the copy in
	// discovery.cache_dir.
	ConfigPrefix string `config:"config_prefix"`
}

// The values of [AppConfig.SIGHUP].
const (
	SIGHUPStop   = "stop"
	SIGHUPReload = "reload"
)

// DefaultAppConfig returns the defaults named at the fields.
func DefaultAppConfig() AppConfig {
	return AppConfig{StopTimeout: 25 * time.Second, StartTimeout: time.Minute, SIGHUP: SIGHUPStop, ConfigPoll: 2 * time.Second}
}

// Validate checks that there is time to start and to stop.
func (c AppConfig) Validate() error {
	switch {
	case c.StopTimeout <= 0:
		return fmt.Errorf("stop_timeout: %v is not positive; write for example \"25s\"", c.StopTimeout)
	case c.StartTimeout <= 0:
		return fmt.Errorf("start_timeout: %v is not positive; write for example \"60s\"", c.StartTimeout)
	case c.SIGHUP != SIGHUPStop && c.SIGHUP != SIGHUPReload:
		return fmt.Errorf("sighup: %q is unknown; write %q or %q", c.SIGHUP, SIGHUPStop, SIGHUPReload)
	case c.ConfigPoll < 0 || c.ConfigPoll > 0 && c.ConfigPoll < 10*time.Millisecond:
		return fmt.Errorf("config_poll: %v is too short; write for example \"2s\", or \"0s\" for never", c.ConfigPoll)
	case c.ConfigPrefix == "":
		return nil
	}
	if err := discovery.CheckPrefix(c.ConfigPrefix); err != nil {
		return fmt.Errorf("config_prefix: %w", err)
	}
	return nil
}

// DiscoveryConfig is the section "discovery": where instances are read and how much is trusted.
type DiscoveryConfig struct {
	// Prefix is where instances are kept in etcd; callers and callees must agree on it. Default [discovery.DefaultPrefix].
	Prefix string `config:"prefix"`
	// CacheDir keeps the last good set of each callee on disk, so that a caller can start while etcd is away. Default
	// empty: nothing is kept.
	CacheDir string `config:"cache_dir"`
	// Subset is how many instances of one callee a process connects to; 0 means all. Default 100: more spreads load
	// more evenly, less saves connections.
	Subset int `config:"subset"`
	// Guard holds instances that disappear all at once.
	Guard GuardConfig `config:"guard"`
}

// GuardConfig bounds the guard against mass disappearance.
type GuardConfig struct {
	// Share of the instances that must vanish within Window for the guard to hold them, above 0 and at most 1. Default 0.5.
	Share float64 `config:"share"`
	// Window is the time within which they must vanish. Default 60s.
	Window time.Duration `config:"window"`
	// Hold is how long a vanished instance is kept at the most. Default 5m; longer survives longer registry failures,
	// shorter forgets dead instances sooner.
	Hold time.Duration `config:"hold"`
}

// DefaultDiscoveryConfig returns the defaults named at the fields.
func DefaultDiscoveryConfig() DiscoveryConfig {
	return DiscoveryConfig{
		Prefix: discovery.DefaultPrefix,
		Subset: 100,
		Guard:  GuardConfig{Share: 0.5, Window: time.Minute, Hold: 5 * time.Minute},
	}
}

// Validate checks the prefix and the guard's bounds.
func (c DiscoveryConfig) Validate() error {
	if err := discovery.CheckPrefix(c.Prefix); err != nil {
		return fmt.Errorf("prefix: %w", err)
	}
	switch g := c.Guard; {
	case c.Subset < 0:
		return fmt.Errorf("subset: %d is negative; use 0 for all instances", c.Subset)
	case g.Share <= 0 || g.Share > 1:
		return fmt.Errorf("guard.share: %v is not above 0 and at most 1", g.Share)
	case g.Window <= 0:
		return fmt.Errorf("guard.window: %v is not positive; write for example \"60s\"", g.Window)
	case g.Hold <= 0:
		return fmt.Errorf("guard.hold: %v is not positive; write for example \"5m\"", g.Hold)
	}
	return nil
}

// RegistrationConfig is the section "registration": how this instance is announced.
type RegistrationConfig struct {
	// Enabled is false for a server that nobody is to find. Default true; without app.Serve nothing is registered anyway.
	Enabled bool `config:"enabled"`
	// Advertise is the address that callers are told, host:port or host alone. Default empty: the host of server.listen
	// if it is a concrete one, else POD_IP, else the address from which this machine reaches etcd.
	Advertise string `config:"advertise"`
	// TTL is how long the announcement outlives a process that was killed. Default 15s, at least 5s; a longer one
	// survives longer pauses of the process.
	TTL time.Duration `config:"ttl"`
	// Weight is this instance's share of the traffic relative to others, whatever rule picks them. Default 0: it does not
	// say and counts as 100, so that 50 is half of what is usual.
	Weight int `config:"weight"`
	// Zone is where it runs; callers that prefer their zone look at it, and this process as a caller too (clients.*.zone).
	// Default empty.
	Zone string `config:"zone"`
	// LeaveAfter is how long readiness must be lost before the instance leaves the registry; it returns with readiness.
	// Default 30s: shorter reacts faster, longer rides out a check that flaps.
	LeaveAfter time.Duration `config:"leave_after"`
	// GatesReadyz keeps /readyz of the admin server at 503, and gRPC's health of "readiness" at NOT_SERVING, until this
	// instance has been announced once; a later outage of etcd never makes it unready. Default true. When false, a rollout
	// during an outage of etcd that goes by either can end all old instances before callers can learn of a new one; true
	// makes such a rollout wait for etcd. Other health in gRPC and /healthz do not depend on it.
	GatesReadyz bool `config:"gates_readyz"`
}

// DefaultRegistrationConfig returns the defaults named at the fields.
func DefaultRegistrationConfig() RegistrationConfig {
	return RegistrationConfig{Enabled: true, TTL: 15 * time.Second, LeaveAfter: 30 * time.Second, GatesReadyz: true}
}

// Validate checks what can be checked before the server listens.
func (c RegistrationConfig) Validate() error {
	switch {
	case c.TTL < 5*time.Second:
		return fmt.Errorf("ttl: %v is shorter than 5s, which a busy machine or an election of etcd would outlast", c.TTL)
	case c.Weight < 0:
		return fmt.Errorf("weight: %d is negative; use 0 or more", c.Weight)
	case c.LeaveAfter <= 0:
		return fmt.Errorf("leave_after: %v is not positive; write for example \"30s\"", c.LeaveAfter)
	case c.Advertise == "":
		return nil
	}
	addr := c.Advertise
	if _, _, err := net.SplitHostPort(addr); err != nil {
		addr = net.JoinHostPort(addr, "1")
	}
	if err := discovery.CheckAddr(addr); err != nil {
		return fmt.Errorf("advertise: %w", err)
	}
	return nil
}
