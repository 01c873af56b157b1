package etcd

import (
	"context"
	"fmt"
	"runtime"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/newsvc/newsvc/framework/internal/backoff"
	"github.com/newsvc/newsvc/framework/internal/hedge"
)

// maxUnanswered is how many questions in a row a watch may leave unanswered before its silence is looked into. It is not
// one because etcd does not answer for a watch that is still catching up.
const maxUnanswered = 2

// drainLimit is how many responses are taken in before the state is handed on.
const drainLimit = 256

// burstGap is the quiet time after which a response counts as one on its own.
const burstGap = 5 * time.Millisecond

// watching is one watch that etcd has confirmed.
type watching struct {
	*follower
	stream *stream
	ch     clientv3.WatchChan
	last   int64     // highest revision that this stream has told
	handed time.Time // when a response was handed on last

	// The questions for a sign of life.
	timer      *time.Timer
	unanswered int
	behind     bool // it was silent once though there was something to tell
	gap        time.Duration
}

// follow watches from the last known revision on until the watch ends or can't be trusted any more, and says why.
func (f *follower) follow(ctx context.Context) error {
	st := openStream(ctx, f.src.cli, f.src.prefixOf(f.service), clientv3.WithPrefix(), clientv3.WithRev(f.resume()+1),
		clientv3.WithProgressNotify(), clientv3.WithFragment())
	defer st.close()
	ch := st.wait(ctx, f.src.opt.Timing.Created)
	if ch == nil {
		return errNoSign
	}
	w := &watching{follower: f, stream: st, ch: ch, last: f.resume(), timer: time.NewTimer(time.Hour)}
	defer w.timer.Stop()
	w.alive()
	if f.kicked() { // after the list, but before etcd confirmed the watch
		f.unsure = true
	}
	if f.unsure {
		w.listenFirst()
	}
	return w.run(ctx)
}

