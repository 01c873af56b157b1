package grpcresolver

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc/resolver"

	"github.com/newsvc/newsvc/framework/discovery"
	"github.com/newsvc/newsvc/framework/internal/backoff"
	"github.com/newsvc/newsvc/framework/internal/loop"
)

// follower is the resolver of one connection. The goroutine of run is the only user of the fields below subset, but for
// Build, which uses them before that starts; so there is no lock that could be held while gRPC is called.
type follower struct {
	cache    Cache
	opt      Options
	callee   string
	log      *zap.Logger
	loops    loop.Group
	cc       resolver.ClientConn
	answered atomic.Bool // the cache has told something

	subset   *subset
	good     bool      // gRPC has instances
	missing  bool      // it is known that there are no instances
	last     told      // what gRPC has
	reported string    // the text of the last error since the last good state
	next     time.Time // not before this may gRPC be told again
	storm    bool      // the last change had to wait for that
}

var _ resolver.Resolver = (*follower)(nil)

// ResolveNow implements [resolver.Resolver]. gRPC calls it with each connection that fails.
func (f *follower) ResolveNow(resolver.ResolveNowOptions) { f.cache.Refresh(f.callee) }

// Close implements [resolver.Resolver].
func (f *follower) Close() { f.loops.Stop() }

// run follows the callee until Close. The cache yields from this goroutine, and a yield that waits then gets the newest
// state: that is what folds a storm of changes into few updates.
func (f *follower) run(ctx context.Context) {
	err := f.cache.Watch(ctx, f.callee, func(u discovery.Update) {
		early := time.Until(f.next)
		if f.storm = early > 0; backoff.Sleep(ctx, early) != nil {
			return
		}
		if newest, known := f.cache.Snapshot(f.callee); known {
			u = newest
		}
		f.apply(u)
	})
	if ctx.Err() == nil && !f.good { // the cache was closed before its connections were
		f.report(discovery.Update{Err: err})
	}
}

// complain tells gRPC, once, that the first answer takes long. It may come a moment after that answer; a connection that
// has instances ignores it.
func (f *follower) complain(ctx context.Context) {
	if backoff.Sleep(ctx, f.opt.Patience) == nil && !f.answered.Load() {
		f.cc.ReportError(errors.New(f.why(fmt.Errorf("no answer after %v; is it running and reachable?", f.opt.Patience))))
	}
}

func (f *follower) why(err error) string {
	return (&discovery.NoInstancesError{Service: f.callee, Where: f.opt.Where, Err: err}).Error()
}

// apply tells gRPC of an update when it makes a difference: each call costs gRPC work that grows with the number of
// instances, and refills its retry throttle.
func (f *follower) apply(u discovery.Update) {
	if len(u.Instances) == 0 {
		f.none(u)
		return
	}
	f.answered.Store(true)
	use := f.subset.choose(u.Instances)
	if f.good && slices.EqualFunc(use, f.last.instances, same) {
		return
	}
	if f.missing {
		f.log.Info("the callee has instances now", zap.Int("instances", len(u.Instances)))
	}
	f.last, f.good, f.missing, f.reported = tell(use, f.last), true, false, ""
	// The error asks for another resolution; there is nothing more to find than what is being followed.
	_ = f.cc.UpdateState(f.last.state())
	f.next = time.Now().Add(f.gap(len(use)))
}

func (f *follower) gap(n int) time.Duration {
	if f.opt.MinGap > 0 {
		return f.opt.MinGap
	}
	least := 50 * time.Millisecond
	if f.storm {
		least = 100 * time.Millisecond
	}
	return min(max(time.Duration(n)*200*time.Microsecond, least), time.Second)
}

// none handles a callee without instances. The cache says that only when it is true: an outage keeps the last set, and
// instances that vanish all at once are held for some time.
func (f *follower) none(u discovery.Update) {
	if !u.Known() && u.Err == nil {
		return
	}
	if f.good && !u.Known() {
		return
	}
	if u.Known() && !f.missing {
		f.missing = true
		f.log.Warn("the callee has no instances", zap.String("where", f.opt.Where), zap.Bool("had_some", f.good))
		if f.opt.Missing != nil {
			f.opt.Missing(f.callee)
		}
	}
	if f.good {
		f.good, f.last = false, told{}
		_ = f.cc.UpdateState(tell(nil, told{}).state())
		f.next = time.Now().Add(f.gap(0))
	}
	f.report(u)
}

// report tells gRPC once why there is nothing. The error is only a text: a status within it would end calls that are
// willing to wait.
func (f *follower) report(u discovery.Update) {
	f.answered.Store(true)
	if text := f.why(u.Err); text != f.reported {
		f.reported = text
		f.cc.ReportError(errors.New(text))
	}
}

func same(a, b *discovery.Instance) bool { return a == b || a.Equal(b) }
