package client

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/newsvc/newsvc/framework/certs"
)

// Policy says how one callee is called. Fields tagged live hold for the next call; those tagged pushed travel with
// the resolver's state and hold for the next call too, without a new connection; those tagged redial make a new
// connection that takes over once it is ready. The rest is read once, at start. Policies are comparable with ==.
type Policy struct {
	// Timeout is the longest a unary call may take, all repeats included; a shorter deadline of the caller wins.
	// Streams are not bounded by it. Default: 5s. 0 means no limit: a call without a deadline may then wait for ever
	// for an instance. Shorter fails earlier when a callee hangs, longer lets slow calls finish.
	Timeout time.Duration `config:"timeout" reload:"pushed"`
	// OpenTimeout is the longest a new stream may wait until an instance is picked and takes it; from then on it is
	// unbounded. Default: 5s. 0 means no limit.
	OpenTimeout time.Duration `config:"open_timeout" reload:"live"`
	// WaitForReady lets calls wait for an instance, within their deadline, instead of failing at once when none can
	// be reached; it bridges the restart of a callee's only instance. Default: true.
	WaitForReady bool `config:"wait_for_ready" reload:"pushed"`
	// Balancer picks the instance of a call: "round_robin" takes each in turn, by its weight, and "weighted_round_robin" is
	// another word for that; "least_request" draws two and takes the one with fewer calls in flight; "ring_hash" takes the
	// same one for the same key, see [WithHashKey]; "pick_first" stays with one, drawn at random, until it is lost, and
	// looks at neither weight nor zone. Default: "round_robin".
	Balancer string `config:"balancer" reload:"pushed" enum:"round_robin|weighted_round_robin|least_request|ring_hash|pick_first"`
	// SlowStart is how long an instance that joins takes less than its share, from a tenth up to the whole, so that
	// caches fill and code warms up under little load. Its first call comes at once. Default: 0, it takes its share
	// from the start.
	SlowStart time.Duration `config:"slow_start" reload:"pushed"`
	// Zone keeps calls in the caller's zone.
	Zone ZonePolicy `config:"zone"`
	// RingHash is about the balancer "ring_hash".
	RingHash RingHashPolicy `config:"ring_hash"`
	// HealthCheck follows the gRPC health service of each instance, one stream per connection, and picks none that
	// says NOT_SERVING. Instances without that service count as serving. An instance that joins
	// later also counts as serving until its first answer, since instances join when they serve; and when nobody is left,
	// instances that served and say NOT_SERVING now take the calls until they are gone. "pick_first" does not follow it.
	// A change holds for connections made after it. Default: true.
	HealthCheck bool `config:"health_check" reload:"pushed"`
	// Ejection takes instances that are sick out of use for a while.
	Ejection EjectionPolicy `config:"ejection"`
	// Breaker holds calls back when most fail, or too many run.
	Breaker BreakerPolicy `config:"breaker"`
	// Retry is about calls of idempotent methods that failed with UNAVAILABLE.
	Retry RetryPolicy `config:"retry"`
	// NotProcessed is about calls of any method that an instance refused before a handler ran.
	NotProcessed RepeatPolicy `config:"not_processed"`
	// Hedging sends calls of idempotent methods a second time when the answer is late.
	Hedging HedgingPolicy `config:"hedging"`
	// MaxRecvBytes bounds one received message. Default: 4194304 (4 MiB).
	MaxRecvBytes int `config:"max_recv_bytes" reload:"pushed"`
	// MaxSendBytes bounds one sent message. Default: 0, no limit but the server's.
	MaxSendBytes int `config:"max_send_bytes" reload:"pushed"`
	// Compression is how requests are compressed: "gzip", or another compressor that is linked in; the callee answers in
	// kind. Both processes must import its package, for gzip google.golang.org/grpc/encoding/gzip: link it into the callee
	// first, which refuses what it can't read with UNIMPLEMENTED. It saves bandwidth and costs both sides CPU time.
	// Default: empty, none.
	Compression string `config:"compression" reload:"live"`
	// Target bypasses discovery: "dns:///host:port", or "static:///a:1,b:2" for a fixed list, in which
	// "a:1=50" gives an instance a weight, of which others have 100. The callee's name is
	// still sent as the authority, and is what TLS verifies. Default: empty, the callee is looked up by its name.
	Target string `config:"target" reload:"redial"`
	// TLS says how the connection is secured. Default: plaintext.
	TLS certs.ClientConfig `config:"tls" reload:"redial"`
	// TokenFile holds a bearer token that is sent with each call, for callees that want to know who calls by a JWT. The file is
	// read at start and, at most once a second, again; while it can't be used the last good token is sent on, and the log
	// says so. Calls are not to carry authorization metadata of their own then. Default: empty, none.
	TokenFile string `config:"token_file" reload:"redial"`
	// TokenWithoutTLS sends the token over connections without TLS too, where everybody on the way can read it: set it only
	// where something else secures the way, as the proxy of a service mesh does. Default: false.
	TokenWithoutTLS bool `config:"token_without_tls" reload:"redial"`
	// KeepAlive sends HTTP/2 pings. Dead instances are found by TCP without it; see [KeepAlive].
	KeepAlive KeepAlive `config:"keepalive"`
	// MinInstances is how many instances must be known at start before this process counts as started. Default: 0,
	// the start does not wait.
	MinInstances int `config:"min_instances"`
	// StartTimeout is the longest that start waits for MinInstances. Default: 30s.
	StartTimeout time.Duration `config:"start_timeout"`
}

