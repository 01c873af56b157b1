package stack

import (
	"context"

	"go.uber.org/zap"
)

// AdvertiseQuery is what the advertised address depends on.
type AdvertiseQuery struct {
	Explicit, Listen, PodIP string
	Etcd                    []string
	Loopback                bool
}

// Advertise makes the choice testable without a machine of many addresses.
func Advertise(ctx context.Context, q AdvertiseQuery) (string, error) {
	return advertise(ctx, advertiseQuery{explicit: q.Explicit, listen: q.Listen, podIP: q.PodIP, etcd: q.Etcd, loopback: q.Loopback})
}

// Reachable is the admin address that is told to others.
func Reachable(admin, advertised string) string { return reachable(admin, advertised) }

// Nearby takes in which services there are after a callee was found to have no instances.
func Nearby(log *zap.Logger, missing string, names ...string) {
	n := newNearby(log)
	n.miss(missing)
	n.found(names)
}

// ToldElsewhere reports whether a line of gRPC's own log is dropped.
func ToldElsewhere(text string) bool { return toldElsewhere(text) }
