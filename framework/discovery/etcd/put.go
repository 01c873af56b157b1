package etcd

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/newsvc/newsvc/framework/discovery"
	"github.com/newsvc/newsvc/framework/internal/backoff"
)

// putTries is how often a write may be overtaken by somebody else's before a pause.
const putTries = 5

var errOvertaken = errors.New("the key keeps being changed by others")

// verdict is what to do about the key as it is.
type verdict int

const (
	write    verdict = iota // it is absent, or ours but not as it should be
	takeOver                // it is somebody else's, and we are the newcomer
	keep                    // it is as it should be
	yield                   // it is somebody's who came after us
)

// ensure looks at the key, puts it right, or finds that it belongs to somebody else now. It reports false only when the
// lease turns out to be dead; anything else that goes wrong is tried again later.
func (h *hold) ensure(ctx context.Context) (alive bool) {
	err := h.put(ctx)
	switch {
	case err == nil:
		h.bo.Reset()
		h.check.Reset(backoff.Spread(h.g.r.opt.Timing.Audit, 0.2))
	case ctx.Err() != nil:
	case isLeaseGone(err):
		return false
	default:
		h.g.failed(explain(h.g.r.cli, fmt.Sprintf("announcing %s as %q", h.g.id.addr, h.g.id.service), err))
		h.lookIn(pauseFor(h.bo, h.g.r.opt.Timing.Patience, err))
	}
	return true
}

// put makes the stored value the wanted one. Every write is bound to the revision it was decided on, so that nothing is
// overwritten unseen.
func (h *hold) put(ctx context.Context) error {
	value, version := h.g.wanted()
	cur, revision, err := h.current(ctx)
	for tries := 0; err == nil && tries < putTries; tries++ {
		what, holder := h.judge(cur, value)
		switch what {
		case keep:
			h.done(ctx, cur, revision, version)
			return nil
		case yield:
			h.stored, h.sure = cur, false
			h.g.set(discovery.RegistrationConflict, h.describeConflict(cur, holder))
			h.watch(ctx, revision)
			return nil
		}
		// Noted before the write: its answer may get lost, and the next look then finds the key in order.
		h.missing = h.missing || cur == nil || clientv3.LeaseID(cur.Lease) != h.lease
		var written bool
		if cur, revision, written, err = h.write(ctx, cur, value); err != nil || !written {
			continue // cur is what somebody else wrote meanwhile
		}
		if what == takeOver {
			h.g.log.Info("took the address over from another process", zap.String("former_incarnation", holder.Incarnation))
		}
		h.done(ctx, cur, revision, version)
		return nil
	}
	if err == nil {
		err = errOvertaken
	}
	h.sure = false
	return err
}

func (h *hold) done(ctx context.Context, cur *mvccpb.KeyValue, revision int64, version int) {
	h.stored, h.sure = cur, true
	h.g.up(version, h.missing)
	h.missing = false
	h.watch(ctx, revision)
}

// current returns what is in etcd, from memory when that is good enough: a write that builds on it will tell.
func (h *hold) current(ctx context.Context) (kv *mvccpb.KeyValue, revision int64, err error) {
	if h.sure {
		return h.stored, 0, nil
	}
	ctx, cancel := context.WithTimeout(ctx, h.g.r.opt.CallTimeout)
	defer cancel()
	resp, err := h.g.r.cli.Get(ctx, h.g.key)
	if err != nil {
		return nil, 0, err
	}
	return first(resp.Kvs), resp.Header.Revision, nil
}

func first(kvs []*mvccpb.KeyValue) *mvccpb.KeyValue {
	if len(kvs) == 0 {
		return nil
	}
	return kvs[0]
}

// judge decides what to do; the instance is the one that holds the key, if it is somebody else's.
func (h *hold) judge(cur *mvccpb.KeyValue, value []byte) (verdict, *discovery.Instance) {
	if cur == nil {
		return write, nil
	}
	if clientv3.LeaseID(cur.Lease) == h.lease && bytes.Equal(cur.Value, value) {
		return keep, nil
	}
	holder, err := discovery.Decode(h.g.id.service, cur.Value)
	switch {
	case err != nil, holder.Incarnation == h.g.id.incarnation:
		return write, nil // nobody can use what is there, or it is ours from an earlier lease
	case !h.g.announced:
		return takeOver, holder
	}
	return yield, holder
}

// write stores the value if the key is still as in cur. If it is not, it returns what is there instead.
func (h *hold) write(ctx context.Context, cur *mvccpb.KeyValue, value []byte) (kv *mvccpb.KeyValue, revision int64, written bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, h.g.r.opt.CallTimeout)
	defer cancel()
	var seen int64 // 0 means that there is no key
	if cur != nil {
		seen = cur.ModRevision
	}
	key := h.g.key
	resp, err := h.g.r.cli.Txn(ctx).
		If(clientv3.Compare(clientv3.ModRevision(key), "=", seen)).
		Then(clientv3.OpPut(key, string(value), clientv3.WithLease(h.lease))).
		Else(clientv3.OpGet(key)).Commit()
	if err != nil {
		return nil, 0, false, err
	}
	if !resp.Succeeded {
		return first(resp.Responses[0].GetResponseRange().Kvs), resp.Header.Revision, false, nil
	}
	return &mvccpb.KeyValue{Value: value, ModRevision: resp.Header.Revision, Lease: int64(h.lease)}, resp.Header.Revision, true, nil
}