// RetryPolicy bounds gRPC's own retries of methods that the proto declares idempotent. Retries draw on a budget: a
// bucket of BudgetTokens per connection that loses a token with each failed attempt and gains BudgetRatio with each
// successful call; while it is less than half full nothing is retried, so that a callee in trouble is not buried.
type RetryPolicy struct {
	// MaxAttempts counts the first attempt too: 1 switches retries off, 5 is the most gRPC does. Default: 4.
	MaxAttempts int `config:"max_attempts" reload:"pushed"`
	// InitialBackoff is the wait before the first retry, jittered by a fifth. Default: 50ms.
	InitialBackoff time.Duration `config:"initial_backoff" reload:"pushed"`
	// MaxBackoff bounds the waits. Default: 1s.
	MaxBackoff time.Duration `config:"max_backoff" reload:"pushed"`
	// Multiplier is how much longer each wait is than the one before. Default: 2.
	Multiplier float64 `config:"multiplier" reload:"pushed"`
	// BudgetTokens is the size of the bucket, 1 to 1000. Larger lets longer rows of failures be retried. Default: 100.
	BudgetTokens int `config:"budget_tokens" reload:"pushed"`
	// BudgetRatio is what a successful call earns, in tokens: 0.1 allows one retry for ten calls in the long run.
	// Default: 0.1.
	BudgetRatio float64 `config:"budget_ratio" reload:"pushed"`
}

// RepeatPolicy bounds the repeats of calls that were refused before a handler ran. They are safe for every method,
// so their budget is wider than that of retries: a full bucket allows BudgetTokens repeats at once.
type RepeatPolicy struct {
	// MaxAttempts counts the first attempt too: 1 switches repeats off. Default: 4.
	MaxAttempts int `config:"max_attempts" reload:"live"`
	// BudgetTokens is the size of the bucket, per callee; a repeat takes one token. Default: 100.
	BudgetTokens int `config:"budget_tokens" reload:"live"`
	// BudgetRatio is what each call earns, in tokens: 0.2 allows one repeat for five calls in the long run.
	// Default: 0.2.
	BudgetRatio float64 `config:"budget_ratio" reload:"live"`
}

// KeepAlive is HTTP/2's own probing. It is off by default because servers that do not expect it (any plain gRPC
// server) answer pings on a quiet connection by closing it.
type KeepAlive struct {
	// Time is the quiet time after which a ping is sent, at least 10s. Default: 0, off.
	Time time.Duration `config:"time" reload:"redial"`
	// Timeout is how long a ping's answer may take before the connection is given up. Default: 5s.
	Timeout time.Duration `config:"timeout" reload:"redial"`
	// PermitWithoutStream pings connections without a running call too. Default: false.
	PermitWithoutStream bool `config:"permit_without_stream" reload:"redial"`
}

// DefaultPolicy returns the policy of a callee for which nothing is configured.
func DefaultPolicy() Policy {
	return Policy{
		Timeout:      5 * time.Second,
		OpenTimeout:  5 * time.Second,
		WaitForReady: true,
		Balancer:     RoundRobin,
		Zone:         ZonePolicy{MinShare: 0.7, MinInstances: 1},
		HealthCheck:  true,
		Ejection:     defaultEjection(),
		Breaker:      defaultBreaker(),
		Retry: RetryPolicy{
			MaxAttempts: 4, InitialBackoff: 50 * time.Millisecond, MaxBackoff: time.Second, Multiplier: 2,
			BudgetTokens: 100, BudgetRatio: 0.1,
		},
		NotProcessed: RepeatPolicy{MaxAttempts: 4, BudgetTokens: 100, BudgetRatio: 0.2},
		Hedging:      defaultHedging(),
		MaxRecvBytes: 4 << 20,
		KeepAlive:    KeepAlive{Timeout: 5 * time.Second},
		StartTimeout: 30 * time.Second,
	}
}

