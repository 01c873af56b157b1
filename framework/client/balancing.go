package client

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/newsvc/newsvc/framework/client/internal/balancer"
)

// The values that Policy.Balancer may take.
const (
	RoundRobin         = balancer.RoundRobin
	WeightedRoundRobin = balancer.WeightedRoundRobin
	LeastRequest       = balancer.LeastRequest
	RingHash           = balancer.RingHash
	PickFirst          = "pick_first"
)

func balancers() []string { return append(balancer.Rules(), PickFirst) }

// ZonePolicy keeps calls in the caller's own zone: shorter ways, and no bill for traffic between zones. It counts
// instances of the callee, as announced under registration.zone; those that announce none count as being elsewhere.
type ZonePolicy struct {
	// Prefer sends calls to instances in the caller's zone while there are enough of them. Default: false, since a zone
	// with many callers and few instances would be overloaded while others idle: switch it on where instances are spread
	// as their callers are.
	Prefer bool `config:"prefer" reload:"pushed"`
	// Name is the caller's zone. Default: empty, that of this process (registration.zone). A caller without a zone
	// prefers none.
	Name string `config:"name" reload:"pushed"`
	// MinShare is the share of the zone's instances, by weight, that must take calls for the zone to keep all calls, 0
	// to 1. Below that the zone keeps the part of the calls that the rest can carry (with 0.7, half of the instances keep
	// 0.5/0.7 = 71 %), and the others spill over to all other zones. Default: 0.7. Higher spills over sooner; 0 never while one
	// is left.
	MinShare float64 `config:"min_share" reload:"pushed"`
	// MinInstances is the number of the zone's instances that must take calls for the zone to keep all calls; with fewer
	// they keep as many parts as they are. Default: 1.
	MinInstances int `config:"min_instances" reload:"pushed"`
}

// RingHashPolicy is about calls that are sent by their key; see [WithHashKey].
type RingHashPolicy struct {
	// Header is the metadata key of a call that holds its key, for example "x-user-id"; what [WithHashKey] says wins.
	// Default: empty, no header is looked at.
	Header string `config:"header" reload:"pushed"`
	// MaxLoad bounds how many calls an instance may have in flight, as a multiple of its fair share, before further calls
	// of its keys go to the instance that comes next for them; 1 or more, for example 1.25. Lower spreads hot keys sooner,
	// at the price of keys that are served by two instances. Default: 0, no bound.
	MaxLoad float64 `config:"max_load" reload:"pushed"`
}

// WithHashKey returns a context whose calls carry key, for callees whose balancer is "ring_hash": calls of one key go to
// one instance as long as it takes calls, from all callers that know the same instances. When it is gone its keys go to
// others, each key to one of them, and all other keys stay where they are. Calls without a key go anywhere. The key is not sent.
//
// Only the instances that a caller knows can be picked: set discovery.subset to 0, or larger than the callee, where keys
// must meet across callers.
func WithHashKey(ctx context.Context, key string) context.Context { return balancer.WithKey(ctx, key) }

// headerName is what a metadata key may look like.
var headerName = regexp.MustCompile(`^[a-z0-9_.-]+$`)

func (p Policy) validateBalancing() error {
	return errors.Join(
		p.validateBalancer(),
		notNegativeOff("slow_start", p.SlowStart),
		prefixed("zone", p.Zone.validate()),
		prefixed("ring_hash", p.RingHash.validate()),
	)
}

func (p Policy) validateBalancer() error {
	if known := balancers(); !slices.Contains(known, p.Balancer) {
		return fmt.Errorf("balancer: %q is not known; write one of %q", p.Balancer, known)
	}
	return nil
}

func (z ZonePolicy) validate() error {
	switch {
	case !(z.MinShare >= 0 && z.MinShare <= 1):
		return fmt.Errorf("min_share: %v is no share; write 0 to 1, for example 0.7", z.MinShare)
	case z.MinInstances < 0:
		return fmt.Errorf("min_instances: %d is negative; write 0 or more", z.MinInstances)
	}
	return nil
}

func (r RingHashPolicy) validate() error {
	switch {
	case r.Header != "" && !headerName.MatchString(r.Header):
		return fmt.Errorf("header: %q is no metadata key; write it in lower case, for example \"x-user-id\"", r.Header)
	case r.MaxLoad != 0 && !(r.MaxLoad >= 1 && r.MaxLoad <= 1000):
		return fmt.Errorf("max_load: %v is out of range; write 1 to 1000, for example 1.25, or 0 for no bound", r.MaxLoad)
	}
	return nil
}

func notNegativeOff(key string, d time.Duration) error {
	if d < 0 {
		return fmt.Errorf("%s: %q is negative; write for example 30s, or 0 for none", key, d)
	}
	return nil
}

// balancing is the part of the service config that picks instances; zone is that of this process.
func (p Policy) balancing(zone string) map[string]any {
	if p.Balancer == PickFirst {
		// Lists are sorted: without the shuffle all callers would take the same instance.
		return map[string]any{PickFirst: map[string]bool{"shuffleAddressList": true}}
	}
	c := balancer.Config{
		Rule: p.Balancer, SlowStart: p.SlowStart, HashHeader: p.RingHash.Header, HashMaxLoad: p.RingHash.MaxLoad,
		ZoneMinShare: p.Zone.MinShare, ZoneMinInstances: p.Zone.MinInstances,
	}
	if p.Zone.Prefer {
		c.Zone = p.Zone.Name
		if c.Zone == "" {
			c.Zone = zone
		}
	}
	return map[string]any{balancer.Name: c}
}

// warnZone says that a zone is preferred and none is known.
func (f *Factory) warnZone(callee string, p Policy) {
	if p.Zone.Prefer && p.Zone.Name == "" && f.p.Zone == "" {
		f.log.Warn("zone.prefer is set, but this process does not know its zone; calls go to instances everywhere. Set registration.zone, or clients."+callee+".zone.name",
			zap.String("callee", callee))
	}
}
