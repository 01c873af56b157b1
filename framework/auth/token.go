package auth

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unsafe"

	jose "github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/json" // exact where that of the standard library takes "SUB" for "sub", and the last of two
	"github.com/go-jose/go-jose/v4/jwt"
)

const (
	// maxToken is the length of the longest token that is looked at.
	maxToken = 16 << 10
	// maxSubject is the length of the longest subject: it appears in logs.
	maxSubject = 256
	// maxKeysTried bounds the work that a token without a key id can cause.
	maxKeysTried = 8
)

// token is a verified token.
type token struct {
	identity Identity
	until    time.Time // when it ends, leeway included
	// bound is the hash of the certificate whose owner alone may use the token (RFC 8705); empty: whoever has it.
	bound string
}

// verifier checks tokens.
type verifier struct {
	cfg       JWTConfig
	audiences []string
	algs      []jose.SignatureAlgorithm
	keys      *keyStore
	cache     *tokenCache
}

// verify returns what a token says, or why it is refused.
func (v *verifier) verify(ctx context.Context, raw string) (*token, error) {
	now := time.Now()
	if err := v.keys.poke(ctx, now); err != nil {
		return nil, err // the call is over, or the keys are
	}
	if len(raw) > maxToken {
		return nil, refuse(reasonMalformed, fmt.Sprintf("it is longer than %d bytes", maxToken))
	}
	// The token is only read here. A copy of it would be the largest allocation of many a call.
	sum := sha256.Sum256(unsafe.Slice(unsafe.StringData(raw), len(raw)))
	t, age := v.cache.get(sum)
	if t == nil {
		var err error
		if t, err = v.check(ctx, raw, now); err != nil {
			return nil, err
		}
		v.cache.put(sum, t, age)
	}
	if now.After(t.until) {
		return nil, refuse(reasonExpired, "it ended at "+t.identity.Expires.UTC().Format(time.RFC3339))
	}
	return t, nil
}

// check does the work of verify. Nothing that a token claims is told or believed before its signature was good.
func (v *verifier) check(ctx context.Context, raw string, now time.Time) (*token, error) {
	parsed, err := jose.ParseSignedCompact(raw, v.algs)
	if err != nil {
		// The library's error quotes the algorithm and nothing else of the token.
		if _, odd := errors.AsType[*jose.ErrUnexpectedSignatureAlgorithm](err); odd {
			return nil, refuse(reasonAlgorithm, err.Error())
		}
		return nil, refuse(reasonMalformed, "it is no signed token in compact form")
	}
	header := parsed.Signatures[0].Header
	if !isAccessToken(header) {
		return nil, refuse(reasonMalformed, fmt.Sprintf("its type is %q", shorten(fmt.Sprint(header.ExtraHeaders[jose.HeaderType]))))
	}
	payload, err := v.signed(ctx, parsed, header)
	if err != nil {
		return nil, err
	}
	return v.read(payload, now)
}

// isAccessToken tells tokens for calling somebody from other things that an issuer signs with the same key.
func isAccessToken(h jose.Header) bool {
	typ, given := h.ExtraHeaders[jose.HeaderType]
	if !given {
		return true
	}
	text, _ := typ.(string)
	text = strings.TrimPrefix(strings.ToLower(text), "application/")
	return text == "jwt" || text == "at+jwt"
}

// signed returns the payload if one of the issuer's keys has signed it.
func (v *verifier) signed(ctx context.Context, parsed *jose.JSONWebSignature, h jose.Header) ([]byte, error) {
	keys, err := v.keys.find(ctx, h.KeyID, h.Algorithm)
	switch {
	case errors.Is(err, errNoKeys):
		return nil, refuse(reasonNoKeys, err.Error())
	case err != nil:
		return nil, err // the call is over
	case len(keys) == 0:
		return nil, refuse(reasonKey, fmt.Sprintf("no key of the issuer has the id %q and checks %s", shorten(h.KeyID), h.Algorithm))
	}
	for _, k := range keys[:min(len(keys), maxKeysTried)] {
		if payload, err := parsed.Verify(k.public); err == nil {
			return payload, nil
		}
	}
	return nil, refuse(reasonSignature, fmt.Sprintf("the signature is not of the key with the id %q", shorten(h.KeyID)))
}

// claims are those that mean something here.
type claims struct {
	jwt.Claims
	Scope string     `json:"scope"`
	Scp   stringList `json:"scp"`
	Cnf   *struct {
		Certificate string `json:"x5t#S256"`
	} `json:"cnf"`
}

