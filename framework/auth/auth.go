// Package auth finds out who makes a call, by a bearer token, by the certificate of the connection or by both, and
// decides whether he may make it. It is a pair of plain interceptors: [Auth.Authenticate] for the first, which puts the
// [Identity] where [FromContext] finds it, and [Auth.Authorize] for the second.
//
// It issues no tokens, keeps no users and makes no TLS connections: certificates are verified before a call comes here.
// [New] reads files and starts nothing; keys from an address are read from the first call on, or from [Auth.Ready].
// [Auth.Close] joins what runs.
//
// What a refused caller is told is meant for an honest one: that his token has expired, or which scope it lacks. Why a
// token can't be verified stands in the log of the server only, once a minute at most for each reason.
package auth

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	jose "github.com/go-jose/go-jose/v4"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/newsvc/newsvc/framework/certs"
)

// Params are what authentication and authorization are made of.
type Params struct {
	// Service is the own name: the audience of tokens unless the configuration says otherwise. Required.
	Service string
	// Config usually starts from [DefaultConfig].
	Config Config
	// Log may be nil for silence.
	Log *zap.Logger
	// Transport fetches the key set; nil for one of its own that checks the server as Config.JWT.TLS says.
	Transport http.RoundTripper
}

// Auth authenticates and authorizes calls. Its methods may be called from any goroutine.
type Auth struct {
	cfg      Config
	log      *zap.Logger
	verifier *verifier // nil: tokens are not accepted
	peers    *peers
	callers  *callers
	policy   atomic.Pointer[policy]
	refused  *refusalLog
}

// New reads the files of the configuration. Errors start with the key at fault, below "auth".
func New(p Params) (*Auth, error) {
	if err := p.Config.Validate(); err != nil {
		return nil, err
	}
	if p.Service == "" {
		return nil, errors.New("making authentication: no service is named; set Params.Service")
	}
	if p.Log == nil {
		p.Log = zap.NewNop()
	}
	c := newCallers()
	a := &Auth{
		cfg: p.Config, log: p.Log, callers: c, peers: newPeers(p.Config.MTLS, c),
		refused: &refusalLog{log: p.Log, told: map[refusalKind]*telling{}},
	}
	a.policy.Store(&policy{})
	if p.Config.JWT.JWKS == "" {
		return a, nil
	}
	load, err := loader(p.Config.JWT, p.Transport, certs.LogTo(p.Log))
	if err != nil {
		return nil, errors.New("jwt." + err.Error())
	}
	v := &verifier{cfg: p.Config.JWT, audiences: p.Config.JWT.Audiences, cache: &tokenCache{most: p.Config.JWT.Cache}}
	v.cache.forget()
	if len(v.audiences) == 0 {
		v.audiences = []string{p.Service}
	}
	for _, alg := range p.Config.JWT.Algorithms {
		v.algs = append(v.algs, jose.SignatureAlgorithm(alg))
	}
	v.keys = &keyStore{cfg: p.Config.JWT, load: load, log: p.Log, changed: v.cache.forget}
	a.verifier = v
	return a, nil
}

// Bind tells which methods the server serves, as "/package.Service/Method"; before it every method is closed to
// everybody. The error is about rules for methods that are not served, and names what may have been meant. Methods that
// nobody may call are told to the log: that may be meant, and is more often forgotten.
func (a *Auth) Bind(methods []string) error {
	p, err := newPolicy(a.cfg, methods)
	if err != nil {
		return err
	}
	if closed := p.closed(); len(closed) > 0 {
		a.log.Warn("nobody may call these methods: no rule of auth.rules and no option in a .proto file speaks of them", zap.Strings("methods", closed))
	}
	a.policy.Store(&p)
	return nil
}

// Ready is a readiness check: it fails until the keys of tokens could be read once, and has them read.
func (a *Auth) Ready(ctx context.Context) error {
	if a.verifier == nil {
		return nil
	}
	return a.verifier.keys.ready(ctx)
}

// Close ends a reading of keys that is under way, and waits for that.
func (a *Auth) Close() {
	if a.verifier != nil {
		a.verifier.keys.close()
	}
}

// Stats is what can be told of the keys of tokens; zero where no tokens are taken.
type Stats struct {
	// Keys is the number of keys in use.
	Keys int
	// KeysAge is how long ago they could be read last, whether that brought other ones or not; 0 before the first time.
	// While nobody calls they are not read.
	KeysAge time.Duration
	// KeysError is why the last reading failed, empty after a good one. It may hold the address they are read from.
	KeysError string
}

// Stats returns the present state. It waits for nothing.
func (a *Auth) Stats() Stats {
	if a.verifier == nil {
		return Stats{}
	}
	return a.verifier.keys.stats(time.Now())
}

// Metrics counts calls by caller and by what became of them.
func (a *Auth) Metrics() prometheus.Collector { return a.callers.total }

