package server

import (
	"errors"
	"fmt"
	"math"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/newsvc/newsvc/framework/certs"
)

// Config is the part of a server that an operator may change. All of it needs a restart.
type Config struct {
	// Listen is the host:port to listen on; an empty host means all interfaces, port 0 any free port. Default
	// ":9000".
	Listen string `config:"listen"`
	// TLS names certificate files; empty is plaintext. Default: empty.
	TLS certs.ServerConfig `config:"tls"`
	// AcceptNames are service names this server answers for besides its own, for example an old name during a rename.
	// Calls addressed to any other service are refused (see [SlotAuthority]). Default: none.
	AcceptNames []string `config:"accept_names"`
	// Reflection serves the descriptors of all services to tools such as grpcurl. Default false: it shows the whole
	// contract to whoever can connect.
	Reflection bool `config:"reflection"`
	// Chain switches slots of the interceptor chain off by name (authority: false). A slot that is not named is on.
	Chain map[string]bool `config:"chain"`
	// AccessLog says which calls are worth a line. Default: those that failed by a fault of the server.
	AccessLog AccessLog `config:"access_log"`
	// Limits bound what one peer may ask of this server.
	Limits Limits `config:"limits"`
	// Shedding says when calls are refused because there are too many.
	Shedding Shedding `config:"shedding"`
	// RateLimits bound the calls per second that this instance takes, by method: "/user.v1.UserService/CreateUser", or
	// "/user.v1.UserService/*" and "*" for what has no entry of its own, which shares one bucket. A name that is not served is
	// an error of the start. It is set in files: flags and environment take the dots in names for levels. Default: none.
	RateLimits map[string]RateLimit `config:"rate_limits"`
	// Drain divides the time of a graceful stop.
	Drain Drain `config:"drain"`
}

// Limits bound what one peer may ask of a server.
type Limits struct {
	// MaxTimeout caps the deadline of unary calls; a call without a deadline gets this one. It protects the server
	// from work nobody waits for any more. Default 60 s; 0 switches the cap off.
	MaxTimeout time.Duration `config:"max_timeout"`
	// MinTimeout is how much must be left of the deadline of a unary call for it to be begun; with less it is refused with
	// DEADLINE_EXCEEDED. Default 0: only calls whose deadline is over are. More saves work whose answer would come too late.
	MinTimeout time.Duration `config:"min_timeout"`
	// AnswerReserve is how much earlier than the caller's the deadline of a unary handler is, so that its answer, or the
	// reason why there is none, still gets there. Default 0, none; with it each call costs a context more.
	AnswerReserve time.Duration `config:"answer_reserve"`
	// MaxRecvBytes is the size of the largest message accepted. Default 4 MiB; more lets one call take more memory.
	MaxRecvBytes int `config:"max_recv_bytes"`
	// MaxHeaderBytes is the size of the largest set of headers accepted. Default 64 KiB.
	MaxHeaderBytes int `config:"max_header_bytes"`
	// MaxStreams bounds the calls in flight on one connection; further ones wait at the client, until their
	// deadline. Default 10000.
	MaxStreams int `config:"max_streams"`
	// StreamWorkers keeps this many goroutines for calls, which saves growing a new stack for each: up to a fifth of what
	// a short call costs the server. Calls beyond run on goroutines of their own. Default 32, some 16 for each processor
	// of a small machine; 0 is a goroutine per call.
	StreamWorkers int `config:"stream_workers"`
	// ConnectionTimeout bounds the handshake of a connection. A connection that says nothing can delay a stop by as
	// much. Default 3 s.
	ConnectionTimeout time.Duration `config:"connection_timeout"`
	// KeepaliveTime is the silence after which the server asks a client whether it is there. Default 30 s.
	KeepaliveTime time.Duration `config:"keepalive_time"`
	// KeepaliveTimeout is how long it waits for that answer before it closes the connection. Default 10 s.
	KeepaliveTimeout time.Duration `config:"keepalive_timeout"`
	// KeepaliveMinTime is the shortest interval at which clients may ping; a client that pings more often is
	// disconnected. Default 5 s.
	KeepaliveMinTime time.Duration `config:"keepalive_min_time"`
	// MaxConnectionAge is the age, varied by 10 %, at which a client is asked to connect anew, so that rotated
	// certificates are looked at and load spreads. Default 30 min; 0 means never.
	MaxConnectionAge time.Duration `config:"max_connection_age"`
	// MaxConnectionAgeGrace is how long calls of such a connection may go on. Default 5 min; 0 means for ever.
	MaxConnectionAgeGrace time.Duration `config:"max_connection_age_grace"`
}

// Drain divides the time of a graceful stop. The server itself uses none of it: whoever stops it passes Soft and Hard
// to [Server.Stop] and waits for the window before.
type Drain struct {
	// MinWindow and MaxWindow bound the time in which a server that has left the registry still accepts calls,
	// because callers learn of it late. It ends before MaxWindow when no call has come for a while. Defaults 500 ms
	// and 5 s.
	MinWindow time.Duration `config:"min_window"`
	MaxWindow time.Duration `config:"max_window"`
	// Soft is when the contexts of streams are cancelled, counted from the beginning of the stop. Default 10 s.
	Soft time.Duration `config:"soft"`
	// Hard is when whatever still runs is cut. Default 20 s; keep it below the grace period of whoever kills the
	// process.
	Hard time.Duration `config:"hard"`
}

