package auth_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/newsvc/newsvc/framework/auth"
)

func TestAnUnknownKeyIsAskedForAtOnceAndNotTooOften(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		iss := newIssuer(t, "k1")
		keys := &keyServer{body: iss.set}
		b := newBench(t, config(keysAddress), from(keys))
		b.admitted(read, iss.token(nil))
		pass(t, 11*time.Second)
		iss.add("k2") // rotation: the next token is of a key that this server has never seen
		b.admitted(read, iss.token(nil))
		if n := keys.times(); n != 2 {
			t.Errorf("the keys were read %d times, want 2", n)
		}
		forger := newIssuer(t, "k3")
		for range 100 {
			b.refused(read, forger.token(nil), codes.Unauthenticated, "TOKEN_INVALID", "can't be verified", "no key of the issuer has the id")
		}
		if n := keys.times(); n != 2 {
			t.Errorf("the keys were read %d times, want no more after 100 tokens of unknown keys within min_refresh", n)
		}
		pass(t, 11*time.Second)
		for range 100 {
			b.refused(read, forger.token(nil), codes.Unauthenticated, "TOKEN_INVALID", "can't be verified", "")
		}
		if n := keys.times(); n != 3 {
			t.Errorf("the keys were read %d times, want one more for all tokens of unknown keys", n)
		}
	})
}

func TestCallsThatMeetAnUnknownKeyShareOneReading(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		iss := newIssuer(t, "k1")
		keys := &keyServer{body: iss.set, hold: make(chan struct{})}
		b := newBench(t, config(keysAddress), from(keys))
		done := make(chan error)
		for range 20 {
			go func() { _, err := b.call(anyone, iss.token(nil)); done <- err }()
		}
		synctest.Wait()
		close(keys.hold)
		for range 20 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		if n := keys.times(); n != 1 {
			t.Errorf("the keys were read %d times, want once", n)
		}
	})
}

func TestOldKeysAreReadAgainBesideTheCalls(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		iss := newIssuer(t, "k1")
		keys := &keyServer{body: iss.set}
		b := newBench(t, config(keysAddress), from(keys))
		raw := iss.token(nil)
		b.admitted(read, raw)
		pass(t, 6*time.Minute)
		keys.hold = make(chan struct{}) // the reading hangs, and the call does not wait for it
		begin := time.Now()
		b.admitted(read, raw)
		if took := time.Since(begin); took != 0 {
			t.Errorf("the call took %v, want it not to wait", took)
		}
		synctest.Wait()
		if n := keys.times(); n != 2 {
			t.Errorf("the keys were read %d times, want 2", n)
		}
		close(keys.hold)
	})
}

func TestAWithdrawnKeyCountsNoLongerThanRefreshEvenForRememberedTokens(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		iss := newIssuer(t, "k1")
		b := newBench(t, config(keysAddress), from(&keyServer{body: iss.set}))
		raw := iss.token(nil)
		b.admitted(read, raw)
		iss.add("k2")
		iss.drop()
		pass(t, time.Minute)
		b.admitted(read, raw)
		pass(t, 5*time.Minute)
		b.admitted(read, raw) // has the keys read beside it
		synctest.Wait()
		b.refused(read, raw, codes.Unauthenticated, "TOKEN_INVALID", "can't be verified", `has the id "k1"`)
		b.admitted(read, iss.token(nil))
	})
}

func TestTheLastGoodKeysStayInUseWhileTheirServerIsAway(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		iss := newIssuer(t, "k1")
		keys := &keyServer{body: iss.set}
		b := newBench(t, config(keysAddress), from(keys))
		b.admitted(read, iss.token(nil))
		keys.breaks(errAway)
		for range 20 {
			pass(t, time.Minute)
			b.admitted(read, iss.token(nil))
			synctest.Wait()
		}
		lines := b.logs.FilterMessageSnippet("last good ones stay in use").Len()
		if lines != 1 {
			t.Errorf("the outage was told %d times, want once:\n%s", lines, b.log())
		}
		if !strings.Contains(b.log(), errAway.Error()) {
			t.Errorf("the log does not say why:\n%s", b.log())
		}
		keys.breaks(nil)
		pass(t, time.Minute)
		b.admitted(read, iss.token(nil))
		synctest.Wait()
		if b.logs.FilterMessageSnippet("can be read again").Len() != 1 {
			t.Errorf("its end was not told:\n%s", b.log())
		}
	})
}

