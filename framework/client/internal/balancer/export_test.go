package balancer

import "google.golang.org/grpc/balancer"

// Remembered is how many calls a policy remembers the failures of.
func Remembered(b balancer.Balancer) int64 { return b.(*policy).set.failed.n.Load() }
