package etcd

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc/connectivity"

	"github.com/newsvc/newsvc/framework/discovery"
	"github.com/newsvc/newsvc/framework/internal/backoff"
	"github.com/newsvc/newsvc/framework/internal/hedge"
	"github.com/newsvc/newsvc/framework/internal/loop"
)

// The reasons for which a service is listed.
const (
	listFirst       = "first"
	listCompacted   = "compacted"    // history that the watch would have needed is gone
	listSilent      = "silent"       // the watch does not answer; an etcd restored from a backup looks like that
	listBroken      = "broken"       // the watch can't be opened again and again
	listReset       = "reset"        // it is another etcd, or its revisions went back
	listAntiEntropy = "anti-entropy" // to be sure
)

// noLists counts every reason from 0 on, so that a first one is seen as a change.
func noLists() map[string]int {
	return map[string]int{listFirst: 0, listCompacted: 0, listSilent: 0, listBroken: 0, listReset: 0, listAntiEntropy: 0}
}

// brokenLimit is how many watches in a row may fail before the service is listed.
const brokenLimit = 3

var (
	errReset  = errors.New("etcd was replaced or restored")
	errSilent = errors.New("the watch does not answer though there is a connection")
	errEnded  = errors.New("the watch ended without a reason")
)

// follower is one running Watch: it lists the service, watches it from there on, and puts every new state into its box.
// Its goroutine owns all that mu does not guard.
type follower struct {
	src     *Source
	service string
	box     *mailbox
	dirty   bool          // the snapshot has changes that were not published
	hints   chan struct{} // somebody can't reach the instances
	kicks   chan struct{} // the connection to etcd came or went

	snap     *snapshot
	why      string // why to list next; empty when the watch may go on
	cluster  uint64
	applied  int64 // snap holds everything up to this revision, by a list or by events
	progress int64 // etcd said that there were no events up to this revision
	fails    int   // lists that failed in a row
	broken   int   // watches that failed in a row
	unsure   bool  // etcd was away since the last list; it may have become another one
	lastHint time.Time
	listErr  error // why the last list failed
	watchErr error // why the watch is not to be relied on
	bo       *backoff.Backoff

	mu        sync.Mutex
	stats     WatchState
	published discovery.Update
}

func newFollower(s *Source, service string) *follower {
	return &follower{
		src: s, service: service, box: newMailbox(), hints: make(chan struct{}, 1), kicks: make(chan struct{}, 1),
		snap: newSnapshot(service, s.opt.Log.With(zap.String("callee", service))), why: listFirst,
		bo:    backoff.New(min(100*time.Millisecond, s.opt.Timing.RetryMax), s.opt.Timing.RetryMax),
		stats: WatchState{Service: service, Instances: -1, Lists: noLists()},
	}
}

// poke is a hint; one is enough.
func (f *follower) poke() { signal(f.hints) }

