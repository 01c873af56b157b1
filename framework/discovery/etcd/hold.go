package etcd

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/newsvc/newsvc/framework/discovery"
	"github.com/newsvc/newsvc/framework/internal/backoff"
	"github.com/newsvc/newsvc/framework/internal/hedge"
)

// verifyTimeout bounds one question whether a lease is alive.
const verifyTimeout = 2 * time.Second

var (
	errLeaseGone  = errors.New("its lease ran out or was revoked")
	errKeyDeleted = errors.New("its key was deleted by somebody else")
	errNoRenewal  = errors.New("the lease is not renewed at present")
)

// hold is the time with one lease: the key is put in place, kept in place, and the lease renewed, until the lease is
// known to be dead. It belongs to the registration's goroutine.
type hold struct {
	g     *registration
	lease clientv3.LeaseID
	ttl   time.Duration

	// Renewals.
	acks     <-chan *clientv3.LeaseKeepAliveResponse
	gen      int // of the stream that renews
	stopAcks context.CancelFunc
	deaf     int         // times in a row that the client gave up on renewals
	overdue  *time.Timer // fires when acks are missing

	// The key.
	stored  *mvccpb.KeyValue // what is believed to be in etcd; nil means no key
	sure    bool             // whether there is reason to believe so
	missing bool             // it was not announced by us when it was last looked at; to find it in order again is an announcement
	check   *time.Timer      // when to look next
	own     *stream          // tells what others do to the key
	since   int64            // the revision that own began after
	events  clientv3.WatchChan
	ownBo   *backoff.Backoff // between two of them; bo starts anew with each look that finds the key in order
	bo      *backoff.Backoff
}

func newHold(g *registration, lease clientv3.LeaseID, ttl time.Duration) *hold {
	return &hold{
		g: g, lease: lease, ttl: ttl, stopAcks: func() {}, overdue: time.NewTimer(time.Hour), check: time.NewTimer(0),
		missing: true, sure: true, // a key that is there against expectation costs one more call
		bo:    backoff.New(min(100*time.Millisecond, g.r.opt.Timing.RetryMax), g.r.opt.Timing.RetryMax),
		ownBo: backoff.New(min(100*time.Millisecond, g.r.opt.Timing.RetryMax), g.r.opt.Timing.RetryMax),
	}
}

// run holds the lease until it is dead or ctx ends.
func (h *hold) run(ctx context.Context) {
	defer h.end()
	alive := h.renew(ctx)
	for alive && ctx.Err() == nil {
		var opened <-chan clientv3.WatchChan
		if h.own != nil {
			opened = h.own.opened
		}
		select {
		case resp, ok := <-h.acks:
			if ok {
				h.acknowledged(resp)
			} else {
				h.deaf++
				alive = h.verify(ctx, h.deaf > 1) // twice without a renewal in between: the stream is to blame
			}
		case <-h.overdue.C:
			alive = h.stillNoAck(ctx)
		case <-h.check.C:
			h.sure = h.sure && h.stored == nil // only the very first look is spared
			alive = h.ensure(ctx)
		case <-h.g.wake:
			alive = h.ensure(ctx)
		case h.events = <-opened:
		case wr, ok := <-h.events:
			alive = h.observe(ctx, wr, ok)
		case <-ctx.Done():
		}
	}
	if ctx.Err() == nil {
		h.g.lost(h.lease)
		h.g.set(discovery.RegistrationLost, errLeaseGone)
	}
}

func (h *hold) end() {
	h.stopAcks()
	h.overdue.Stop()
	h.check.Stop()
	h.unwatch()
}

// renew has the lease renewed from now on. It reports false when ctx ended.
func (h *hold) renew(ctx context.Context) bool {
	for {
		h.stopAcks()
		rctx, cancel := context.WithCancel(ctx) // without WithRequireLeader, which the renewing stream asks for by itself
		acks, gen, err := h.g.r.renewer.keepAlive(rctx, h.lease)
		h.acks, h.gen, h.stopAcks = acks, gen, cancel
		if err == nil {
			h.acked()
			return true
		}
		h.g.r.renewer.replace(gen) // that stream has ended for good
		if h.bo.Wait(ctx) != nil {
			return false
		}
	}
}

// acknowledged takes in etcd's answer to a renewal. It tells the TTL, which is not known for sure before when the answer to
// the grant got lost.
func (h *hold) acknowledged(resp *clientv3.LeaseKeepAliveResponse) {
	if resp.TTL > 0 {
		h.ttl = time.Duration(resp.TTL) * time.Second
		h.deaf = 0
	}
	h.g.renewed(h.ttl)
	h.acked()
}

// acked notes a renewal. Renewals are a third of the TTL apart; after half of it without one something is wrong, while
// there is still time to do something about it.
func (h *hold) acked() {
	h.overdue.Reset(max(h.ttl/2, h.ttl/3+time.Second))
}

// stillNoAck looks whether the renewal that was missed waits in the channel, behind a call that took long.
func (h *hold) stillNoAck(ctx context.Context) bool {
	select {
	case resp, ok := <-h.acks:
		if ok {
			h.acknowledged(resp)
			return true
		}
	default:
	}
	return h.verify(ctx, true)
}

