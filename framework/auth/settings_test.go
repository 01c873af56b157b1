package auth_test

import (
	"encoding/pem"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/newsvc/newsvc/framework/certs"
)

func TestLeewayIsHowFarClocksMayBeApart(t *testing.T) {
	t.Parallel()
	iss := newIssuer(t, "k1")
	ended := iss.token(map[string]any{"exp": time.Now().Add(-2 * time.Minute).Unix()})
	for leeway, admitted := range map[time.Duration]bool{0: false, time.Minute: false, 5 * time.Minute: true} {
		cfg := config(iss.file())
		cfg.JWT.Leeway = leeway
		b := newBench(t, cfg)
		if admitted {
			b.admitted(read, ended)
		} else {
			b.refused(read, ended, codes.Unauthenticated, "TOKEN_EXPIRED", "", "")
		}
	}
}

func TestAlgorithmsAreThoseOfTheList(t *testing.T) {
	t.Parallel()
	iss := newIssuer(t, "k1")
	for _, algorithms := range [][]string{{"ES256"}, {"RS256", "ES256"}} {
		cfg := config(iss.file())
		cfg.JWT.Algorithms = algorithms
		newBench(t, cfg).admitted(read, iss.token(nil))
	}
	cfg := config(keysAddress) // its key checks nothing of this list, so that it counts as none
	cfg.JWT.Algorithms = []string{"ES384"}
	b := newBench(t, cfg, from(&keyServer{body: iss.set}))
	b.refused(read, iss.token(nil), codes.Unauthenticated, "TOKEN_INVALID", "can't be verified", "unexpected signature algorithm")
}

func TestRefreshAndMinRefreshSayHowOftenKeysAreRead(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		iss, forger := newIssuer(t, "k1"), newIssuer(t, "k2")
		keys := &keyServer{body: iss.set}
		cfg := config(keysAddress)
		cfg.JWT.Refresh, cfg.JWT.MinRefresh = time.Hour, 10*time.Minute
		b := newBench(t, cfg, from(keys))
		raw := iss.token(map[string]any{"exp": time.Now().Add(24 * time.Hour).Unix()})
		for range 50 {
			b.admitted(read, raw)
			pass(t, time.Minute)
		}
		if n := keys.times(); n != 1 {
			t.Errorf("in 50 minutes the keys were read %d times, want once", n)
		}
		for range 25 {
			b.refused(read, forger.token(nil), codes.Unauthenticated, "TOKEN_INVALID", "", "")
			pass(t, time.Minute)
		}
		if n := keys.times(); n < 3 || n > 5 {
			t.Errorf("after 25 minutes of unknown keys they were read %d times, want one for every ten", n)
		}
	})
}

func TestTimeoutBoundsWhatACallWaitsForKeys(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		iss := newIssuer(t, "k1")
		cfg := config(keysAddress)
		cfg.JWT.Timeout = 200 * time.Millisecond
		b := newBench(t, cfg, from(&keyServer{body: iss.set, hold: make(chan struct{})}))
		begin := time.Now()
		b.refused(read, iss.token(nil), codes.Unavailable, "NOT_PROCESSED", "", "")
		if took := time.Since(begin); took != 200*time.Millisecond {
			t.Errorf("the call waited %v, want 200ms", took)
		}
	})
}

func TestTheServerOfTheKeysIsChecked(t *testing.T) {
	t.Parallel()
	iss := newIssuer(t, "k1")
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(iss.set()) }))
	s.Config.ErrorLog = log.New(io.Discard, "", 0) // of the handshakes that are to fail
	s.StartTLS()
	t.Cleanup(s.Close)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	address := strings.Replace(s.URL, "127.0.0.1", "localhost", 1)
	for name, tc := range map[string]struct {
		tls  certs.ClientConfig
		want string // empty: it works
	}{
		"trusted, by name":            {certs.ClientConfig{CA: ca, ServerName: "example.com"}, ""},
		"trusted, another name":       {certs.ClientConfig{CA: ca, ServerName: "login.example.org"}, "login.example.org"},
		"by the system's authorities": {certs.ClientConfig{}, "certificate"},
	} {
		cfg := config(address)
		cfg.JWT.TLS = tc.tls
		b := newBench(t, cfg)
		err := b.auth.Ready(t.Context())
		if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", name, err, tc.want)
		}
		if tc.want == "" {
			b.admitted(read, iss.token(nil))
		}
	}
}
