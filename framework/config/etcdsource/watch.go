package etcdsource

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc/connectivity"

	"github.com/newsvc/newsvc/framework/config"
	"github.com/newsvc/newsvc/framework/internal/backoff"
	"github.com/newsvc/newsvc/framework/internal/hedge"
	"github.com/newsvc/newsvc/framework/internal/loop"
)

// Watch follows the prefix until ctx ends and calls changed, from the caller's goroutine, each time the settings differ from
// those handed out before. It survives outages by itself, and reads everything anew when a watch breaks, when the connection
// comes back, and every [Options.Resync]. Whatever the reason for which a watch can't go on (compaction, an expired token, no
// leader, an etcd that was restored), a new list is the answer.
//
// changed is called too when keys begin or cease to be held, with settings that may be the same. A key that is missing from a list
// counts as deleted when etcd's history has its deletion, or when that part of history was compacted and other keys are still
// there. It does not when all keys are missing at once, nor in an etcd with an earlier revision, of another cluster, or with a
// history that does not fit: that is what one that lost its data looks like.
func (s *Source) Watch(ctx context.Context, cli *clientv3.Client, changed func(config.Layer)) {
	kicks := make(chan struct{}, 1)
	conn := loop.Start(ctx, func(ctx context.Context) { watchConnection(ctx, cli, kicks) })
	defer conn.Stop()
	s.mu.Lock()
	f := &follower{s: s, cli: cli, kicks: kicks, changed: changed, last: s.last}
	s.mu.Unlock()
	bo := backoff.New(retryBase, retryMax)
	for ctx.Err() == nil {
		if f.round(ctx) == nil {
			bo.Reset()
			continue
		}
		_ = bo.Wait(ctx)
	}
}

// follower is one running Watch.
type follower struct {
	s       *Source
	cli     *clientv3.Client
	kicks   <-chan struct{} // the connection came or went
	changed func(config.Layer)
	last    listing // what etcd held as far as it was told
	unheard int     // how often in a row history could not be asked for what is missing
}

// confirm is how long the history of a list that lacks keys may take.
const confirm = 2 * time.Second

// maxUnheard is how often history is asked before lists alone are believed, because something breaks all watches.
const maxUnheard = 3

// round lists, and watches from there until it is time for the next list. Its error asks for a pause before that.
func (f *follower) round(ctx context.Context) error {
	l, err := f.s.list(ctx, f.cli, hedge.Plan{})
	if err != nil {
		if ctx.Err() == nil {
			f.s.trouble(f.cli, err)
		}
		return err
	}
	lost := l.before(f.last)
	if !lost && f.misses(l) {
		// Were they deleted, a moment ago or during an outage? Then history knows, and tells.
		heard, err := f.follow(ctx, confirm, true)
		switch {
		case errors.Is(err, rpctypes.ErrCompacted): // nobody can say any more
		case err == nil && (!heard || !f.misses(l)):
			return nil
		case err == nil:
			lost = true
		default:
			if f.unheard++; f.unheard < maxUnheard {
				return err
			}
		}
	}
	f.unheard = 0
	lost = lost || len(l.settings) == 0
	f.last = l
	f.s.update(l, nil, lost, f.changed)
	_, err = f.follow(ctx, backoff.Spread(f.s.opt.Resync, 0.2), false)
	return err
}

// misses says whether a list lacks a key that was not seen being deleted.
func (f *follower) misses(l listing) bool {
	for key := range f.last.settings {
		if _, there := l.settings[key]; !there {
			return true
		}
	}
	return false
}

// watchConnection tells when the connection to etcd is lost, which a watch does not, or there again: an etcd that was restored
// keeps silent on the watches of its clients.
func watchConnection(ctx context.Context, cli *clientv3.Client, kicks chan<- struct{}) {
	conn := cli.ActiveConnection()
	for st := conn.GetState(); conn.WaitForStateChange(ctx, st); {
		if st = conn.GetState(); st == connectivity.Ready || st == connectivity.TransientFailure {
			select {
			case kicks <- struct{}{}:
			default:
			}
		}
	}
}

