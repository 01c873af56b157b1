// Package grpcresolver makes discovery a gRPC name resolver: a connection to etcd://caller/callee follows the instances
// of the callee. It reads a cache and never the registry itself, so a registry that is slow or away delays no call and no
// close. It chooses a subset of large callees and folds storms of changes into few updates; it does not balance and sets
// no service config.
//
// Builders are passed to a connection with grpc.WithResolvers; nothing is registered globally. Background work begins with
// a connection's first use and ends when gRPC closes the resolver.
package grpcresolver

import (
	"context"
	"fmt"
	"net/url"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc/resolver"

	"github.com/newsvc/newsvc/framework/discovery"
)

// Scheme is the scheme of targets that are resolved here.
const Scheme = "etcd"

// DefaultSubset is how many instances of a callee one connection uses at most, unless configured otherwise.
const DefaultSubset = 100

// Cache is where a resolver reads. All methods are safe for concurrent use.
//
// Watch is that of [discovery.Source]; what it yields is what should be used, so the cache decides about instances that
// drain or that have vanished. Snapshot returns what Watch would yield, without waiting and without starting anything;
// false means that nothing is known. Refresh is a hint that the set may be out of date; it must not wait.
type Cache interface {
	Watch(ctx context.Context, service string, yield func(discovery.Update)) error
	Snapshot(service string) (discovery.Update, bool)
	Refresh(service string)
}

// Options are the settings of all resolvers of a builder.
type Options struct {
	// Subset is how many instances one connection uses at most. Each connection of a large callee costs memory and
	// keep-alive on both sides; too few spread the load of few callers unevenly. 0 means [DefaultSubset], negative all.
	Subset int
	// Seed decides which instances a subset holds: callers with different seeds spread over the callee. Give the caller's
	// incarnation. The same seed, callee and instances give the same subset.
	Seed string
	// MinGap is the least time between two updates of one connection; the first change after a quiet time goes through
	// at once. 0 means 0.2 ms for each instance in use, at least 50 ms and at most 1 s: gRPC's own work grows like that.
	// While changes keep coming it is 100 ms at least.
	MinGap time.Duration
	// Patience is how long the first answer may take before calls that do not wait for instances fail with the reason;
	// those that wait go on waiting and have the reason in their deadline error. 0 means 200 ms.
	Patience time.Duration
	// Where says in errors what was searched, for example `etcd under "/newsvc/default"`. It may be empty.
	Where string
	// Missing is called when it turns out that a callee has no instances, so that somebody may look for what its caller
	// meant. It must not wait. May be nil.
	Missing func(callee string)
	// Log gets a line when a callee has no instances and when it has some again. Nil means no log.
	Log *zap.Logger
}

// AllInstances is the value of Options.Subset for no subset at all.
const AllInstances = -1

type builder struct {
	cache Cache
	opt   Options
}

var (
	_ resolver.Builder            = (*builder)(nil)
	_ resolver.AuthorityOverrider = (*builder)(nil)
)

// NewBuilder returns a builder of resolvers for targets of the form etcd://caller/callee. Its Build returns at once
// whatever state the registry is in; the only error is that of a callee that is no service name. The builder also is a
// [resolver.AuthorityOverrider]: the authority of a connection is the callee's name. Whoever wraps it keeps that by
// forwarding the method.
func NewBuilder(c Cache, opt Options) resolver.Builder {
	if opt.Subset == 0 {
		opt.Subset = DefaultSubset
	}
	if opt.Patience == 0 {
		opt.Patience = 200 * time.Millisecond
	}
	if opt.Log == nil {
		opt.Log = zap.NewNop()
	}
	return &builder{cache: c, opt: opt}
}

// Scheme implements [resolver.Builder].
func (*builder) Scheme() string { return Scheme }

// OverrideAuthority implements [resolver.AuthorityOverrider].
func (*builder) OverrideAuthority(target resolver.Target) string {
	return url.PathEscape(target.Endpoint()) // a service name has nothing to escape, and no other is ever built
}

// Build implements [resolver.Builder]. gRPC calls it under a lock that calls and Close need, so it must not wait.
func (b *builder) Build(target resolver.Target, cc resolver.ClientConn, _ resolver.BuildOptions) (resolver.Resolver, error) {
	callee := target.Endpoint()
	if err := discovery.CheckService(callee); err != nil {
		return nil, fmt.Errorf("target %q: %w; a target is written %s://caller/callee", target.String(), err, Scheme)
	}
	f := &follower{
		cache:  b.cache,
		opt:    b.opt,
		callee: callee,
		cc:     cc,
		subset: newSubset(b.opt.Subset, b.opt.Seed),
		log:    b.opt.Log.With(zap.String("callee", callee), zap.String("caller", target.URL.Host)),
	}
	if u, known := b.cache.Snapshot(callee); known && len(u.Instances) > 0 {
		f.apply(u)
	}
	f.loops.Start(context.Background(), f.run)
	if !f.answered.Load() {
		f.loops.Start(context.Background(), f.complain)
	}
	return f, nil
}