// Around returns the interceptors that stand outside of those that want to tell who called, such as an access log. They
// know no more than the others; what [Auth.Authenticate] finds out is seen by [FromContext] here too when the call has
// come back.
func (a *Auth) Around() (grpc.UnaryServerInterceptor, grpc.StreamServerInterceptor) {
	return func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
			return handler(&call{Context: ctx}, req)
		}, func(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
			return handler(srv, &stream{ServerStream: ss, call: &call{Context: ss.Context()}})
		}
}

// Authenticate returns the interceptors that find out who calls. They refuse credentials that are no good; a call that
// brings none passes, as nobody's.
func (a *Auth) Authenticate() (grpc.UnaryServerInterceptor, grpc.StreamServerInterceptor) {
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
			if a.open(info.FullMethod) {
				return handler(ctx, req)
			}
			c := callOf(ctx)
			if c == nil {
				c = &call{Context: ctx}
				ctx = c
			}
			if err := a.identify(ctx, c, info.FullMethod); err != nil {
				return nil, err
			}
			return handler(ctx, req)
		}, func(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
			if a.open(info.FullMethod) {
				return handler(srv, ss)
			}
			c := callOf(ss.Context())
			if c == nil {
				c = &call{Context: ss.Context()}
				ss = &stream{ServerStream: ss, call: c}
			}
			if err := a.identify(ss.Context(), c, info.FullMethod); err != nil {
				return err
			}
			return handler(srv, ss)
		}
}

// Authorize returns the interceptors that decide whether the caller may. They stand inside of those of
// [Auth.Authenticate]; without them everybody is nobody.
func (a *Auth) Authorize() (grpc.UnaryServerInterceptor, grpc.StreamServerInterceptor) {
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
			if err := a.admit(ctx, info.FullMethod); err != nil {
				return nil, err
			}
			return handler(ctx, req)
		}, func(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
			if err := a.admit(ss.Context(), info.FullMethod); err != nil {
				return err
			}
			return handler(srv, ss)
		}
}

// stream is a stream whose context knows its caller.
type stream struct {
	grpc.ServerStream
	call *call
}

// Context returns the context that knows the caller.
func (s *stream) Context() context.Context { return s.call }

// open tells whether a method is beyond all rules.
func (a *Auth) open(method string) bool { return a.cfg.OpenHealth && isHealth(method) }

// identify fills in who makes a call.
func (a *Auth) identify(ctx context.Context, c *call, method string) error {
	at := a.peers.of(ctx)
	switch {
	case at == nil:
	case at.service == "":
		c.nameless = true
	default:
		c.peer = at
	}
	values := metadata.ValueFromIncomingContext(ctx, "authorization")
	if len(values) == 0 {
		return nil
	}
	if a.verifier == nil {
		return a.refuse(c, method, &refusal{reason: reasonUnwanted, detail: "auth.jwt.jwks is not set"})
	}
	raw, ok := bearer(values)
	if !ok {
		return a.refuse(c, method, &refusal{reason: reasonScheme, detail: "it is something else"})
	}
	t, err := a.verifier.verify(ctx, raw)
	if err == nil && t.bound != "" && (at == nil || at.thumb != t.bound) {
		err = refuse(reasonBinding, "it is bound to another certificate than that of the connection")
	}
	if err != nil {
		return a.refuse(c, method, err)
	}
	c.token = t
	return nil
}

// bearer is the token of the metadata. More than one would leave open which of them counts.
func bearer(values []string) (string, bool) {
	if len(values) != 1 {
		return "", false
	}
	scheme, raw, ok := strings.Cut(values[0], " ")
	return strings.TrimSpace(raw), ok && strings.EqualFold(scheme, "bearer")
}

// admit decides, counts, and tells of what was refused.
func (a *Auth) admit(ctx context.Context, method string) error {
	if a.open(method) {
		return nil
	}
	c := callOf(ctx)
	if r := (*a.policy.Load())[method].admit(c, method); r != nil {
		return a.refuse(c, method, r)
	}
	a.callers.by(c).counts[decisionAdmitted].Inc()
	return nil
}

// refuse counts a refusal and tells of it, and returns what the caller gets.
func (a *Auth) refuse(c *call, method string, err error) error {
	r, ok := errors.AsType[*refusal](err)
	if !ok { // the call is over
		return status.FromContextError(err).Err()
	}
	by, decision, field := a.callers.by(c), decisionUnauthenticated, zap.Skip()
	if slices.Contains([]reason{reasonForbidden, reasonScope, reasonNobody}, r.reason) {
		decision = decisionDenied
	}
	if c != nil {
		field = Field(c)
	}
	by.counts[decision].Inc()
	a.refused.tell(r, by.name, method, field)
	return r.status()
}

// by is whom a call counts for.
func (c *callers) by(of *call) *caller {
	switch {
	case of != nil && of.peer != nil:
		return of.peer.caller
	case of != nil && of.token != nil:
		return c.token
	}
	return c.anonymous
}