// follow watches from behind what was told last, for a while or until the connection comes or goes. With history, the while begins
// when etcd has answered, and that it does not is an error. The error tells that the watch broke, overdue that all of the while is over.
func (f *follower) follow(ctx context.Context, during time.Duration, history bool) (overdue bool, err error) {
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
	w := clientv3.NewWatcher(f.cli) // its own stream: closing it ends it, and nobody else's
	opened := make(chan clientv3.WatchChan, 1)
	from := f.last.revision + 1
	open := loop.Start(ctx, func(context.Context) { // Watch waits for etcd, for as long as it takes
		opened <- w.Watch(ctx, f.s.opt.Prefix+"/", clientv3.WithPrefix(), clientv3.WithRev(from), clientv3.WithCreatedNotify())
	})
	defer func() { cancel(); open.Stop(); _ = w.Close() }()
	var events clientv3.WatchChan
	due := time.NewTimer(during)
	defer due.Stop()
	for {
		select {
		case <-ctx.Done():
			return false, nil
		case <-due.C:
			if history {
				return false, errSilent
			}
			return true, nil
		case <-f.kicks:
			return false, nil
		case events = <-opened:
		case resp, ok := <-events:
			if !ok {
				return false, errEnded
			}
			if err := resp.Err(); err != nil {
				return false, err
			}
			if resp.Created && history {
				history = false
				due.Reset(during)
			}
			f.take(resp)
		}
	}
}

// take takes in events. Those of one transaction come together.
func (f *follower) take(resp clientv3.WatchResponse) {
	if len(resp.Events) == 0 {
		return
	}
	now := f.last
	now.settings, now.versions = maps.Clone(now.settings), maps.Clone(now.versions)
	var deleted []string
	for _, e := range resp.Events {
		key := string(e.Kv.Key)
		if e.Type != clientv3.EventTypeDelete {
			f.s.put(&now, e.Kv)
			continue
		}
		if key == f.s.opt.Prefix+"/"+complete {
			now.complete = false
		}
		delete(now.settings, key)
		delete(now.versions, key)
		deleted = append(deleted, key)
	}
	now.revision = resp.Events[len(resp.Events)-1].Kv.ModRevision // the header may be ahead of the events
	f.last = now
	f.s.update(now, deleted, false, f.changed)
}

// update takes in what etcd holds now and tells when something else is in use, or held.
func (s *Source) update(l listing, deleted []string, lost bool, changed func(config.Layer)) {
	s.mu.Lock()
	before, started, was := s.current, s.started, s.state
	s.mu.Unlock()
	layer := s.take(l, deleted, lost)
	s.mu.Lock()
	same, now := maps.Equal(before, s.current), s.state
	s.mu.Unlock()
	if was.Err != nil {
		s.opt.Log.Info("the configuration in etcd can be read again", zap.String("prefix", s.opt.Prefix), zap.Int64("revision", now.Revision))
	}
	switch {
	case len(now.Held) > 0 && len(was.Held) == 0:
		s.opt.Log.Warn("settings in etcd are gone and nobody was seen deleting them; what was known stays in force: "+HeldHint,
			zap.String("prefix", s.opt.Prefix), zap.Strings("keys", now.Held))
	case len(now.Held) == 0 && len(was.Held) > 0:
		s.opt.Log.Info("no setting is missing from etcd any more", zap.String("prefix", s.opt.Prefix))
	}
	if !started || !same || !slices.Equal(now.Held, was.Held) {
		changed(layer)
	}
}

func (s *Source) trouble(cli *clientv3.Client, err error) {
	err = s.explain(cli, err)
	s.mu.Lock()
	news := s.state.Err == nil
	s.state.Err = err
	s.mu.Unlock()
	if news {
		s.opt.Log.Warn("the configuration in etcd can't be read; what is known stays in force", zap.Error(fmt.Errorf("%w; it is tried again until it works", err)))
	}
}
