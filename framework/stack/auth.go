package stack

import (
	"context"
	"errors"
	"fmt"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"google.golang.org/grpc"

	"github.com/newsvc/newsvc/framework/auth"
	"github.com/newsvc/newsvc/framework/logging"
	"github.com/newsvc/newsvc/framework/server"
)

// Identity is who makes a call; see [Caller].
type Identity = auth.Identity

// Caller is who makes the call that ctx belongs to; false when nobody has proved anything, or auth is off.
func Caller(ctx context.Context) (Identity, bool) { return auth.FromContext(ctx) }

// Subject is the name of the caller alone, for domain code that takes a func(context.Context) (string, bool).
func Subject(ctx context.Context) (string, bool) { return auth.Subject(ctx) }

// authCheck is the name of the readiness check of the keys of tokens.
const authCheck = "auth"

// buildAuth makes authentication and authorization, if they are switched on. A configuration by which nobody could ever
// come in, or which seems to protect what it does not, is a mistake.
func (s *Stack) buildAuth() error {
	c := s.p.Config
	switch {
	case !c.Auth.Enabled:
		return nil
	case !s.p.Serves:
		return errors.New("auth.enabled: true, but this process serves no gRPC, and what comes over HTTP is not checked by it; switch it on in the services that are called")
	case c.Auth.JWT.JWKS == "" && c.Server.TLS.ClientCA == "":
		return errors.New("auth.enabled: true, but nobody can prove who he is; set auth.jwt.jwks for tokens, server.tls.client_ca for client certificates, or both")
	}
	a, err := auth.New(auth.Params{Service: s.p.Service, Config: c.Auth, Log: s.log.Named("auth")})
	if err != nil {
		return fmt.Errorf("auth.%w", err)
	}
	s.auth = a
	if c.Auth.JWT.JWKS != "" {
		s.readiness.Add(authCheck, a.Ready)
		if !c.Server.TLS.Enabled() && !s.p.Process.Dev {
			s.log.Warn("tokens come over connections without TLS, where anybody on the way can take them; set server.tls, unless something in front does TLS")
		}
		if err := s.telemetry.Registerer().Register(newAuthKeyMetrics(a.Stats)); err != nil {
			return err
		}
	}
	return s.telemetry.Registerer().Register(a.Metrics())
}

// fillAuth puts authentication and authorization into their slots.
func (s *Stack) fillAuth(fill map[string]server.Interceptor, opts []server.Option) []server.Option {
	if s.auth == nil {
		return opts
	}
	link := func(name string, both func() (grpc.UnaryServerInterceptor, grpc.StreamServerInterceptor)) server.Interceptor {
		unary, stream := both()
		return server.Interceptor{Name: name, Unary: unary, Stream: stream}
	}
	fill[server.SlotAuthentication] = link("authentication", s.auth.Authenticate)
	fill[server.SlotAuthorization] = link("authorization", s.auth.Authorize)
	// Outside of access log and recovery, whose lines say who called.
	return append(opts, server.After(server.SlotTelemetry, link("caller", s.auth.Around)))
}

// bindAuth tells which methods there are, before the first call can come.
func (s *Stack) bindAuth() error {
	if s.auth == nil {
		return nil
	}
	return s.auth.Bind(s.server.Methods())
}

// logContext returns what log lines of the server say of a call: its trace, and who makes it.
func (s *Stack) logContext() func(context.Context) zap.Field {
	if s.auth == nil {
		return logging.Ctx
	}
	return func(ctx context.Context) zap.Field {
		return zap.Field{Type: zapcore.InlineMarshalerType, Interface: callField{ctx}}
	}
}

// callField is a context as well as a marshaler, so that a core which hands entries to OpenTelemetry finds the span in it.
type callField struct{ context.Context }

// MarshalLogObject implements [zapcore.ObjectMarshaler].
func (f callField) MarshalLogObject(enc zapcore.ObjectEncoder) error {
	logging.Ctx(f.Context).AddTo(enc)
	auth.Field(f.Context).AddTo(enc)
	return nil
}
