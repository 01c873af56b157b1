package coordination

import (
	"context"
	"errors"
	"fmt"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"

	"github.com/newsvc/newsvc/framework/internal/backoff"
)

// Hold is a leadership or a lock that this process has. Its methods are safe for concurrent use.
type Hold struct {
	lease *lease
	what  string // for errors, for example `the lock "x"`
	key   string
	token int64
}

// Context ends, with a cause, when what is held is lost or released. It ends before somebody else can hold it, unless
// this process did not run in between.
func (h *Hold) Context() context.Context { return h.lease.ctx }

// Token is higher than that of every holder before: the fencing token. Storages that refuse a lower token than they have
// seen are safe from holders who do not know yet that their time is over. It is a revision of etcd: after etcd was wiped
// or restored from a backup tokens begin anew or earlier; restore with etcdutl's --bump-revision, or lower what the
// storages have seen.
func (h *Hold) Token() int64 { return h.token }

// Key is the holder's key in etcd.
func (h *Hold) Key() string { return h.key }

// Err is nil while this process may believe that it holds: it looks at the clock, and does not ask etcd. It looks at the time of
// day besides, since the clock that measures time stands still while a machine is suspended; Context ends a thirtieth of the TTL
// after the machine is back, Err says so at once.
func (h *Hold) Err() error { return h.lease.err() }

// Compare is true in a transaction of etcd's exactly while this process holds.
func (h *Hold) Compare() clientv3.Cmp {
	return clientv3.Compare(clientv3.CreateRevision(h.key), "=", h.token)
}

// Commit writes into etcd if this process still holds, which etcd decides together with the writes. Else nothing is
// written, and the error is [ErrLost].
func (h *Hold) Commit(ctx context.Context, writes ...clientv3.Op) (*clientv3.TxnResponse, error) {
	ctx, cancel := context.WithTimeout(clientv3.WithRequireLeader(ctx), h.lease.c.opt.CallTimeout)
	defer cancel()
	var resp *clientv3.TxnResponse
	err := insist(ctx, func() (err error) {
		resp, err = h.lease.c.cli.Txn(ctx).If(h.Compare()).Then(writes...).Commit()
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("writing under %s: %w", h.what, err)
	}
	if !resp.Succeeded {
		h.lease.end(fmt.Errorf("%w: its key is gone", ErrLost))
		return nil, fmt.Errorf("writing under %s: %w", h.what, ErrLost)
	}
	return resp, nil
}

// Release lets go, so that the next one can hold at once. It takes Options.CallTimeout at the most: when etcd can't be
// asked the error says so, and the next one waits for the TTL. Later calls return the first one's result.
func (h *Hold) Release() error {
	if err := h.lease.release(); err != nil {
		return fmt.Errorf("releasing %s: %w", h.what, err)
	}
	return nil
}

// acquire takes, under a lease of its own, the lock that concurrency.Mutex makes of a prefix; with try it does not wait.
// Whatever goes wrong, revoking the lease leaves no key behind; the mutex would leave one when its context ends at the
// wrong moment. Every call to etcd ends with the lease, or with ctx while there is nothing to hold yet.
func (c *Coordinator) acquire(ctx context.Context, of thing, try bool) (*Hold, error) {
	l, err := c.grant(ctx)
	if err != nil {
		return nil, err
	}
	unhook := context.AfterFunc(ctx, func() { l.end(context.Cause(ctx)) })
	h := &Hold{lease: l, what: of.String()}
	err = h.take(of.prefix, try)
	if !unhook() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		if cause := context.Cause(l.ctx); cause != nil {
			err = cause
		}
		return nil, errors.Join(err, l.release())
	}
	c.counts.held(of, l)
	l.loops.Start(l.ctx, h.follow)
	return h, nil
}

func (h *Hold) take(prefix string, try bool) error {
	l, cli := h.lease, h.lease.c.cli
	// What the mutex does with its client's own context, cleaning up, ends with the lease too.
	own := clientv3.NewCtxClient(l.ctx)
	own.KV, own.Watcher, own.Lease = cli.KV, cli.Watcher, kept{cli.Lease}
	session, err := concurrency.NewSession(own, concurrency.WithLease(l.id), concurrency.WithContext(l.ctx))
	if err != nil {
		return fmt.Errorf("making a session: %w", err)
	}
	l.loops.Start(l.ctx, func(context.Context) { <-session.Done() }) // which ends with l.ctx
	mutex := concurrency.NewMutex(session, prefix)
	err = insist(l.ctx, func() error {
		if try {
			return mutex.TryLock(l.ctx)
		}
		return mutex.Lock(l.ctx)
	})
	if errors.Is(err, concurrency.ErrLocked) {
		return ErrLocked
	}
	if err != nil {
		return fmt.Errorf("asking etcd: %w", err)
	}
	return h.confirm(mutex)
}

// confirm has etcd say that the key is still there, writes into it who holds, and learns the token.
func (h *Hold) confirm(mutex *concurrency.Mutex) error {
	l := h.lease
	ctx, cancel := context.WithTimeout(l.ctx, l.c.opt.CallTimeout)
	defer cancel()
	h.key = mutex.Key()
	put := clientv3.OpPut(h.key, l.c.opt.Identity, clientv3.WithLease(l.id))
	var resp *clientv3.TxnResponse
	err := insist(ctx, func() (err error) {
		resp, err = l.c.cli.Txn(ctx).If(mutex.IsOwner()).Then(put, clientv3.OpGet(h.key)).Commit()
		return err
	})
	if err != nil {
		return fmt.Errorf("asking etcd: %w", err)
	}
	if !resp.Succeeded {
		return fmt.Errorf("%w: its key is gone", ErrLost)
	}
	h.token = resp.Responses[1].GetResponseRange().GetKvs()[0].GetCreateRevision()
	return l.err()
}

// follow ends the hold when its key is not what it was: deleted by somebody, or gone with an etcd that was restored. A
// watch tells when to look; it is looked now and then besides, since a watch does not tell everything.
func (h *Hold) follow(ctx context.Context) {
	for ctx.Err() == nil {
		h.watch(ctx)
		_ = backoff.Sleep(ctx, backoff.Spread(h.lease.ttl/10, 0.5))
	}
}

// watch looks at the key whenever it may have changed, until the watch breaks.
func (h *Hold) watch(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	events := h.lease.c.cli.Watch(ctx, h.key, clientv3.WithCreatedNotify())
	tick := time.NewTicker(h.lease.ttl / 3)
	defer tick.Stop()
	for {
		select {
		case e, open := <-events:
			if !open || e.Err() != nil {
				return
			}
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		if h.gone(ctx) {
			h.lease.end(fmt.Errorf("%w: somebody deleted its key", ErrLost))
			return
		}
	}
}

// gone reports whether etcd says that the key is not ours; that etcd can't be asked is the lease's business.
func (h *Hold) gone(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, h.lease.c.opt.CallTimeout)
	defer cancel()
	got, err := h.lease.c.cli.Get(ctx, h.key)
	return err == nil && (len(got.Kvs) == 0 || got.Kvs[0].CreateRevision != h.token)
}
