package balancer

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"

	"google.golang.org/grpc/metadata"
)

type keyOf struct{}

// WithKey returns a context whose calls are of that key, for the rule [RingHash].
func WithKey(ctx context.Context, key string) context.Context {
	return context.WithValue(ctx, keyOf{}, key)
}

type triedOf struct{}

// tried is a context that remembers whom the picks of one call found; it is one object, since calls may need one each.
type tried struct {
	context.Context
	mu   sync.Mutex
	list []*Instance
}

// Value implements [context.Context].
func (t *tried) Value(key any) any {
	if _, ok := key.(triedOf); ok {
		return t
	}
	return t.Context.Value(key)
}

// has reports whether the call was with i before; nil for a call of which nothing is remembered.
func (t *tried) has(i *Instance) bool {
	if t == nil {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Contains(t.list, i)
}

// any reports whether the call was with anybody before.
func (t *tried) any() bool {
	if t == nil {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.list) > 0
}

// add notes that the call is with i.
func (t *tried) add(i *Instance) {
	if t != nil {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.list = append(t.list, i)
	}
}

// WithAttempts returns a context for one call whose further attempts go to other instances than those before, while there
// are any: a repeat is to find somebody who has not refused it yet, and with the rule [RingHash] who comes next for its key.
func WithAttempts(ctx context.Context) context.Context {
	return &tried{Context: ctx}
}

func triedBy(ctx context.Context) *tried {
	t, _ := ctx.Value(triedOf{}).(*tried)
	return t
}

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