func signal(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// run is the whole life of a Watch.
func (f *follower) run(ctx context.Context) {
	conn := loop.Start(ctx, f.watchConnection)
	defer conn.Stop()
	for ctx.Err() == nil {
		if f.why != "" {
			if err := f.list(ctx); err != nil {
				f.pause(ctx, err)
				continue
			}
		}
		err := f.follow(ctx)
		if ctx.Err() != nil {
			return
		}
		f.after(ctx, err)
	}
}

// watchConnection tells when the connection to etcd comes or goes, so that the watch is asked for a sign of life then
// and not only when its probe is due.
func (f *follower) watchConnection(ctx context.Context) {
	conn := f.src.cli.ActiveConnection()
	for st := conn.GetState(); conn.WaitForStateChange(ctx, st); {
		if st = conn.GetState(); st == connectivity.Ready || st == connectivity.TransientFailure {
			signal(f.kicks)
		}
	}
}

// kicked takes back a kick and reports whether there was one.
func (f *follower) kicked() bool {
	select {
	case <-f.kicks:
		return true
	default:
		return false
	}
}

func (f *follower) connected() bool { return f.src.connected() }

// pause waits before the next attempt. A connection that came back while the last one was failing is as good as one that comes
// back now.
func (f *follower) pause(ctx context.Context, err error) {
	if f.kicked() && f.connected() && !isPatient(err) {
		_ = backoff.Sleep(ctx, backoff.UpTo(connectionBack)) // who calls looks at ctx next
		return
	}
	pause(ctx, f.src.cli, f.bo, f.src.opt.Timing.Patience, err)
}

// after decides what follows a watch that ended with err.
func (f *follower) after(ctx context.Context, err error) {
	f.broken++
	f.unsure = true
	switch {
	case errors.Is(err, errReset):
		f.why = listReset
	case isCompacted(err):
		f.why = listCompacted
	case errors.Is(err, errSilent):
		f.why = listSilent
	case f.broken%brokenLimit == 0:
		f.why = listBroken
	}
	if f.why != "" && f.broken == 1 {
		return // the first list after a working watch is made at once, and nothing is known to be wrong yet
	}
	f.watchErr = explain(f.src.cli, fmt.Sprintf("watching %q", f.service), err)
	f.publish(false)
	f.pause(ctx, err)
}

// list reads the whole service and takes it in. Before the first answer, a list from any single member is taken when
// there is no leader to be had; the watch begins only after one that a leader stands for.
func (f *follower) list(ctx context.Context) error {
	l, err := f.src.listService(ctx, f.asking(), f.service)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err == nil {
		f.fails, f.listErr = 0, nil
		f.kicked() // whatever the connection did, it is there
		f.takeList(l, f.why)
		f.why = ""
		return nil
	}
	f.fails++
	f.listErr = explain(f.src.cli, fmt.Sprintf("listing %q", f.service), err)
	if !f.published.Known() && f.fails >= brokenLimit && !isPatient(err) {
		if l, serr := f.src.listService(ctx, hedge.Plan{}, f.service, clientv3.WithSerializable()); serr == nil {
			f.takeList(l, f.why)
			return err
		}
	}
	f.publish(false)
	return err
}

// asking is how the next list is made. Who knows something, and may just have met a slow etcd, asks once: else all would ask a
// slow etcd twice.
func (f *follower) asking() hedge.Plan {
	if f.fails == 0 && f.published.Known() {
		return hedge.Plan{}
	}
	return f.src.pairOf()
}

// takeList makes l what is known.
func (f *follower) takeList(l listing, why string) {
	first := f.cluster == 0
	reset := !first && (l.cluster != f.cluster || l.revision < f.resume())
	known := f.applied
	if reset {
		why, known = listReset, 0
	}
	d := f.snap.replace(l.kvs, known, reset || why == listAntiEntropy)
	if why == listAntiEntropy {
		d.missed += d.removed // the watch has told everything up to here
	}
	f.cluster, f.applied, f.unsure = l.cluster, l.revision, false
	if why != listAntiEntropy {
		f.progress = 0 // the next watch starts from the list
	}
	f.mu.Lock()
	f.stats.Lists[why]++
	f.stats.Missed += d.missed
	f.seenLocked()
	f.mu.Unlock()
	if reset {
		f.snap.log.Warn("etcd was replaced or restored from a backup; the service was listed anew", zap.Int64("revision", l.revision))
	}
	if d.missed > 0 {
		f.snap.log.Warn("the watch had missed changes that a list found", zap.Int("keys", d.missed), zap.String("reason", why))
	}
	f.publish(d.changed || !f.published.Known())
}

// seenLocked notes a sign of life of etcd, and which values could not be read as of then.
func (f *follower) seenLocked() {
	f.stats.LastSeen = time.Now()
	f.stats.Unreadable, f.stats.UnreadableKeys = len(f.snap.bad), f.snap.badKeys()
}

// resume is the revision up to which nothing has to be told again.
func (f *follower) resume() int64 { return max(f.applied, f.progress) }

// publish hands the state to the Watch's caller when there is news: other instances, or that etcd came or went.
func (f *follower) publish(changed bool) {
	err := f.listErr
	if err == nil {
		err = f.watchErr
	}
	last := f.published
	sameErr := sameTrouble(last.Err, err)
	if !changed && sameErr {
		return
	}
	u := last
	if changed {
		u.Instances = f.snap.view()
		f.dirty = false
	}
	f.mu.Lock()
	u.Revision, u.Err, u.AsOf = f.applied, err, f.stats.LastSeen
	f.published = u
	f.mu.Unlock()
	f.logErr(last.Err, err)
	f.box.put(u)
}

// sameTrouble reports whether both are nil, or both errors of one kind: which attempt failed how is no news.
func sameTrouble(a, b error) bool {
	if a == nil || b == nil {
		return a == nil && b == nil
	}
	return isPatient(a) == isPatient(b)
}

func (f *follower) logErr(before, now error) {
	switch {
	case sameTrouble(before, now):
	case now != nil:
		f.snap.log.Warn("discovery goes on with what it knows", zap.Error(now), zap.Int("instances", len(f.published.Instances)))
	case before != nil:
		f.snap.log.Info("discovery is up to date again", zap.Int("instances", len(f.published.Instances)))
	}
}

func (f *follower) state() WatchState {
	f.mu.Lock()
	defer f.mu.Unlock()
	st := f.stats
	st.Lists = maps.Clone(st.Lists)
	st.Revision, st.Err = f.published.Revision, f.published.Err
	if f.published.Known() {
		st.Instances = len(f.published.Instances)
	}
	return st
}
