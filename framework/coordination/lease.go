package coordination

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"

	"github.com/newsvc/newsvc/framework/internal/backoff"
	"github.com/newsvc/newsvc/framework/internal/loop"
)

// lease is a lease of etcd's that is renewed until it is released or lost. Its context ends before etcd can have let it
// expire: a renewal counts from when it was sent, and the last fifth of the TTL is left for whoever works under it to
// notice. clientv3's own renewal counts from when the answer came, from 5s for the first one, looks twice a second only,
// and does not say when it was answered.
type lease struct {
	c   *Coordinator
	id  clientv3.LeaseID
	ttl time.Duration // as etcd granted it

	ctx   context.Context
	end   context.CancelCauseFunc
	loops loop.Group

	mu    sync.Mutex
	until time.Time   // it is surely there until then, by both clocks
	timer *time.Timer // ends ctx then
	over  func()      // nil, or counts the end of what is held; set before anybody else knows of the lease

	closing sync.Once
	closed  error
}

func (c *Coordinator) grant(ctx context.Context) (*lease, error) {
	// Of all calls, those that the lease's context is the parent of too: a member that is cut off from the others is to
	// say so at once. It would let each call to it wait, and clientv3 calls all members in turn.
	ctx = clientv3.WithRequireLeader(ctx)
	call, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.opt.CallTimeout)
	defer cancel()
	// Whoever stops just now still waits a moment for the answer: of a lease that etcd granted and nobody heard of nothing
	// could be revoked.
	defer context.AfterFunc(ctx, func() { time.AfterFunc(c.opt.CallTimeout/3, cancel) })()
	sent := time.Now()
	got, err := c.cli.Grant(call, int64(c.opt.TTL/time.Second))
	if err != nil {
		return nil, fmt.Errorf("asking etcd for a lease: %w", err)
	}
	l := &lease{c: c, id: got.ID, ttl: time.Duration(got.TTL) * time.Second}
	l.ctx, l.end = context.WithCancelCause(context.WithoutCancel(ctx))
	l.timer = time.AfterFunc(l.ttl, l.expire)
	l.extend(sent)
	l.loops.Start(l.ctx, l.renew)
	l.loops.Start(l.ctx, l.watchClock)
	return l, nil
}

// extend notes that etcd renewed the lease by a request that was sent then.
func (l *lease) extend(sent time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.until = sent.Add(l.ttl - l.ttl/5)
	l.timer.Reset(time.Until(l.until))
}

// err is why the lease does not hold any more. It looks at the clock itself: in a process that was frozen the timer may
// not have been heard of yet.
//
// It looks at two clocks. The one that Go measures time by stands still on Linux while the machine is suspended, and etcd's
// does not; so the time of day counts too. Whichever says first that the time is over is right: a time of day that is set
// forward ends a hold that could have gone on, which costs a hand-over, and one that is set back is outvoted by the other clock.
func (l *lease) err() error {
	l.mu.Lock()
	until := l.until
	l.mu.Unlock()
	switch {
	case !time.Now().Before(until):
		l.expire()
	case !l.c.timeOfDay().Round(0).Before(until.Round(0)): // Round takes the other clock away
		l.end(fmt.Errorf("%w: by the time of day the lease is over; the machine was suspended, or its clock set", ErrLost))
	}
	return context.Cause(l.ctx)
}

func (l *lease) expire() {
	l.end(fmt.Errorf("%w: etcd did not renew the lease in time", ErrLost))
}

// watchClock ends the lease soon after a machine that was suspended has come back: the timer stood still with it.
func (l *lease) watchClock(ctx context.Context) {
	for backoff.Sleep(ctx, l.ttl/30) == nil && l.err() == nil {
		continue
	}
}

// renew asks for renewals, a third of the TTL apart, and sooner after a failure.
func (l *lease) renew(ctx context.Context) {
	again := backoff.New(l.ttl/30, l.ttl/10)
	pause := l.ttl / 3
	for backoff.Sleep(ctx, backoff.Spread(pause, 0.1)) == nil {
		sent := time.Now()
		ttl, err := l.renewOnce(ctx)
		switch {
		case err != nil:
			pause = again.Next()
			continue
		case ttl <= 0:
			l.end(fmt.Errorf("%w: etcd does not know the lease any more", ErrLost))
			return
		}
		again.Reset()
		pause = l.ttl / 3
		l.extend(sent)
	}
}

// renewOnce is clientv3's KeepAliveOnce, which asks again without a pause while etcd is away.
func (l *lease) renewOnce(ctx context.Context) (ttl int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, l.c.opt.CallTimeout)
	defer cancel()
	s, err := etcdserverpb.NewLeaseClient(l.c.cli.ActiveConnection()).LeaseKeepAlive(ctx, grpc.WaitForReady(true))
	if err != nil {
		return 0, err
	}
	if err := s.Send(&etcdserverpb.LeaseKeepAliveRequest{ID: int64(l.id)}); err != nil {
		return 0, err
	}
	resp, err := s.Recv()
	if err != nil {
		return 0, err
	}
	return resp.GetTTL(), s.CloseSend()
}

// release ends the lease, and with it all that was written under it: also what an answer was lost for, or was given up
// half-way. When etcd can't be asked, the TTL does it.
func (l *lease) release() error {
	l.closing.Do(func() {
		l.end(ErrReleased)
		if l.over != nil {
			l.over()
		}
		l.timer.Stop()
		l.loops.Stop()
		if err := l.revoke(context.WithoutCancel(l.ctx)); err != nil && !errors.Is(err, rpctypes.ErrLeaseNotFound) {
			l.closed = fmt.Errorf("revoking the lease: %w; it ends within %v", err, l.ttl)
		}
	})
	return l.closed
}

// revoke asks up to three members of etcd, one after the other: while one of them is frozen, nobody shall have to wait for
// the TTL.
func (l *lease) revoke(ctx context.Context) (err error) {
	for range 3 {
		call, cancel := context.WithTimeout(ctx, l.c.opt.CallTimeout/3)
		_, err = l.c.cli.Revoke(call, l.id)
		late := call.Err() != nil
		cancel()
		if !late {
			return err
		}
	}
	return err
}

// insist asks again when a member of etcd refused because it is cut off from the others: nothing has happened then, and
// the client asks another one next. clientv3 does not ask twice when the call may write. It must be done right here: whoever
// began anew instead, with a number of calls that is one of the members, would come to the same member each time.
func insist(ctx context.Context, ask func() error) error {
	wait := backoff.New(5*time.Millisecond, 200*time.Millisecond)
	for {
		err := ask()
		if !errors.Is(err, rpctypes.ErrNoLeader) || wait.Wait(ctx) != nil {
			return err
		}
	}
}

// kept is the Lease of a session of package concurrency, which would renew for itself: it says that the lease lives
// for as long as ours does.
type kept struct{ clientv3.Lease }

// KeepAlive implements [clientv3.Lease].
func (kept) KeepAlive(ctx context.Context, _ clientv3.LeaseID) (<-chan *clientv3.LeaseKeepAliveResponse, error) {
	ch := make(chan *clientv3.LeaseKeepAliveResponse)
	context.AfterFunc(ctx, func() { close(ch) })
	return ch, nil
}