// Validate checks the policy without reading files. The error starts with the key at fault.
func (p Policy) Validate() error {
	return errors.Join(
		notNegative("timeout", p.Timeout),
		notNegative("open_timeout", p.OpenTimeout),
		p.validateBalancing(),
		prefixed("ejection", p.Ejection.validate()),
		prefixed("breaker", p.Breaker.validate()),
		prefixed("retry", p.Retry.validate()),
		prefixed("not_processed", p.NotProcessed.validate()),
		prefixed("hedging", p.Hedging.validate()),
		atLeast("max_recv_bytes", p.MaxRecvBytes, 1),
		atLeast("max_send_bytes", p.MaxSendBytes, 0),
		validateCompression(p.Compression),
		validateTarget(p.Target),
		prefixed("tls", p.TLS.Validate()),
		p.validateToken(),
		prefixed("keepalive", p.KeepAlive.validate()),
		atLeast("min_instances", p.MinInstances, 0),
		notNegative("start_timeout", p.StartTimeout),
	)
}

func (r RetryPolicy) validate() error {
	if r.MaxAttempts < 1 || r.MaxAttempts > maxCallAttempts {
		return fmt.Errorf("max_attempts: %d is out of range; write 1 (no retries) to %d", r.MaxAttempts, maxCallAttempts)
	}
	if r.MaxAttempts == 1 {
		return nil
	}
	switch {
	case r.InitialBackoff <= 0:
		return fmt.Errorf("initial_backoff: %q is too short; write for example 50ms, or max_attempts: 1 for no retries", r.InitialBackoff)
	case r.MaxBackoff < r.InitialBackoff:
		return fmt.Errorf("max_backoff: %q is shorter than initial_backoff %q; write for example 1s", r.MaxBackoff, r.InitialBackoff)
	case r.Multiplier < 1:
		return fmt.Errorf("multiplier: %v would shorten the waits; write 1 or more, for example 2", r.Multiplier)
	case r.BudgetTokens < 1 || r.BudgetTokens > 1000:
		return fmt.Errorf("budget_tokens: %d is out of range; write 1 to 1000, for example 100", r.BudgetTokens)
	case r.BudgetRatio <= 0:
		return fmt.Errorf("budget_ratio: %v would never refill the budget; write for example 0.1", r.BudgetRatio)
	}
	return nil
}

func (r RepeatPolicy) validate() error {
	switch {
	case r.MaxAttempts < 1:
		return fmt.Errorf("max_attempts: %d is out of range; write 1 (no repeats) or more", r.MaxAttempts)
	case r.MaxAttempts > 1 && (r.BudgetTokens < 1 || r.BudgetTokens > 1_000_000):
		return fmt.Errorf("budget_tokens: %d is out of range; write 1 to 1000000, for example 100", r.BudgetTokens)
	case r.MaxAttempts > 1 && r.BudgetRatio <= 0:
		return fmt.Errorf("budget_ratio: %v would never refill the budget; write for example 0.2", r.BudgetRatio)
	}
	return nil
}

func (k KeepAlive) validate() error {
	switch {
	case k.Time != 0 && k.Time < 10*time.Second:
		return fmt.Errorf("time: %q is less than gRPC sends; write 10s or more, or 0 for none", k.Time)
	case k.Time != 0 && k.Timeout <= 0:
		return fmt.Errorf("timeout: %q would give up every connection; write for example 5s", k.Timeout)
	}
	return nil
}

// change is the strongest kind of change that two policies differ by.
type change int

const (
	changeNone change = iota
	changeLive
	changePushed
	changeRedial
)

// differs compares what matters to a connection. min_instances and start_timeout do not: they were read at start.
func (p Policy) differs(o Policy) change {
	switch {
	case p.Target != o.Target || p.TLS != o.TLS || p.TokenFile != o.TokenFile || p.TokenWithoutTLS != o.TokenWithoutTLS || p.KeepAlive != o.KeepAlive:
		return changeRedial
	case p.Timeout != o.Timeout || p.Balancer != o.Balancer || p.SlowStart != o.SlowStart || p.Zone != o.Zone || p.RingHash != o.RingHash ||
		p.WaitForReady != o.WaitForReady || p.HealthCheck != o.HealthCheck ||
		p.Retry != o.Retry || p.MaxRecvBytes != o.MaxRecvBytes || p.MaxSendBytes != o.MaxSendBytes:
		return changePushed
	case p.OpenTimeout != o.OpenTimeout || p.Ejection != o.Ejection || p.Breaker != o.Breaker || p.NotProcessed != o.NotProcessed || p.Hedging != o.Hedging || p.Compression != o.Compression:
		return changeLive
	}
	return changeNone
}

func notNegative(key string, d time.Duration) error {
	if d < 0 {
		return fmt.Errorf("%s: %q is negative; write for example 5s, or 0 for no limit", key, d)
	}
	return nil
}

func atLeast(key string, n, least int) error {
	if n < least {
		return fmt.Errorf("%s: %d is too small; write %d or more", key, n, least)
	}
	return nil
}

// prefixed puts a section's key before the key that err starts with.
func prefixed(key string, err error) error {
	if err == nil {
		return nil
	}
	return errors.New(key + "." + strings.ReplaceAll(err.Error(), "\n", "\n"+key+"."))
}