func (w *watching) run(ctx context.Context) error {
	timing := w.src.opt.Timing
	audit := time.NewTimer(w.untilAudit())
	defer audit.Stop()
	for {
		var err error
		select {
		case wr, ok := <-w.ch:
			if !ok {
				return errEnded
			}
			err = w.takeAll(wr)
		case <-w.timer.C:
			err = w.ask(ctx)
		case <-w.kicks:
			if !w.connected() {
				w.askSoon()
				break
			}
			w.listenFirst()
			if !w.unsure {
				w.unsure = true
				audit.Reset(w.untilAudit())
			}
		case <-w.hints:
			if now := time.Now(); now.Sub(w.lastHint) >= timing.PokeGap {
				w.lastHint = now
				w.askSoon()
			}
		case <-audit.C:
			err = w.antiEntropy(ctx)
			audit.Reset(w.untilAudit())
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if err != nil {
			return err
		}
	}
}

// untilAudit is how long the service is not listed beside its watch.
func (w *watching) untilAudit() time.Duration {
	if w.unsure {
		return backoff.Spread(min(w.src.opt.Timing.Recheck, w.src.opt.Timing.AntiEntropy), 0.5)
	}
	return backoff.Spread(w.src.opt.Timing.AntiEntropy, 0.2)
}

// takeAll takes in a response and hands on the state. In a burst it takes in those that wait behind it first; after quiet
// it does not look for any, since every look lets other goroutines go first, and a change on its own is handed on at once.
func (w *watching) takeAll(wr clientv3.WatchResponse) error {
	burst := time.Since(w.handed) < burstGap
	changed, err := w.take(wr)
	spoke := !wr.Created
	for n := 1; burst && n < drainLimit && err == nil; n++ {
		next, more, ended := w.next()
		if ended {
			err = errEnded
		}
		if !more {
			break
		}
		var again bool
		again, err = w.take(next)
		changed, spoke = changed || again, spoke || !next.Created
	}
	if err == nil {
		w.seen()
		if spoke { // an etcd that was restored confirms a watch too
			w.alive()
		}
	}
	w.publish(changed)
	w.handed = time.Now()
	return err
}

// next returns a response that waits already. The client hands them over one by one, so it gets a chance to do so first.
func (w *watching) next() (wr clientv3.WatchResponse, more, ended bool) {
	for range 2 {
		select {
		case wr, more = <-w.ch:
			return wr, more, !more
		default:
			runtime.Gosched()
		}
	}
	return wr, false, false
}

// take takes in one response. Events up to the revision of the last list are known already.
func (w *watching) take(wr clientv3.WatchResponse) (changed bool, err error) {
	if err := wr.Err(); err != nil {
		return false, err
	}
	h := wr.Header
	if h.GetClusterId() != 0 && h.GetClusterId() != w.cluster {
		return false, errReset
	}
	if wr.Created {
		return false, nil
	}
	if h.GetRevision() < w.last {
		return false, errReset
	}
	if wr.IsProgressNotify() {
		w.last = h.GetRevision()
		w.progress = max(w.progress, w.last)
	}
	base := w.applied // and not the running value: events of one transaction share a revision
	for _, ev := range wr.Events {
		rev := ev.Kv.ModRevision
		if rev > base {
			if w.dirty && w.goodbye(ev) { // hand on that it was draining before it is gone
				w.publish(true)
			}
			if w.apply(ev) {
				changed, w.dirty = true, true
			}
		}
		// Never the header's revision: while a watch catches up, that is the store's and not the events'.
		w.applied = max(w.applied, rev)
		w.last = max(w.last, rev)
	}
	if !wr.Created {
		w.broken = 0
		w.bo.Reset()
	}
	return changed, nil
}

// goodbye reports whether an event removes an instance that was draining, which may not have been told yet.
func (w *watching) goodbye(ev *clientv3.Event) bool {
	return ev.Type == mvccpb.Event_DELETE && w.snap.draining(string(ev.Kv.Key))
}

func (w *watching) apply(ev *clientv3.Event) bool {
	if ev.Type == mvccpb.Event_DELETE {
		return w.snap.remove(string(ev.Kv.Key))
	}
	return w.snap.put(ev.Kv)
}

// sign notes a sign of life of the watch.
func (w *watching) sign() {
	w.seen()
	w.alive()
}

// seen notes that etcd was heard.
func (w *watching) seen() {
	w.watchErr = nil
	w.mu.Lock()
	w.seenLocked()
	w.mu.Unlock()
}

// alive makes the next question due in a while.
func (w *watching) alive() {
	w.unanswered, w.behind, w.gap = 0, false, w.src.opt.Timing.Probe
	w.timer.Reset(backoff.Spread(w.gap, 0.2))
}

// askSoon asks now, and looks into a silence soon.
func (w *watching) askSoon() {
	w.unanswered, w.gap = 0, w.src.opt.Timing.PokeWait/maxUnanswered
	w.askNow()
}

// listenFirst is askSoon a moment later, and not at all when etcd speaks before: the client has a connection again and
// is about to go on with the watch.
func (w *watching) listenFirst() {
	w.unanswered, w.gap = 0, w.src.opt.Timing.PokeWait/maxUnanswered
	w.timer.Reset(backoff.Spread(w.gap, 0.2))
}

func (w *watching) askNow() {
	w.unanswered++
	w.stream.probe()
	w.timer.Reset(backoff.Spread(w.gap, 0.2))
}

// ask asks for a sign of life, or looks into the silence when there were enough questions without one. Without a
// connection there is nothing to look into: the client goes on with the same watch once there is one.
func (w *watching) ask(ctx context.Context) error {
	if w.unanswered >= maxUnanswered {
		if w.connected() {
			return w.lookInto(ctx)
		}
		w.unanswered, w.gap = 0, w.src.opt.Timing.Probe
		w.watchErr = explain(w.src.cli, fmt.Sprintf("watching %q", w.service), errNoSign)
		w.publish(false)
	}
	w.askNow()
	return nil
}

// lookInto finds out what a silence means. A watch from a revision that etcd has not reached is never answered for. So
// when etcd stands where the watch does, nothing was missed, and that is a sign of life; when it is behind, it was
// restored; and when it is ahead, the watch has one more chance to answer.
func (w *watching) lookInto(ctx context.Context) error {
	resp, err := w.src.get(ctx, hedge.Plan{}, w.src.prefixOf(w.service), clientv3.WithKeysOnly())
	switch {
	case err != nil:
		return errSilent // the list that follows will say why
	case resp.Header.ClusterId != w.cluster || resp.Header.Revision < w.resume():
		return errReset
	case resp.Header.Revision == w.resume():
		w.broken = 0
		w.bo.Reset()
		w.sign()
		w.publish(false)
	case w.behind:
		return errSilent
	default:
		w.behind = true
		w.askNow()
	}
	return nil
}

// antiEntropy lists the service beside the watch, from any member. It should find nothing new.
func (w *watching) antiEntropy(ctx context.Context) error {
	l, err := w.src.listService(ctx, hedge.Plan{}, w.service, clientv3.WithSerializable())
	if err != nil {
		return nil //nolint:nilerr // the watch itself will tell when etcd is away
	}
	switch {
	case l.cluster != w.cluster:
		return errReset
	case l.revision >= w.resume(): // else the member lags behind what is known
		return w.takeBoth(ctx, l)
	case w.unsure: // or etcd was restored
		return w.lookInto(ctx)
	}
	return nil
}

// takeBoth takes in a list after what the watch tells up to there: that an instance which is gone was draining before,
// only the watch tells. It leaves the list when the watch does not come that far in time.
func (w *watching) takeBoth(ctx context.Context, l listing) error {
	if w.resume() < l.revision {
		w.stream.probe() // the answer tells that there is nothing more to come up to there
	}
	late := time.NewTimer(w.src.opt.Timing.PokeWait)
	defer late.Stop()
	for w.resume() < l.revision {
		select {
		case wr, ok := <-w.ch:
			switch {
			case !ok:
				return errEnded
			case told(wr) > l.revision:
				w.takeList(l, listAntiEntropy)
				return w.takeAll(wr)
			}
			changed, err := w.take(wr)
			if err == nil {
				w.sign() // first, so that what is published is not said to be stale
			}
			w.publish(changed)
			if err != nil {
				return err
			}
		case <-late.C:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	w.takeList(l, listAntiEntropy)
	return nil
}

// told is the revision up to which a response tells; 0 when it tells nothing.
func told(wr clientv3.WatchResponse) int64 {
	if n := len(wr.Events); n > 0 {
		return wr.Events[n-1].Kv.ModRevision
	}
	if wr.IsProgressNotify() {
		return wr.Header.GetRevision()
	}
	return 0
}
