// Package etcd announces instances in etcd and reads them from there. [Registrar] keeps one lease per registration
// alive and its key in place, whatever happens to etcd, the network or the key; [Source] lists a service, watches it
// from there on, and lists anew whenever the watch can't be trusted any more. Neither of them ever gives up, and both
// say what they are waiting for.
//
// It is no cache: each Watch is a stream of its own to etcd. discovery/cache shares one among many readers and holds
// back mass disappearances. It makes no client either: etcdclient does, and with its settings.
//
// Nothing happens until the first Watch or Register. A Watch ends with its context, a registration with its Close.
package etcd

import (
	"errors"
	"fmt"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/newsvc/newsvc/framework/discovery"
)

const (
	// DefaultTTL is how long a lease outlives the last sign of its owner.
	DefaultTTL = 15 * time.Second
	// MinTTL is the shortest lease that survives an election and a reconnection.
	MinTTL = 5 * time.Second
	// DefaultCallTimeout bounds each single call to etcd.
	DefaultCallTimeout = 3 * time.Second
)

// Options says where instances are kept and how. The zero value is ready for use.
type Options struct {
	// Prefix is where the services are kept. Empty means [discovery.DefaultPrefix].
	Prefix string
	// Log is told of transitions only. Nil means silence.
	Log *zap.Logger
	// CallTimeout bounds each single call to etcd, not the time for which a task is retried. Zero means
	// [DefaultCallTimeout].
	CallTimeout time.Duration
	// TTL is how long an instance stays announced after its process died without a word; whole seconds. It is also how
	// long etcd may be cut off before instances vanish from it. Zero means [DefaultTTL]; at least [MinTTL].
	TTL time.Duration
	// Timing is for tests: it shortens waits, and it lifts the lower bound of TTL.
	Timing Timing
}

// Timing holds the waits that tests shorten. What is zero has its default. Every period is spread by a fifth unless it says otherwise.
type Timing struct {
	// AnyTTL allows a TTL below MinTTL.
	AnyTTL bool
	// RetryMax is the longest wait between two attempts. Default 2 s for registrations, 3 s for watches.
	RetryMax time.Duration
	// Patience is the wait after an error that will not pass by itself, such as a missing permission. Default 30 s. A full
	// database is asked again after 2 s.
	Patience time.Duration
	// Audit is the time between two looks at one's own key. Default 30 s.
	Audit time.Duration
	// Reput is the longest wait before a deleted key is written again. Default 500 ms.
	Reput time.Duration
	// Created bounds the wait for a watch to be confirmed. Default 5 s.
	Created time.Duration
	// Probe is how long a watch may be silent before it is asked for a sign of life, and how long it has to answer. After
	// three unanswered questions the service is listed. Default 10 s.
	Probe time.Duration
	// AntiEntropy is the time between two lists that should change nothing. Default 5 min.
	AntiEntropy time.Duration
	// Recheck is about when a service is listed beside its watch after etcd was away: an etcd that was restored from a
	// backup looks like the one before as soon as it has got as far. Default 20 s, spread by half.
	Recheck time.Duration
	// PokeGap is the shortest time between two hints that are followed. Default 5 s.
	PokeGap time.Duration
	// PokeWait is how long a hinted watch may take to give a sign of life. Default 2 s.
	PokeWait time.Duration
	// PageSize is how many keys one list call fetches, which for etcd is the dearer the more keys follow. Default 5000.
	PageSize int64
}

func orElse[T comparable](v, fallback T) T {
	var zero T
	if v == zero {
		return fallback
	}
	return v
}

func (o Options) withDefaults(cli *clientv3.Client, retryMax time.Duration) (Options, error) {
	if cli == nil {
		return o, errors.New("no etcd client given; make one with etcdclient.New")
	}
	if cli.ActiveConnection() == nil {
		return o, errors.New("this etcd client has no connection of its own; make one with etcdclient.New")
	}
	o.Prefix = orElse(o.Prefix, discovery.DefaultPrefix)
	o.CallTimeout = orElse(o.CallTimeout, DefaultCallTimeout)
	o.TTL = orElse(o.TTL, DefaultTTL)
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	t := &o.Timing
	t.RetryMax = orElse(t.RetryMax, retryMax)
	t.Patience = orElse(t.Patience, 30*time.Second)
	t.Audit = orElse(t.Audit, 30*time.Second)
	t.Reput = orElse(t.Reput, 500*time.Millisecond)
	t.Created = orElse(t.Created, 5*time.Second)
	t.Probe = orElse(t.Probe, 10*time.Second)
	t.AntiEntropy = orElse(t.AntiEntropy, 5*time.Minute)
	t.Recheck = orElse(t.Recheck, 20*time.Second)
	t.PokeGap = orElse(t.PokeGap, 5*time.Second)
	t.PokeWait = orElse(t.PokeWait, 2*time.Second)
	t.PageSize = orElse(t.PageSize, 5000)
	return o, o.check()
}

func (o Options) check() error {
	if err := discovery.CheckPrefix(o.Prefix); err != nil {
		return fmt.Errorf("prefix: %w", err)
	}
	if o.CallTimeout < 0 {
		return fmt.Errorf("call timeout %v is negative; use for example 3s", o.CallTimeout)
	}
	switch least := MinTTL; {
	case o.Timing.AnyTTL && o.TTL >= time.Second:
	case o.TTL < least:
		return fmt.Errorf("ttl: %q is shorter than an election and a reconnection take; use at least %q", o.TTL, least)
	case o.TTL > time.Hour:
		return fmt.Errorf("ttl: %q keeps dead instances announced for that long; use 10s to 30s", o.TTL)
	}
	if o.TTL%time.Second != 0 {
		return fmt.Errorf("ttl: %q is no whole number of seconds, and etcd counts in seconds; use for example %q", o.TTL, DefaultTTL)
	}
	return nil
}
