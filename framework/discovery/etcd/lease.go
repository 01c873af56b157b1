package etcd

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/peer"

	"github.com/newsvc/newsvc/framework/internal/backoff"
	"github.com/newsvc/newsvc/framework/internal/hedge"
)

// newLeaseID draws a lease's number. We choose it and not etcd, so that a grant whose answer got lost can be repeated
// and revoked.
func newLeaseID() clientv3.LeaseID { return clientv3.LeaseID(rand.Int64N(1<<62) + 1) }

// grant asks for the lease and returns its TTL.
func (g *registration) grant(ctx context.Context, id clientv3.LeaseID) (time.Duration, error) {
	g.mu.Lock()
	_, mayExist := g.leases[id]
	g.leases[id] = struct{}{} // before the call: from here on it may exist
	g.mu.Unlock()
	var asked peer.Peer
	ctx, cancel := outlive(ctx, min(g.r.opt.CallTimeout, max(g.r.opt.TTL/3, time.Second)))
	defer cancel()
	ttl := g.r.opt.TTL
	resp, err := clientv3.RetryLeaseClient(g.r.cli).LeaseGrant(ctx,
		&etcdserverpb.LeaseGrantRequest{ID: int64(id), TTL: int64(ttl / time.Second)}, grpc.WaitForReady(true), grpc.Peer(&asked))
	switch {
	case err != nil && asked.Addr == nil && !mayExist: // nobody was asked: there is nothing to revoke
		g.lost(id)
		return 0, rpctypes.Error(err)
	case err == nil:
		ttl = time.Duration(resp.TTL) * time.Second // etcd may have made it longer
	case !matches(err, []error{rpctypes.ErrLeaseExist}):
		return 0, rpctypes.Error(err)
	}
	g.mu.Lock()
	g.lease = id
	g.leaseEnds = time.Now().Add(ttl)
	g.mu.Unlock()
	return ttl, nil
}

// renewed notes that etcd has just said how long the lease lives without another renewal.
func (g *registration) renewed(left time.Duration) {
	g.mu.Lock()
	g.leaseEnds = time.Now().Add(left)
	g.mu.Unlock()
}

// closeGrace is how long a grant that is under way is waited for when its registration is closed.
const closeGrace = 500 * time.Millisecond

// outlive returns a context for a call that is given a moment to end when ctx does. A grant that is cut off at once may be
// overtaken by its own revocation, and the lease would then exist until it runs out.
func outlive(ctx context.Context, timeout time.Duration) (context.Context, context.CancelFunc) {
	call, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout)
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(closeGrace, cancel) })
	return call, func() { stop(); cancel() }
}

// renewNow renews a lease that runs out soon, on streams of its own. It is no way to renew all the time: each attempt
// opens a stream, which with a password costs etcd a check of it.
func (g *registration) renewNow(ctx context.Context, id clientv3.LeaseID) {
	for range 2 {
		call, cancel := context.WithTimeout(ctx, min(verifyTimeout/2, g.r.opt.CallTimeout))
		resp, err := hedge.First(call, hedge.Plan{Calls: pair}, func(ctx context.Context) (*etcdserverpb.LeaseKeepAliveResponse, error) {
			return g.renewOnce(ctx, id)
		})
		cancel()
		if err != nil {
			continue
		}
		if resp.TTL > 0 {
			g.renewed(time.Duration(resp.TTL) * time.Second)
		}
		return
	}
}

func (g *registration) renewOnce(ctx context.Context, id clientv3.LeaseID) (*etcdserverpb.LeaseKeepAliveResponse, error) {
	s, err := etcdserverpb.NewLeaseClient(g.r.cli.ActiveConnection()).LeaseKeepAlive(ctx, grpc.WaitForReady(true))
	if err != nil {
		return nil, err
	}
	if err := s.Send(&etcdserverpb.LeaseKeepAliveRequest{ID: int64(id)}); err != nil {
		return nil, err
	}
	return s.Recv()
}

// lost notes that a lease is dead.
func (g *registration) lost(id clientv3.LeaseID) {
	g.mu.Lock()
	delete(g.leases, id)
	if g.lease == id {
		g.lease, g.leaseEnds = 0, time.Time{}
	}
	g.mu.Unlock()
}

// revoke ends a lease, with as many attempts as ctx leaves time for.
func (g *registration) revoke(ctx context.Context, id clientv3.LeaseID) error {
	bo := backoff.New(min(100*time.Millisecond, g.r.opt.Timing.RetryMax), g.r.opt.Timing.RetryMax)
	for {
		call, cancel := context.WithTimeout(ctx, g.r.opt.CallTimeout)
		_, err := g.r.cli.Revoke(call, id)
		cancel()
		if err == nil || isLeaseGone(err) {
			g.lost(id)
			return nil
		}
		if isPatient(err) || bo.Wait(ctx) != nil {
			return explain(g.r.cli, fmt.Sprintf("withdrawing %s of %q", g.id.addr, g.id.service), err)
		}
	}
}
