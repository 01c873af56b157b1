package etcd

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/newsvc/newsvc/framework/discovery"
	"github.com/newsvc/newsvc/framework/internal/loop"
)

// maxLists is how many services are listed at the same time: a process that calls many must not ask for all at once
// when etcd comes back.
const maxLists = 4

// Source reads instances from etcd. It is safe for concurrent use and needs no closing.
type Source struct {
	cli   *clientv3.Client
	opt   Options
	lists chan struct{} // one element for each list that runs

	mu        sync.Mutex
	followers map[*follower]struct{}
}

var _ discovery.Source = (*Source)(nil)

// NewSource returns a source that reads below opt.Prefix. It starts nothing. The client must outlive every Watch.
func NewSource(cli *clientv3.Client, opt Options) (*Source, error) {
	opt, err := opt.withDefaults(cli, 3*time.Second)
	if err != nil {
		return nil, fmt.Errorf("etcd source: %w", err)
	}
	return &Source{cli: cli, opt: opt, lists: make(chan struct{}, maxLists), followers: make(map[*follower]struct{})}, nil
}

func (s *Source) prefixOf(service string) string {
	return discovery.ServicePrefix(s.opt.Prefix, service)
}

// Watch implements [discovery.Source] with a watch on a stream of its own.
//
// The state of a watch that loses etcd reaches yield as an Update with Err set: once, not for each attempt. A value that
// can't be read is left out, or its last good version kept, without an Err: the log and [Source.State] tell of it. Of
// several keys with one address the one written last counts.
func (s *Source) Watch(ctx context.Context, service string, yield func(discovery.Update)) error {
	if err := discovery.CheckService(service); err != nil {
		return err
	}
	f := newFollower(s, service)
	s.track(f, true)
	defer s.track(f, false)
	l := loop.Start(ctx, f.run)
	defer l.Stop()
	for {
		select {
		case <-f.box.full:
		case <-ctx.Done():
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		for _, u := range f.box.take() {
			if ctx.Err() == nil {
				yield(u)
			}
		}
	}
}

// Refresh hints that what is known of the service may be wrong, for example because its instances can't be reached.
// Every Watch of it that has not done so lately asks etcd for a sign of life and lists the service when none comes. It
// never blocks.
func (s *Source) Refresh(service string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for f := range s.followers {
		if f.service == service {
			f.poke()
		}
	}
}

func (s *Source) track(f *follower, on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if on {
		s.followers[f] = struct{}{}
		return
	}
	delete(s.followers, f)
}

// WatchState tells how one Watch is doing.
type WatchState struct {
	// Service is what is watched.
	Service string
	// Instances is how many are known; -1 before the first answer.
	Instances int
	// Revision is the last revision known of the service.
	Revision int64
	// LastSeen is when etcd last gave a sign of life on this watch: what is known may lag behind by the time since then,
	// and no longer. A watch that has nothing to tell is asked for a sign every [Timing.Probe]. Zero before the first.
	LastSeen time.Time
	// Err is why it can't be refreshed at present; nil when all is well.
	Err error
	// Lists is how often the service was listed, by reason: first, compacted, silent, broken, anti-entropy, reset.
	Lists map[string]int
	// Missed is how many changes a list showed that the watch should have told before; more than 0 is a defect of etcd.
	Missed int
	// Unreadable is how many keys hold a value that can't be read, UnreadableKeys the first of them.
	Unreadable     int
	UnreadableKeys []string
}

// State tells how every running Watch is doing, ordered by service.
func (s *Source) State() []WatchState {
	s.mu.Lock()
	followers := slices.Collect(maps.Keys(s.followers))
	s.mu.Unlock()
	out := make([]WatchState, 0, len(followers))
	for _, f := range followers {
		out = append(out, f.state())
	}
	slices.SortFunc(out, func(a, b WatchState) int { return strings.Compare(a.Service, b.Service) })
	return out
}
