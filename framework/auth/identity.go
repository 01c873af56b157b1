package auth

import (
	"context"
	"slices"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// Identity is who makes a call, as far as he has proved it: by a token, by the certificate of his connection, or by both.
// The lists are shared between calls; nobody may change them.
type Identity struct {
	// Subject is whom the token speaks of ("sub"); empty without a token.
	Subject string
	// Issuer is who issued the token.
	Issuer string
	// Scopes are what the token allows.
	Scopes []string
	// Expires is when the token ends.
	Expires time.Time
	// Service is the calling service, from its certificate: a service name, or a SPIFFE ID that stands for none. Empty
	// without a certificate, and with one that names nobody.
	Service string
	// SPIFFE is the SPIFFE ID in the certificate; empty if there is none.
	SPIFFE string

	claims map[string][]string
}

// Claim returns the values of a further claim of the token, nil if it has none that are text, numbers or booleans.
func (i Identity) Claim(name string) []string { return slices.Clone(i.claims[name]) }

// Name is the subject, or the service where there is no token. An issuer may have a subject of the same name as a
// service: what services may do is for rules to say, or for whoever looks at Service.
func (i Identity) Name() string {
	if i.Subject != "" {
		return i.Subject
	}
	return i.Service
}

// FromContext returns who makes the call that ctx belongs to. It is false when nobody has proved anything, or when
// authentication is off.
func FromContext(ctx context.Context) (Identity, bool) {
	c := callOf(ctx)
	if c == nil || c.token == nil && c.peer == nil {
		return Identity{}, false
	}
	var i Identity
	if c.token != nil {
		i = c.token.identity
	}
	if c.peer != nil {
		i.Service, i.SPIFFE = c.peer.service, c.peer.spiffe
	}
	return i, true
}

// Subject is [FromContext] for code that knows nothing of this package: the caller's [Identity.Name]. It has the type
// that domain code takes as a constructor parameter.
func Subject(ctx context.Context) (string, bool) {
	i, ok := FromContext(ctx)
	return i.Name(), ok
}

// Field returns a field that writes caller (the service) and subject beside the other fields of an entry, as far as they
// are known.
func Field(ctx context.Context) zap.Field {
	c := callOf(ctx)
	if c == nil || c.token == nil && c.peer == nil {
		return zap.Skip()
	}
	return zap.Field{Type: zapcore.InlineMarshalerType, Interface: c}
}

// call is a context that knows who makes its call. One allocation carries both; authentication fills it in, so that what
// runs around it, the access log for example, can see who it was.
type call struct {
	context.Context
	token *token
	peer  *peerID
	// nameless tells that there is a certificate, but none that says who calls.
	nameless bool
}

type callKey struct{}

// Value implements [context.Context].
func (c *call) Value(key any) any {
	if key == (callKey{}) {
		return c
	}
	return c.Context.Value(key)
}

func callOf(ctx context.Context) *call {
	c, _ := ctx.Value(callKey{}).(*call)
	return c
}

// MarshalLogObject implements [zapcore.ObjectMarshaler].
func (c *call) MarshalLogObject(enc zapcore.ObjectEncoder) error {
	if c.peer != nil && c.peer.service != "" {
		enc.AddString("caller", c.peer.service)
	}
	if c.token != nil {
		enc.AddString("subject", c.token.identity.Subject)
	}
	return nil
}
