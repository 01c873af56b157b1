package balancer

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"google.golang.org/grpc/serviceconfig"
)

// The rules by which an instance is picked.
const (
	RoundRobin         = "round_robin"
	WeightedRoundRobin = "weighted_round_robin"
	LeastRequest       = "least_request"
	RingHash           = "ring_hash"
)

// Rules returns the names of all rules.
func Rules() []string { return []string{RoundRobin, WeightedRoundRobin, LeastRequest, RingHash} }

// Config is what the service config says to the policy. The zero value is [RoundRobin] and nothing else.
type Config struct {
	serviceconfig.LoadBalancingConfig `json:"-"`

	// Rule is one of [Rules].
	Rule string `json:"rule"`
	// SlowStart is how long an instance that joins takes less than its share.
	SlowStart time.Duration `json:"slowStart,omitempty"`
	// HashHeader is the metadata key that holds the key of a call, for RingHash.
	HashHeader string `json:"hashHeader,omitempty"`
	// HashMaxLoad is how many times the average an instance may have in flight before calls of its keys go elsewhere; 0
	// for no bound.
	HashMaxLoad float64 `json:"hashMaxLoad,omitempty"`
	// Zone is that of the caller; empty for no preference.
	Zone string `json:"zone,omitempty"`
	// ZoneMinShare is the share of the zone's instances, by weight, that must take calls for it to keep all calls.
	ZoneMinShare float64 `json:"zoneMinShare,omitempty"`
	// ZoneMinInstances is the number of them.
	ZoneMinInstances int `json:"zoneMinInstances,omitempty"`
}

// ParseConfig implements [balancer.ConfigParser]. Unknown fields are refused.
func (builder) ParseConfig(text json.RawMessage) (serviceconfig.LoadBalancingConfig, error) {
	c := &Config{}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(c); err != nil {
		return nil, fmt.Errorf("config %s of %s: %w", text, Name, err)
	}
	if c.Rule == "" {
		c.Rule = RoundRobin
	}
	switch {
	case !slices.Contains(Rules(), c.Rule):
		return nil, fmt.Errorf("config of %s: rule %q is not known; write one of %q", Name, c.Rule, Rules())
	case c.SlowStart < 0 || c.HashMaxLoad < 0 || c.ZoneMinShare < 0 || c.ZoneMinInstances < 0:
		return nil, fmt.Errorf("config %s of %s: a number is negative; write 0 or more", text, Name)
	case c.HashMaxLoad > 0 && c.HashMaxLoad < 1:
		return nil, fmt.Errorf("config of %s: hashMaxLoad %v is less than the average; write 1.25 for example, or 0 for no bound", Name, c.HashMaxLoad)
	}
	return c, nil
}
