package client

import (
	"fmt"
	"time"

	"github.com/newsvc/newsvc/framework/client/internal/ejection"
)

// EjectionPolicy says when an instance that is sick gets no calls for a while. An instance is compared with the others:
// what ails all of them, or the caller itself, ejects none. A callee with one instance never loses it, and never are
// more than MaxShare of those that are connected out. The balancer "pick_first" knows no ejection.
//
// An ejected instance is asked by gRPC's health service, over its own connection, whether it is well. If it answers as
// quickly as others do it is tried with one call at a time, and if those go well it returns, with a growing share.
type EjectionPolicy struct {
	// Enabled switches ejection on. Default: true. Off saves some 0.3 µs for each call.
	Enabled bool `config:"enabled" reload:"live"`
	// Consecutive is how many calls in a row must fail with UNAVAILABLE or DEADLINE_EXCEEDED, or have no answer for
	// SlowAfter while nothing else is answered either. Default: 3. Less ejects for chance, more lets more calls fail.
	Consecutive int `config:"consecutive" reload:"live"`
	// ErrorShare is how much higher the share of failed calls must be than the mean of the other instances, above 0 to 1.
	// INTERNAL, UNKNOWN and DATA_LOSS count here too; other codes are answers. Default: 0.3. 0 switches the rule off,
	// for callees that say UNKNOWN of what their callers did wrong.
	ErrorShare float64 `config:"error_share" reload:"live"`
	// MinCalls is how many calls an instance must have had for ErrorShare to be applied. Default: 20.
	MinCalls int `config:"min_calls" reload:"live"`
	// SlowFactor is how many times longer than usual a call must take to be slow. Usual is what the same method takes at
	// the median instance. An instance is ejected when more than half of its latest calls are slow; running calls count
	// as soon as they are late. Streams don't count. Default: 5. 0 switches the rule off, for callees whose calls are much
	// heavier on one instance than on others by nature, as with keys of very different weight.
	SlowFactor float64 `config:"slow_factor" reload:"live"`
	// SlowMargin is how much longer than usual, at least, a slow call takes: less is no reason to lose an instance.
	// Default: 5ms. The way to a distant instance, which is what connecting to it took, comes on top by itself.
	SlowMargin time.Duration `config:"slow_margin" reload:"live"`
	// SlowAfter is how long an instance must be slow or silent. Default: 500ms. Less ejects for a pause to collect
	// garbage, more lets more callers wait.
	SlowAfter time.Duration `config:"slow_after" reload:"live"`
	// BaseTime is how long the first ejection lasts at least; each one that follows without a minute of health between
	// them lasts twice as long, up to MaxTime. Default: 2s.
	BaseTime time.Duration `config:"base_time" reload:"live"`
	// MaxTime bounds that. Default: 10s. An instance that is sick for hours and passes its health check gets one call or
	// two so often, and one that heals is back that much later.
	MaxTime time.Duration `config:"max_time" reload:"live"`
	// MaxShare is the share of the connected instances that may be out at a time, 0 to less than 1, rounded down to
	// instances: with 0.5 that is one of two or three, and two of five. Default: 0.5. More spares callers more, as long as
	// those that are left can carry the load.
	MaxShare float64 `config:"max_share" reload:"live"`
	// SlowStart is how long an instance that returns takes less than its share, from a tenth up to the whole; where the
	// policy's own slow_start is longer, that holds. Default: 3s.
	SlowStart time.Duration `config:"slow_start" reload:"live"`
}

func defaultEjection() EjectionPolicy {
	return EjectionPolicy{
		Enabled: true, Consecutive: 3, ErrorShare: 0.3, MinCalls: 20,
		SlowFactor: 5, SlowMargin: 5 * time.Millisecond, SlowAfter: 500 * time.Millisecond,
		BaseTime: 2 * time.Second, MaxTime: 10 * time.Second, MaxShare: 0.5, SlowStart: 3 * time.Second,
	}
}

func (e EjectionPolicy) validate() error {
	if !e.Enabled {
		return nil
	}
	switch {
	case e.Consecutive < 1:
		return fmt.Errorf("consecutive: %d would eject every instance; write 1 or more, for example 3", e.Consecutive)
	case !(e.ErrorShare >= 0 && e.ErrorShare <= 1):
		return fmt.Errorf("error_share: %v is out of range; write 0 (off) to 1, for example 0.3", e.ErrorShare)
	case e.MinCalls < 1:
		return fmt.Errorf("min_calls: %d is too small; write 1 or more, for example 20", e.MinCalls)
	case !(e.SlowFactor == 0 || e.SlowFactor > 1):
		return fmt.Errorf("slow_factor: %v would eject instances that are as usual; write more than 1, for example 5, or 0 for off", e.SlowFactor)
	case e.SlowMargin < 0:
		return fmt.Errorf("slow_margin: %q is negative; write for example 5ms", e.SlowMargin)
	case e.SlowAfter <= 0:
		return fmt.Errorf("slow_after: %q is no time; write for example 500ms", e.SlowAfter)
	case e.BaseTime <= 0:
		return fmt.Errorf("base_time: %q is no time; write for example 2s", e.BaseTime)
	case e.MaxTime < e.BaseTime:
		return fmt.Errorf("max_time: %q is shorter than base_time %q; write for example 10s", e.MaxTime, e.BaseTime)
	case !(e.MaxShare >= 0 && e.MaxShare < 1):
		return fmt.Errorf("max_share: %v is out of range; write 0 (none) to less than 1, for example 0.5", e.MaxShare)
	case e.SlowStart < 0:
		return fmt.Errorf("slow_start: %q is negative; write for example 3s, or 0 for none", e.SlowStart)
	}
	return nil
}

func (e EjectionPolicy) rules() ejection.Config {
	return ejection.Config{
		Consecutive: e.Consecutive, ErrorShare: e.ErrorShare, MinCalls: e.MinCalls,
		SlowFactor: e.SlowFactor, SlowMargin: e.SlowMargin, SlowAfter: e.SlowAfter,
		BaseTime: e.BaseTime, MaxTime: e.MaxTime, MaxShare: e.MaxShare,
	}
}
