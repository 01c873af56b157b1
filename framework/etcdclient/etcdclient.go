// Package etcdclient makes the process' one *clientv3.Client with the settings that a long-lived client needs: it
// reconnects within two seconds however long etcd was away, notices links that died without a word, goes through no
// proxy, leaves its failed attempts to those whose calls they are, and logs other trouble once a minute at most.
//
// It holds no discovery and keeps no state of its own. [New] connects in the background: it neither blocks nor fails
// because etcd is down. In return a call made with the client waits for etcd as long as its context lets it, so every
// call needs a deadline; [Config.CallTimeout] is the one to use.
package etcdclient

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"

	"github.com/newsvc/newsvc/framework/certs"
	"github.com/newsvc/newsvc/framework/internal/etcdlink"
)

const (
	// reconnectMax bounds the wait between two attempts to connect. gRPC's own bound is 120 s: longer than any lease,
	// so that after a long outage every service would vanish once etcd is back. gRPC adds a fifth to it at most.
	reconnectMax = 1600 * time.Millisecond
	// keepAliveTime is how long a connection may be silent before it is probed; gRPC allows no less, etcd 5 s.
	keepAliveTime = 10 * time.Second
	// keepAliveTimeout is how long the answer to a probe may take. What hangs on a dead connection has then been without
	// etcd for 12 s, and 1 s is left of the 13 s within which all shall be well again.
	keepAliveTimeout = 2 * time.Second
	// unaryRetries is how often the client itself tries a call. Its own default, 100, hides errors for seconds; what
	// must be retried for ever is retried by those who know why.
	unaryRetries = 5
	retryPause   = 50 * time.Millisecond
	// logWindow is the time in which one message is logged once.
	logWindow = time.Minute
	// authPending stands in for the token until the first call fetched one. See withPassword.
	authPending = "pending"
)

// New returns a client for the cluster at cfg.Endpoints. It does not wait for etcd and does not fail because etcd is
// down or refuses the password; it reads the TLS files, which must exist. The caller closes the client, after all that
// uses it.
func New(cfg Config, log *zap.Logger) (*clientv3.Client, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if log == nil {
		log = zap.NewNop()
	}
	link := &etcdlink.Link{}
	conf := clientv3.Config{
		Endpoints:            cfg.Endpoints,
		DialTimeout:          cfg.CallTimeout, // bounds nothing but the wait for the first renewal of a lease
		DialKeepAliveTime:    keepAliveTime,
		DialKeepAliveTimeout: keepAliveTimeout,
		MaxUnaryRetries:      unaryRetries,
		BackoffWaitBetween:   retryPause,
		Logger:               quiet(log),
		Context:              link.Context(context.Background()),
		DialOptions: []grpc.DialOption{
			grpc.WithNoProxy(),
			etcdlink.LoginOnce(),
			grpc.WithConnectParams(grpc.ConnectParams{
				Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: reconnectMax},
				MinConnectTimeout: 3 * time.Second,
			}),
		},
	}
	if cfg.TLS.Active() {
		tlsConf, err := certs.Client(cfg.TLS, "", certs.Hosts(hosts(cfg.Endpoints)...), certs.AllowTLS12(), certs.LogTo(log))
		if err != nil {
			return nil, fmt.Errorf("tls: %w", err)
		}
		conf.TLS = tlsConf
	}
	conf.DialOptions = append(conf.DialOptions, link.DialOptions(conf.TLS)...)
	return withPassword(conf, cfg)
}

// withPassword makes the client and gives it its user. clientv3.New would fetch the token at once and fail when it
// can't; with a token given it does not ask, and after the token is taken away again the first call that needs one
// fetches it.
func withPassword(conf clientv3.Config, cfg Config) (*clientv3.Client, error) {
	if cfg.Username != "" {
		conf.Token = authPending
	}
	cli, err := clientv3.New(conf)
	if err != nil {
		return nil, fmt.Errorf("etcd client for %s: %w", strings.Join(cfg.Endpoints, ", "), err)
	}
	if cfg.Username != "" {
		cli.Token, cli.Username, cli.Password = "", cfg.Username, cfg.Password
	}
	return cli, nil
}

// quiet lets through warnings and errors, each text once in logWindow, but for those about single attempts: an outage would
// go on being told for as long as it lasts, beside the one line of whoever waits for its end.
func quiet(log *zap.Logger) *zap.Logger {
	return log.Named("etcd").WithOptions(
		zap.IncreaseLevel(zapcore.WarnLevel),
		zap.WrapCore(func(c zapcore.Core) zapcore.Core {
			return zapcore.NewSamplerWithOptions(withoutAttempts{c}, logWindow, 1, 0)
		}),
	)
}

// withoutAttempts drops what the client says of an attempt that failed: its caller gets the error. What is wrong with a
// certificate is told here alone, so that passes.
type withoutAttempts struct{ zapcore.Core }

// With implements [zapcore.Core].
func (c withoutAttempts) With(fields []zapcore.Field) zapcore.Core {
	return withoutAttempts{c.Core.With(fields)}
}

// Check implements [zapcore.Core].
func (c withoutAttempts) Check(e zapcore.Entry, to *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(e.Level) {
		return to.AddCore(e, c)
	}
	return to
}

// Write implements [zapcore.Core].
func (c withoutAttempts) Write(e zapcore.Entry, fields []zapcore.Field) error {
	if isAttempt(e.Message) && !slices.ContainsFunc(fields, tellsOfHandshake) {
		return nil
	}
	return c.Core.Write(e, fields)
}

func isAttempt(text string) bool {
	for _, attempt := range []string{"retrying ", "retry failed", "failed reestablishStream", "streamer failed", "error occurred during lease keep alive"} {
		if strings.HasPrefix(text, attempt) {
			return true
		}
	}
	return false
}

func tellsOfHandshake(f zapcore.Field) bool {
	err, ok := f.Interface.(error)
	return ok && strings.Contains(err.Error(), "handshake")
}

func hosts(endpoints []string) []string {
	out := make([]string, 0, len(endpoints))
	for _, ep := range endpoints {
		if host, _, err := net.SplitHostPort(withoutScheme(ep)); err == nil {
			out = append(out, host)
		}
	}
	return out
}