// read believes a payload and looks at what it says.
func (v *verifier) read(payload []byte, now time.Time) (*token, error) {
	var c claims
	var all map[string]any
	whole := json.NewDecoder(bytes.NewReader(payload))
	whole.SetNumberType(json.UnmarshalJSONNumber) // as text: two large numbers may be one float
	if json.Unmarshal(payload, &c) != nil || whole.Decode(&all) != nil {
		return nil, refuse(reasonClaims, "its claims can't be read")
	}
	if c.Expiry == nil {
		return nil, refuse(reasonClaims, `it has no end ("exp")`)
	}
	if c.Subject == "" || len(c.Subject) > maxSubject {
		return nil, refuse(reasonClaims, fmt.Sprintf(`its subject ("sub") has %d bytes; 1 to %d are accepted`, len(c.Subject), maxSubject))
	}
	if c.Cnf != nil && c.Cnf.Certificate == "" {
		return nil, refuse(reasonBinding, "it is bound to its owner in a way that is not known here")
	}
	expected := jwt.Expected{Issuer: v.cfg.Issuer, AnyAudience: v.audiences, Time: now}
	if err := c.ValidateWithLeeway(expected, v.cfg.Leeway); err != nil {
		return nil, v.explain(err, c)
	}
	t := &token{
		identity: Identity{
			Subject: c.Subject, Issuer: c.Issuer, Expires: c.Expiry.Time(),
			Scopes: append(strings.Fields(c.Scope), c.Scp...), claims: further(all),
		},
		until: c.Expiry.Time().Add(v.cfg.Leeway),
	}
	if c.Cnf != nil {
		t.bound = c.Cnf.Certificate
	}
	return t, nil
}

// explain makes a refusal of what the library says of the claims.
func (v *verifier) explain(err error, c claims) error {
	switch {
	case errors.Is(err, jwt.ErrExpired):
		return refuse(reasonExpired, "it ended at "+c.Expiry.Time().UTC().Format(time.RFC3339))
	case errors.Is(err, jwt.ErrNotValidYet), errors.Is(err, jwt.ErrIssuedInTheFuture):
		return refuse(reasonEarly, "it begins in the future; if it should not, a clock is wrong, and auth.jwt.leeway is the tolerance")
	case errors.Is(err, jwt.ErrInvalidAudience):
		return refuse(reasonAudience, fmt.Sprintf("it is for %q, wanted is one of %q (auth.jwt.audiences)", shorten(strings.Join(c.Audience, ", ")), v.audiences))
	case errors.Is(err, jwt.ErrInvalidIssuer):
		return refuse(reasonIssuer, fmt.Sprintf("it is from %q, wanted is %q (auth.jwt.issuer)", shorten(c.Issuer), v.cfg.Issuer))
	}
	return refuse(reasonClaims, err.Error())
}

// further are the claims that rules may ask for, as text.
func further(all map[string]any) map[string][]string {
	out := make(map[string][]string, len(all))
	for name, value := range all {
		if slices.Contains([]string{"exp", "nbf", "iat", "jti", "cnf", "scope", "scp"}, name) {
			continue
		}
		list, ok := value.([]any)
		if !ok {
			list = []any{value}
		}
		for _, one := range list {
			switch one := one.(type) {
			case string:
				out[name] = append(out[name], one)
			case bool:
				out[name] = append(out[name], strconv.FormatBool(one))
			case json.Number:
				out[name] = append(out[name], one.String())
			}
		}
	}
	return out
}

// stringList is one text or a list of them: issuers write both.
type stringList []string

// UnmarshalJSON implements [json.Unmarshaler].
func (l *stringList) UnmarshalJSON(data []byte) error {
	var one string
	if json.Unmarshal(data, &one) == nil {
		*l = strings.Fields(one)
		return nil
	}
	return json.Unmarshal(data, (*[]string)(l))
}

// shorten keeps what a stranger wrote from filling the log.
func shorten(text string) string {
	const most = 100
	if len(text) > most {
		return strings.ToValidUTF8(text[:most], "") + "..."
	}
	return text
}

// thumbprint is how a token names the certificate that it is bound to.
func thumbprint(der []byte) string {
	sum := sha256.Sum256(der)
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// tokenCache remembers verified tokens by their hash, so that it holds none that could be stolen from it.
type tokenCache struct {
	most int

	mu    sync.RWMutex
	age   uint64 // counts the times that all was forgotten
	known map[[sha256.Size]byte]*token
}

// get returns a token, nil if it is not known, and the age that put wants to hear.
func (c *tokenCache) get(sum [sha256.Size]byte) (*token, uint64) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.known[sum], c.age
}

// put remembers a token, unless all was forgotten since age: it may have been checked with keys that no longer count.
func (c *tokenCache) put(sum [sha256.Size]byte, t *token, age uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.most == 0 || age != c.age {
		return
	}
	if len(c.known) >= c.most {
		c.makeRoomLocked(time.Now())
	}
	c.known[sum] = t
}

// makeRoomLocked forgets, of a few, those that have ended, and one in any case.
func (c *tokenCache) makeRoomLocked(now time.Time) {
	const few = 16
	seen := 0
	for sum, t := range c.known { // a map begins anywhere
		if seen++; now.After(t.until) || seen == few || len(c.known) >= c.most && seen == c.most {
			delete(c.known, sum)
		}
		if seen == few {
			return
		}
	}
}

// forget drops all tokens.
func (c *tokenCache) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.age++
	c.known = make(map[[sha256.Size]byte]*token)
}

// size is how many tokens are remembered.
func (c *tokenCache) size() int {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return len(c.known)
}