func TestABadKeySetKeepsTheGoodOne(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		iss := newIssuer(t, "k1")
		body := iss.set
		keys := &keyServer{body: func() []byte { return body() }}
		b := newBench(t, config(keysAddress), from(keys))
		b.admitted(read, iss.token(nil))
		for _, bad := range []string{"<html>down for maintenance</html>", `{"keys": []}`, `{}`} {
			body = func() []byte { return []byte(bad) }
			pass(t, 6*time.Minute)
			b.admitted(read, iss.token(nil))
			synctest.Wait()
			b.admitted(read, iss.token(nil))
		}
	})
}

// Without keys nobody can tell a good token from a bad one. The caller hears that another instance may know more, and no
// handler ran.
func TestWithoutKeysATokenIsNotCalledBad(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		iss := newIssuer(t, "k1")
		keys := &keyServer{body: iss.set, fail: errAway}
		b := newBench(t, config(keysAddress), from(keys))
		b.refused(read, iss.token(nil), codes.Unavailable, "NOT_PROCESSED", "try again", errAway.Error())
		if err := b.auth.Ready(t.Context()); err == nil || !strings.Contains(err.Error(), errAway.Error()) {
			t.Errorf("Ready = %v, want the reason", err)
		}
		keys.breaks(nil)
		pass(t, 2*time.Second)
		if err := b.auth.Ready(t.Context()); err != nil {
			t.Errorf("Ready = %v", err)
		}
		b.admitted(read, iss.token(nil))
	})
}

func TestAReadingOfKeysThatHangsIsBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		keys := &keyServer{body: newIssuer(t, "k1").set, hold: make(chan struct{})}
		b := newBench(t, config(keysAddress), from(keys))
		begin := time.Now()
		b.refused(read, newIssuer(t, "k1").token(nil), codes.Unavailable, "NOT_PROCESSED", "try again", "")
		if took := time.Since(begin); took > 3*time.Second {
			t.Errorf("the call waited %v, want auth.jwt.timeout at most", took)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		pass(t, 2*time.Second)
		if err := b.auth.Ready(ctx); err == nil {
			t.Error("ready without keys")
		}
		b.auth.Close() // while a reading hangs
	})
}

func TestAChangedFileIsRead(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		iss := newIssuer(t, "k1")
		file := iss.file()
		b := newBench(t, config(file))
		b.admitted(read, iss.token(nil))
		pass(t, 11*time.Second)
		iss.add("k2")
		if err := os.WriteFile(file, iss.set(), 0o600); err != nil {
			t.Fatal(err)
		}
		b.admitted(read, iss.token(nil))
	})
}

func TestATokenWithoutAKeyIDIsTriedWithAllKeys(t *testing.T) {
	t.Parallel()
	iss := newIssuer(t, "k1", "k2")
	b := newBench(t, config(iss.file()))
	iss.keys[1].KeyID = ""
	b.admitted(read, iss.token(nil))
}

// This one is read over real HTTP.
func TestKeysAreFetchedFromTheirAddress(t *testing.T) {
	t.Parallel()
	iss := newIssuer(t, "k1")
	var mode atomic.Value
	mode.Store("good")
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch mode.Load() {
		case "good":
			_, _ = w.Write(iss.set())
		case "moved":
			http.Redirect(w, r, "http://elsewhere.example.com/keys.json", http.StatusFound)
		case "large":
			_, _ = w.Write(make([]byte, 2<<20))
		default:
			http.Error(w, "no", http.StatusInternalServerError)
		}
	}))
	defer s.Close()
	b := newBench(t, config(s.URL))
	b.admitted(read, iss.token(nil))
	for wrong, want := range map[string]string{"broken": "500", "moved": "without TLS", "large": "larger than"} {
		mode.Store(wrong)
		b := newBench(t, config(s.URL))
		if err := b.auth.Ready(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: Ready = %v, want %q", wrong, err, want)
		}
	}
}

