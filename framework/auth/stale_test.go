package auth_test

import (
	"crypto/sha256"
	"encoding/base64"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/newsvc/newsvc/framework/auth"
)

// Keys that can't be read anew may have been withdrawn. That is tolerated for a day and no longer, however it is that
// they can't be read.
func TestKeysThatCouldNotBeReadForADayCountNoMore(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		body string
		fail error
		why  string
	}{
		"their server is away":   {"", errAway, errAway.Error()},
		"the set is empty":       {`{"keys": []}`, nil, "none of its 0 keys"},
		"it is something else":   {"<html>down for maintenance</html>", nil, "no JSON Web Key Set"},
		"all are of another use": {`{"keys": [{"kty":"oct","k":"AAAA"}]}`, nil, "symmetric"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				iss := newIssuer(t, "k1")
				body := iss.set
				keys := &keyServer{body: func() []byte { return body() }}
				b := newBench(t, config(keysAddress), from(keys))
				week := map[string]any{"exp": time.Now().Add(7 * 24 * time.Hour).Unix()}
				remembered := iss.token(week)
				b.admitted(read, remembered)
				body = func() []byte { return []byte(tc.body) }
				keys.breaks(tc.fail)
				for range 23 {
					pass(t, time.Hour)
					b.admitted(read, remembered)
					synctest.Wait()
				}
				b.admitted(read, iss.token(week))
				pass(t, 61*time.Minute)
				for _, token := range []string{remembered, iss.token(map[string]any{"sub": "bob"})} {
					b.refused(read, token, codes.Unavailable, "NOT_PROCESSED", "can't be verified at present", "could not be read for 24h1m0s")
				}
				if !strings.Contains(b.log(), tc.why) {
					t.Errorf("the log does not say why:\n%s", b.log())
				}
				pass(t, time.Hour)
				b.refused(read, remembered, codes.Unavailable, "NOT_PROCESSED", "can't be verified at present", "")
				if n := b.logs.FilterMessageSnippet("too old to be trusted").Len(); n != 1 {
					t.Errorf("that they are too old was told %d times, want once:\n%s", n, b.log())
				}
				body = iss.set
				keys.breaks(nil)
				pass(t, 11*time.Second)
				b.admitted(read, remembered) // the same call has them read
				if b.logs.FilterMessageSnippet("can be read again").Len() != 1 {
					t.Errorf("the end was not told:\n%s", b.log())
				}
			})
		})
	}
}

// Nothing is read while nobody calls, which is no reason to refuse the first one who does.
func TestKeysAreNotTooOldAfterQuietDays(t *testing.T) {
	t.Parallel()
	for _, refresh := range []time.Duration{5 * time.Minute, 24 * time.Hour} {
		synctest.Test(t, func(t *testing.T) {
			iss := newIssuer(t, "k1")
			cfg := config(keysAddress)
			cfg.JWT.Refresh = refresh
			keys := &keyServer{body: iss.set}
			b := newBench(t, cfg, from(keys))
			token := iss.token(map[string]any{"exp": time.Now().Add(1000 * time.Hour).Unix()})
			for _, quiet := range []time.Duration{time.Minute, 25 * time.Hour, 47 * time.Hour, 100 * time.Hour} {
				pass(t, quiet)
				b.admitted(read, token)
				synctest.Wait()
			}
			keys.breaks(errAway) // a failure, and then nobody calls
			pass(t, 25*time.Hour)
			_, _ = b.call(read, token)
			synctest.Wait()
			keys.breaks(nil)
			pass(t, 80*time.Hour)
			b.admitted(read, token)
		})
	}
}

func TestStatsTellHowOldTheKeysAre(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		iss := newIssuer(t, "k1", "k2")
		keys := &keyServer{body: iss.set, fail: errAway}
		b := newBench(t, config(keysAddress), from(keys))
		if got := b.auth.Stats(); got != (auth.Stats{}) {
			t.Errorf("before the first reading: %+v", got)
		}
		_ = b.auth.Ready(t.Context())
		if got := b.auth.Stats(); got.Keys != 0 || got.KeysAge != 0 || !strings.Contains(got.KeysError, errAway.Error()) {
			t.Errorf("before the first good one: %+v", got)
		}
		keys.breaks(nil)
		pass(t, 2*time.Second)
		b.admitted(read, iss.token(nil))
		keys.breaks(errAway)
		pass(t, 6*time.Minute)
		b.admitted(read, iss.token(nil))
		synctest.Wait()
		if got := b.auth.Stats(); got.Keys != 2 || got.KeysAge != 6*time.Minute || !strings.Contains(got.KeysError, errAway.Error()) {
			t.Errorf("six minutes after the last good one: %+v", got)
		}
		keys.breaks(nil)
		pass(t, time.Minute)
		b.admitted(read, iss.token(nil))
		synctest.Wait()
		pass(t, time.Second)
		if got, want := b.auth.Stats(), (auth.Stats{Keys: 2, KeysAge: time.Second}); got != want { // the content is the same
			t.Errorf("after another good one: %+v, want %+v", got, want)
		}
	})
	cfg := config("")
	cfg.JWT.JWKS, cfg.JWT.Issuer = "", ""
	if got := newBench(t, cfg).auth.Stats(); got != (auth.Stats{}) {
		t.Errorf("without tokens: %+v", got)
	}
}

// With mtls.spiffe the trust domain says who is a service. A certificate without an ID may be of an authority that also
// issues to others, for names that they choose.
func TestADNSNameIsNoServiceWhereSPIFFEIDsAre(t *testing.T) {
	t.Parallel()
	ca, iss := newAuthority(t), newIssuer(t, "k1")
	pair := ca.issue("", "gateway")
	for _, rule := range []auth.Rule{{Services: []string{"gateway"}}, {Authenticated: true}} {
		rule.Methods = on("authtest.v1.Plain/*")
		cfg := config(iss.file())
		cfg.MTLS.SPIFFE = "spiffe://example.org/sa/{service}"
		cfg.Rules = []auth.Rule{rule}
		b := newBench(t, cfg, ca.presenting(pair))
		b.refused(read, "", codes.Unauthenticated, "CREDENTIALS_MISSING", "", "its certificate names no service")
		if !rule.Authenticated {
			b.refused(read, iss.token(nil), codes.PermissionDenied, "CALLER_NOT_ADMITTED", "not admitted", "")
			continue
		}
		// What it is good for is a token that is bound to it.
		sum := sha256.Sum256(pair.Certificate[0])
		b.admitted(read, iss.token(map[string]any{"cnf": map[string]any{"x5t#S256": base64.RawURLEncoding.EncodeToString(sum[:])}}))
		if id, _ := auth.FromContext(b.seen()); id.Service != "" || id.Subject != "ann" {
			t.Errorf("identity = %+v, want no service", id)
		}
	}
}
