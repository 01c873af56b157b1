package registryview

import (
	"context"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/newsvc/newsvc/framework/discovery"
)

const leaseTimeout = time.Second

// Lease is what keeps an instance's key.
type Lease struct {
	// Exists is false when there is no key; Leased is false for one that stays for good.
	Exists, Leased bool
	// Left is when the lease ends if nobody renews it any more.
	Left time.Duration
}

// KeyLease looks at the lease of an instance's key below a prefix.
func (r *Registry) KeyLease(ctx context.Context, prefix, service, addr string) (Lease, error) {
	ctx, cancel := context.WithTimeout(ctx, leaseTimeout)
	defer cancel()
	resp, err := r.cli.Get(ctx, discovery.Key(prefix, service, addr)) // keys alone come without their leases
	if err != nil || len(resp.Kvs) == 0 {
		return Lease{}, err
	}
	id := clientv3.LeaseID(resp.Kvs[0].Lease)
	if id == 0 {
		return Lease{Exists: true}, nil
	}
	ttl, err := r.cli.TimeToLive(ctx, id)
	if err != nil {
		return Lease{}, err
	}
	return Lease{Exists: ttl.TTL >= 0, Leased: true, Left: time.Duration(max(ttl.TTL, 0)) * time.Second}, nil
}
