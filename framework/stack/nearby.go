package stack

import (
	"context"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/newsvc/newsvc/framework/discovery/etcd"
	"github.com/newsvc/newsvc/framework/internal/backoff"
	"github.com/newsvc/newsvc/framework/internal/nearest"
)

const (
	nearbyStart   = time.Second      // before the first look; callers that lose a callee together do not look together
	nearbyGap     = 30 * time.Second // after the first look at which services there are; doubled with each further one
	nearbyGapMost = 10 * time.Minute
	nearbyTimeout = 10 * time.Second
	nearbyMost    = 3 // names that are offered
)

// nearby finds out which services are registered under names like that of a callee without instances, for who mistyped
// it. It looks in the background, only while somebody asks, and reads no values.
type nearby struct {
	source *etcd.Source // nil: there is nothing to look in
	log    *zap.Logger
	asked  chan struct{} // 1 slot

	mu      sync.Mutex
	names   []string        // of all services, as of the last look
	missing map[string]bool // callees without instances; true once a name near theirs was logged
}

func newNearby(log *zap.Logger) *nearby {
	return &nearby{log: log, asked: make(chan struct{}, 1), missing: map[string]bool{}}
}

// miss notes that a callee has no instances.
func (n *nearby) miss(callee string) {
	n.mu.Lock()
	if _, known := n.missing[callee]; !known {
		n.missing[callee] = false
	}
	n.mu.Unlock()
	n.ask()
}

// of returns the names near a callee's that were registered when it was last looked, and has it looked again soon.
func (n *nearby) of(callee string) []string {
	n.ask()
	n.mu.Lock()
	defer n.mu.Unlock()
	return nearest.Names(callee, n.names, nearbyMost)
}

func (n *nearby) ask() {
	select {
	case n.asked <- struct{}{}:
	default:
	}
}

// run looks soon after somebody has asked, and then not for a while: all callers of a callee that is gone ask, and each
// look reads the keys of all services.
func (n *nearby) run(ctx context.Context) {
	gap := nearbyGap
	for n.source != nil {
		quiet := time.Now()
		select {
		case <-n.asked:
		case <-ctx.Done():
			return
		}
		if time.Since(quiet) > nearbyGapMost {
			gap = nearbyGap
		}
		if backoff.Sleep(ctx, backoff.UpTo(nearbyStart)) != nil {
			return
		}
		n.look(ctx)
		if backoff.Sleep(ctx, backoff.Spread(gap, 0.2)) != nil {
			return
		}
		gap = min(2*gap, nearbyGapMost)
	}
}

// look lists the services. A failure is not told: that etcd does not answer is known from the watches.
func (n *nearby) look(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, nearbyTimeout)
	defer cancel()
	services, err := n.source.Services(ctx)
	if err != nil {
		return
	}
	names := make([]string, 0, len(services))
	for _, s := range services {
		names = append(names, s.Service)
	}
	n.found(names)
}

// found takes in which services there are.
func (n *nearby) found(names []string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.names = names
	for callee, told := range n.missing {
		if slices.Contains(names, callee) { // it came meanwhile
			continue
		}
		if near := nearest.Names(callee, names, nearbyMost); !told && len(near) > 0 {
			n.missing[callee] = true
			n.log.Warn("a callee has no instances, but services of similar names are registered",
				zap.String("callee", callee), zap.Strings("did_you_mean", near))
		}
	}
}
