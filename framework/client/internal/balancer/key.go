package balancer

import (
	"context"
	"math/rand/v2"
	"sync/atomic"

	"google.golang.org/grpc/metadata"
)

type keyOf struct{}

// WithKey returns a context whose calls are of that key, for the rule [RingHash].
func WithKey(ctx context.Context, key string) context.Context {
	return context.WithValue(ctx, keyOf{}, key)
}

type attemptsOf struct{}

// counted is a context that counts the picks of one call; it is one object, since each call needs one.
type counted struct {
	context.Context
	picks atomic.Int32
}

// Value implements [context.Context].
func (c *counted) Value(key any) any {
	if _, ok := key.(attemptsOf); ok {
		return &c.picks
	}
	return c.Context.Value(key)
}

// WithAttempts returns a context for one call whose picks are counted: the second goes to the instance that comes second
// for its key, and so on, where without the count a repeat would find the instance that has just failed.
func WithAttempts(ctx context.Context) context.Context { return &counted{Context: ctx} }

// keyHash is the hash of a call's key: what [WithKey] says, else what the header says, else a random one.
func keyHash(ctx context.Context, header string) uint64 {
	if key, ok := ctx.Value(keyOf{}).(string); ok {
		return hash(key)
	}
	if header != "" {
		if md, ok := metadata.FromOutgoingContext(ctx); ok {
			if values := md[header]; len(values) > 0 {
				return hash(values[0])
			}
		}
	}
	return rand.Uint64()
}

// attempt counts one pick of a call, from 0.
func attempt(ctx context.Context) int {
	if n, ok := ctx.Value(attemptsOf{}).(*atomic.Int32); ok {
		return int(n.Add(1)) - 1
	}
	return 0
}

// hash is FNV-1a, whose value is the same in each process and each build.
func hash(s string) uint64 {
	h := uint64(14695981039346656037)
	for n := range len(s) {
		h = (h ^ uint64(s[n])) * 1099511628211
	}
	return mix(h)
}

// mix spreads a hash over all bits; it is the finalizer of SplitMix64.
func mix(h uint64) uint64 {
	h = (h ^ (h >> 30)) * 0xbf58476d1ce4e5b9
	h = (h ^ (h >> 27)) * 0x94d049bb133111eb
	return h ^ (h >> 31)
}
