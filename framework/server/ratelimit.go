package server

import (
	"context"
	"fmt"
	"maps"
	"math"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	"github.com/newsvc/newsvc/framework/internal/nearest"
)

// RateLimit bounds how often a method, or a group of them, is called. Calls beyond it are refused before anything ran, which
// callers of ours repeat on another instance, and are told when to come back.
type RateLimit struct {
	// Rate is the number of calls per second, in the long run, that this instance takes. Required.
	Rate float64 `config:"rate"`
	// Burst is how many may come at once. Default 0: as many as Rate allows in a second, at least one.
	Burst int `config:"burst"`
	// PerCaller gives each caller a rate of its own; callers are told apart as [Params.Caller] does, by default by their
	// IP address. Default false: all share one.
	PerCaller bool `config:"per_caller"`
}

func (l RateLimit) validate() error {
	switch {
	case !(l.Rate > 0) || math.IsInf(l.Rate, 0):
		return fmt.Errorf("rate: %v is no rate; write calls per second, for example 100", l.Rate)
	case l.Burst < 0:
		return fmt.Errorf("burst: %d is negative; use 1 or more, or 0 for a second's worth", l.Burst)
	}
	return nil
}

func validateRateLimits(limits map[string]RateLimit) error {
	for _, key := range slices.Sorted(maps.Keys(limits)) {
		if key != everyMethod {
			service, name, ok := strings.Cut(strings.TrimPrefix(key, "/"), "/")
			if !ok || !strings.HasPrefix(key, "/") || service == "" || name == "" || strings.ContainsAny(service, "*/") || name != everyMethod && strings.ContainsAny(name, "*/") {
				return fmt.Errorf(`rate_limits: %q is no method; write "/package.Service/Method", "/package.Service/*" or "*"`, key)
			}
		}
		if err := limits[key].validate(); err != nil {
			return fmt.Errorf("rate_limits.%s.%w", key, err)
		}
	}
	return nil
}

// everyMethod stands for all methods that have no entry of their own.
const everyMethod = "*"

// rateLimits is the slot of that name.
type rateLimits struct {
	methods map[string]*limited // complete before the server serves; nil values are not limited
	caller  func(context.Context) string
}

// limited is a method and the limit that it shares with others of the same entry.
type limited struct {
	*limiter
	account *method
}

// newRateLimits fails for entries that name nothing that is served.
func newRateLimits(limits map[string]RateLimit, all *calls, caller func(context.Context) string) (*rateLimits, error) {
	r := &rateLimits{methods: map[string]*limited{}, caller: func(ctx context.Context) string {
		if caller != nil {
			if who := caller(ctx); who != "" {
				return who
			}
		}
		return peerHost(ctx)
	}}
	entries := map[string]*limiter{}
	for key, l := range limits {
		entries[key] = newLimiter(key, l)
	}
	var known []string
	for name, m := range all.methods {
		if m.system {
			continue
		}
		group := name[:strings.LastIndexByte(name, '/')+1] + everyMethod
		if !slices.Contains(known, group) {
			known = append(known, group)
		}
		known = append(known, name)
		for _, key := range []string{name, group, everyMethod} {
			if l := entries[key]; l != nil {
				r.methods[name] = &limited{limiter: l, account: m}
				break
			}
		}
	}
	slices.Sort(known)
	for _, key := range slices.Sorted(maps.Keys(limits)) {
		if key != everyMethod && !slices.Contains(known, key) {
			return nil, fmt.Errorf("server.rate_limits: %q is not served here; %s", key, meant(key, known))
		}
	}
	return r, nil
}

// meant helps to correct a method's name.
func meant(key string, known []string) string {
	near := nearest.Names(key, known, 3)
	if len(near) == 0 {
		if len(known) == 0 {
			return "no service is registered"
		}
		near = known[:min(len(known), 6)]
		return "served are for example " + strings.Join(near, ", ")
	}
	return "did you mean " + strings.Join(near, " or ") + "?"
}

// peerHost is the address a call came from, without the port.
func peerHost(ctx context.Context) string {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return ""
	}
	host, _, err := net.SplitHostPort(p.Addr.String())
	if err != nil {
		return p.Addr.String()
	}
	return host
}

// take takes a call into account. It returns the limit that refuses it, if one does, and when to come back.
func (r *rateLimits) take(ctx context.Context, full string) (*limited, time.Duration) {
	l := r.methods[full]
	if l == nil {
		return nil, 0
	}
	bucket := l.shared
	if bucket == nil {
		bucket = l.of(r.caller(ctx))
	}
	if bucket.Allow() {
		return nil, 0
	}
	// When there is a token again; bounded, since the caller may find another instance.
	wait := time.Duration((1 - bucket.Tokens()) / l.conf.Rate * float64(time.Second))
	return l, min(max(wait, time.Millisecond), maxPushback)
}

// refuse counts and returns the refusal.
func (l *limited) refuse(tell func(metadata.MD), wait time.Duration) error {
	l.account.limited.Add(1)
	return pushback(tell, wait, l.text)
}

// maxPushback bounds what callers are told to wait.
const maxPushback = time.Second

// limiter is one entry of the configuration.
type limiter struct {
	conf   RateLimit
	text   string
	shared *rate.Limiter // nil with PerCaller

	mu      sync.Mutex
	callers map[string]*rate.Limiter
}

// rateLimitText begins what a caller is told whose call a limit refused.
const rateLimitText = "this instance takes "

func newLimiter(key string, c RateLimit) *limiter {
	if c.Burst == 0 {
		c.Burst = int(min(max(1, math.Ceil(c.Rate)), math.MaxInt32))
	}
	l := &limiter{conf: c, text: fmt.Sprintf("%s%v calls per second of %q", rateLimitText, c.Rate, key)}
	if !c.PerCaller {
		l.shared = l.bucket()
		return l
	}
	l.text += " from one caller"
	l.callers = map[string]*rate.Limiter{}
	return l
}

func (l *limiter) bucket() *rate.Limiter {
	return rate.NewLimiter(rate.Limit(l.conf.Rate), l.conf.Burst)
}

// maxCallers bounds the memory that one entry takes for its callers: about 1 MiB.
const maxCallers = 10_000

// of returns a caller's bucket. When there are too many, those that are full again are forgotten: they are as good as
// new. If hardly any is, others go, whoever they are, until an eighth is free: looking through all of them for each caller
// that comes would cost more than the flood that this takes.
func (l *limiter) of(caller string) *rate.Limiter {
	l.mu.Lock()
	defer l.mu.Unlock()
	if b := l.callers[caller]; b != nil {
		return b
	}
	if len(l.callers) >= maxCallers {
		maps.DeleteFunc(l.callers, func(_ string, b *rate.Limiter) bool { return b.Tokens() >= float64(l.conf.Burst) })
		for other := range l.callers {
			if len(l.callers) <= maxCallers-maxCallers/8 {
				break
			}
			delete(l.callers, other)
		}
	}
	b := l.bucket()
	l.callers[caller] = b
	return b
}