// verify asks etcd, until it answers, whether the lease is alive: that renewals have stopped says nothing about it. If
// it is, renewals are started again, on another stream when the present one was stuck. It reports whether it is.
func (h *hold) verify(ctx context.Context, stuck bool) bool {
	before := h.g.Status().State
	for failures := 0; ctx.Err() == nil; failures++ {
		resp, err := h.timeToLive(ctx, min(1+failures, pair))
		switch {
		case err == nil && resp.TTL > 0:
			left := time.Duration(resp.TTL) * time.Second
			h.g.renewed(left)
			if left <= h.ttl/2 { // the next stream may end up at the member that answered nothing, too
				h.g.renewNow(ctx, h.lease)
			}
			return h.verified(ctx, before, stuck || failures > 1)
		case err == nil && resp.TTL < 0, isLeaseGone(err):
			return false
		case err == nil: // in its last second
			_ = backoff.Sleep(ctx, 200*time.Millisecond)
			continue
		}
		if ctx.Err() == nil {
			h.suspect(before, err)
		}
		pause(ctx, h.g.r.cli, h.bo, h.g.r.opt.Timing.Patience, err)
	}
	return true // not known to be dead; the caller sees that ctx has ended
}

// timeToLive asks so many members at a time.
func (h *hold) timeToLive(ctx context.Context, members int) (*clientv3.LeaseTimeToLiveResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, min(verifyTimeout, h.g.r.opt.CallTimeout))
	defer cancel()
	return hedge.First(ctx, hedge.Plan{Calls: members}, func(ctx context.Context) (*clientv3.LeaseTimeToLiveResponse, error) {
		return h.g.r.cli.TimeToLive(ctx, h.lease)
	})
}

func (h *hold) suspect(before discovery.RegistrationState, err error) {
	if before == discovery.RegistrationUp {
		before = discovery.RegistrationSuspect
	}
	h.g.set(before, explain(h.g.r.cli, errNoRenewal.Error(), err))
}

func (h *hold) verified(ctx context.Context, before discovery.RegistrationState, stuck bool) bool {
	h.bo.Reset()
	if stuck {
		h.g.r.renewer.replace(h.gen)
	}
	if before == discovery.RegistrationUp {
		h.g.set(before, nil)
	}
	h.lookIn(backoff.UpTo(h.g.r.opt.Timing.Reput)) // who knows what happened to the key meanwhile
	return h.renew(ctx)
}

// lookIn has the key read, and put right if need be, after d.
func (h *hold) lookIn(d time.Duration) {
	h.sure = false
	h.check.Reset(d)
}

// watch begins to observe the key from after revision on, unless it is observed already. Revision 0 means that etcd was
// not asked, because it is.
func (h *hold) watch(ctx context.Context, revision int64) {
	if revision == 0 {
		return
	}
	if h.own != nil && revision < h.since {
		h.unwatch() // etcd was restored from a backup; the watch would wait until it has caught up
	}
	if h.own == nil {
		h.own, h.since = openStream(ctx, h.g.r.cli, h.g.key, clientv3.WithRev(revision+1)), revision
	}
}

func (h *hold) unwatch() {
	if h.own != nil {
		h.own.close()
	}
	h.own, h.events = nil, nil
}

// observe takes in what happened to the key. It reports false when the lease turns out to be dead.
func (h *hold) observe(ctx context.Context, wr clientv3.WatchResponse, ok bool) (alive bool) {
	if err := wr.Err(); !ok || err != nil {
		h.unwatch()
		h.lookIn(pauseFor(h.ownBo, h.g.r.opt.Timing.Patience, err)) // which observes it again
		return true
	}
	h.ownBo.Reset()
	for _, ev := range wr.Events {
		if !h.happened(ctx, ev) {
			return false
		}
	}
	return true
}

func (h *hold) happened(ctx context.Context, ev *clientv3.Event) (alive bool) {
	if h.stored != nil && ev.Kv.ModRevision <= h.stored.ModRevision {
		return true // our own write, or older
	}
	switch {
	case ev.Type == mvccpb.Event_DELETE:
		if h.dead(ctx) {
			return false
		}
		if h.g.Status().State == discovery.RegistrationUp {
			h.g.set(discovery.RegistrationLost, errKeyDeleted)
		}
		h.lookIn(backoff.UpTo(h.g.r.opt.Timing.Reput)) // many keys may have been deleted together
	case clientv3.LeaseID(ev.Kv.Lease) == h.lease:
		h.stored, h.sure = ev.Kv, true // ours, though its answer got lost
	default:
		h.lookIn(0)
	}
	return true
}

// dead asks once whether the lease is known to be dead.
func (h *hold) dead(ctx context.Context) bool {
	resp, err := h.timeToLive(ctx, 1)
	return isLeaseGone(err) || err == nil && resp.TTL < 0
}

// describeConflict says who holds the key and what to do about it.
func (h *hold) describeConflict(holder *mvccpb.KeyValue, inst *discovery.Instance) error {
	return fmt.Errorf("address %s of %q was announced later by another process (incarnation %q, revision %d), which keeps it until it leaves; "+
		"if both are meant to run, give each an address of its own with registration.advertise",
		h.g.id.addr, h.g.id.service, inst.Incarnation, holder.ModRevision)
}