// DefaultConfig returns the defaults named at each field.
func DefaultConfig() Config {
	return Config{
		Listen:    ":9000",
		AccessLog: DefaultAccessLog(),
		Limits: Limits{
			MaxTimeout:            60 * time.Second,
			MaxRecvBytes:          4 << 20,
			MaxHeaderBytes:        64 << 10,
			MaxStreams:            10000,
			StreamWorkers:         32,
			ConnectionTimeout:     3 * time.Second,
			KeepaliveTime:         30 * time.Second,
			KeepaliveTimeout:      10 * time.Second,
			KeepaliveMinTime:      5 * time.Second,
			MaxConnectionAge:      30 * time.Minute,
			MaxConnectionAgeGrace: 5 * time.Minute,
		},
		Shedding: Shedding{Target: 10 * time.Millisecond, MinInFlight: 10},
		Drain:    Drain{MinWindow: 500 * time.Millisecond, MaxWindow: 5 * time.Second, Soft: 10 * time.Second, Hard: 20 * time.Second},
	}
}

// Validate reports the first field that makes no sense; the error starts with its key. It opens no file and no
// socket.
func (c Config) Validate() error {
	if _, port, err := net.SplitHostPort(c.Listen); err != nil || port == "" {
		return fmt.Errorf(`listen: %q is no host:port; write for example ":9000"`, c.Listen)
	}
	if err := c.TLS.Validate(); err != nil {
		return fmt.Errorf("tls.%w", err)
	}
	for _, name := range c.AcceptNames {
		if !isServiceName(name) {
			return fmt.Errorf("accept_names: %q is no service name; use lower-case letters, digits and single dashes, beginning with a letter", name)
		}
	}
	for name := range c.Chain {
		if !slices.Contains(slots(), name) {
			return fmt.Errorf("chain: unknown slot %q; the slots are %s", name, strings.Join(slots(), ", "))
		}
	}
	if err := c.AccessLog.validate(); err != nil {
		return fmt.Errorf("access_log.%w", err)
	}
	if err := c.Limits.validate(); err != nil {
		return fmt.Errorf("limits.%w", err)
	}
	if err := c.Shedding.validate(); err != nil {
		return fmt.Errorf("shedding.%w", err)
	}
	if err := validateRateLimits(c.RateLimits); err != nil {
		return err
	}
	if err := c.Drain.validate(); err != nil {
		return fmt.Errorf("drain.%w", err)
	}
	return nil
}

func (l Limits) validate() error {
	for _, f := range []struct {
		key string
		n   int
		max int64
	}{
		{"max_recv_bytes", l.MaxRecvBytes, math.MaxInt32},
		{"max_header_bytes", l.MaxHeaderBytes, math.MaxInt32},
		{"max_streams", l.MaxStreams, math.MaxInt32},
	} {
		if f.n <= 0 || int64(f.n) > f.max {
			return fmt.Errorf("%s: %d is out of range; use 1 to %d", f.key, f.n, f.max)
		}
	}
	if l.StreamWorkers < 0 || l.StreamWorkers > math.MaxInt16 {
		return fmt.Errorf("stream_workers: %d is out of range; use 0 to %d", l.StreamWorkers, math.MaxInt16)
	}
	for _, f := range []struct {
		key string
		d   time.Duration
		min time.Duration
	}{
		{"max_timeout", l.MaxTimeout, 0},
		{"min_timeout", l.MinTimeout, 0},
		{"answer_reserve", l.AnswerReserve, 0},
		{"connection_timeout", l.ConnectionTimeout, time.Millisecond},
		{"keepalive_time", l.KeepaliveTime, time.Second},
		{"keepalive_timeout", l.KeepaliveTimeout, time.Second},
		{"keepalive_min_time", l.KeepaliveMinTime, time.Millisecond},
		{"max_connection_age", l.MaxConnectionAge, 0},
		{"max_connection_age_grace", l.MaxConnectionAgeGrace, 0},
	} {
		if f.d < f.min {
			return fmt.Errorf("%s: %s is too short; use %s or more", f.key, f.d, f.min)
		}
	}
	return nil
}

func (d Drain) validate() error {
	switch {
	case d.MinWindow < 0:
		return fmt.Errorf("min_window: %s is negative; use 0 or more", d.MinWindow)
	case d.MaxWindow < d.MinWindow:
		return fmt.Errorf("max_window: %s is shorter than min_window %s; make it as long or longer", d.MaxWindow, d.MinWindow)
	case d.Soft < 0:
		return errors.New("soft: it is negative; use 0 or more")
	case d.Hard <= d.Soft:
		return fmt.Errorf("hard: %s does not leave streams any time after soft %s; make it longer", d.Hard, d.Soft)
	}
	return nil
}