func TestSettingsThatMakeNoSenseAreRefused(t *testing.T) {
	t.Parallel()
	for want, change := range map[string]func(*auth.Config){
		`jwt.jwks: not set`:                          func(c *auth.Config) { c.JWT.JWKS = "" },
		`jwt.jwks: "http://a.example.com/k" is read`: func(c *auth.Config) { c.JWT.JWKS = "http://a.example.com/k" },
		`jwt.jwks: the address at "a.example.com"`:   func(c *auth.Config) { c.JWT.JWKS = "https://me:hunter2@a.example.com/k" },
		`jwt.jwks: "ftp://a/k" is no address`:        func(c *auth.Config) { c.JWT.JWKS = "ftp://a/k" },
		`jwt.issuer: not set`:                        func(c *auth.Config) { c.JWT.Issuer = "" },
		`jwt.algorithms: none given`:                 func(c *auth.Config) { c.JWT.Algorithms = nil },
		`jwt.algorithms: "HS256" is not accepted`:    func(c *auth.Config) { c.JWT.Algorithms = []string{"HS256"} },
		`jwt.algorithms: "none" is not accepted`:     func(c *auth.Config) { c.JWT.Algorithms = []string{"RS256", "none"} },
		`jwt.leeway: "1h0m0s" is out of bounds`:      func(c *auth.Config) { c.JWT.Leeway = time.Hour },
		`jwt.refresh: "0s" is out of bounds`:         func(c *auth.Config) { c.JWT.Refresh = 0 },
		`jwt.min_refresh: "1ms" is out of bounds`:    func(c *auth.Config) { c.JWT.MinRefresh = time.Millisecond },
		`jwt.timeout: "0s" is out of bounds`:         func(c *auth.Config) { c.JWT.Timeout = 0 },
		`jwt.cache: -1 is negative`:                  func(c *auth.Config) { c.JWT.Cache = -1 },
		`jwt.tls: set, but "keys.json" is not read`:  func(c *auth.Config) { c.JWT.JWKS, c.JWT.TLS.Enabled = "keys.json", true },
		`mtls.spiffe: "spiffe://a/b" does not say`:   func(c *auth.Config) { c.MTLS.SPIFFE = "spiffe://a/b" },
		`enabled: false, but there are rules`:        func(c *auth.Config) { c.Enabled = false },
		`rules: number 1: methods: none given`:       func(c *auth.Config) { c.Rules = []auth.Rule{{Anyone: true}} },
		`rules: number 1: methods: "user" is no`:     func(c *auth.Config) { c.Rules = []auth.Rule{{Methods: []string{"user"}, Anyone: true}} },
		`rules: number 1: it says of nobody`:         func(c *auth.Config) { c.Rules = []auth.Rule{{Methods: []string{"*"}}} },
		`rules: number 1: anyone: true, but`: func(c *auth.Config) {
			c.Rules = []auth.Rule{{Methods: []string{"*"}, Anyone: true, Scopes: []string{"a"}}}
		},
		`rules: number 1: claims: "tenant" has no`: func(c *auth.Config) {
			c.Rules = []auth.Rule{{Methods: []string{"*"}, Claims: map[string][]string{"tenant": nil}}}
		},
		`rules: number 1: a list has an empty entry`: func(c *auth.Config) { c.Rules = []auth.Rule{{Methods: []string{"*"}, Services: []string{""}}} },
	} {
		c := config(keysAddress)
		change(&c)
		err := c.Validate()
		if err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%v, want it to begin with %q", err, want)
		}
		if err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("the error shows a password: %v", err)
		}
	}
	if err := auth.DefaultConfig().Validate(); err != nil {
		t.Error(err)
	}
}
