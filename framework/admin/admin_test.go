package admin_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/newsvc/newsvc/framework/admin"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// says returns a handler that answers with its method and a word.
func says(word string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.Method+" "+word) })
}

func all() admin.Handlers {
	return admin.Handlers{Ready: says("ready"), Metrics: says("metrics"), LogLevel: says("level"), Config: says("config"), Discovery: says("discovery")}
}

func ask(t *testing.T, h http.Handler, method, path string, header http.Header) (int, string) {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), method, "http://127.0.0.1:9001"+path, nil)
	maps.Copy(r.Header, header)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Code, w.Body.String()
}

func TestEveryPageAnswers(t *testing.T) {
	t.Parallel()
	h := admin.Handler(all(), true)
	for path, want := range map[string]string{
		"/healthz": "ok", "/readyz": "GET ready", "/metrics": "GET metrics", "/log/level": "GET level", "/debug/config": "GET config",
		"/debug/discovery": "GET discovery", "/debug/pprof/": "goroutine", "/debug/pprof/goroutine?debug=1": "goroutine profile",
		"/debug/pprof/cmdline": "admin.test",
	} {
		if code, body := ask(t, h, http.MethodGet, path, nil); code != http.StatusOK || !strings.Contains(body, want) {
			t.Errorf("%s: %d %.80q, want %q", path, code, body, want)
		}
	}
}

func TestIndexListsWhatIsMounted(t *testing.T) {
	t.Parallel()
	_, full := ask(t, admin.Handler(all(), true), http.MethodGet, "/", nil)
	for _, path := range []string{"/healthz", "/readyz", "/metrics", "/log/level", "/debug/config", "/debug/discovery", "/debug/pprof/"} {
		if !strings.Contains(full, `href="`+path+`"`) {
			t.Errorf("the index misses %s", path)
		}
	}
	h := admin.Handler(admin.Handlers{Ready: says("ready")}, false)
	_, short := ask(t, h, http.MethodGet, "/", nil)
	for _, path := range []string{"/metrics", "/log/level", "/debug/config", "/debug/discovery", "/debug/pprof/"} {
		if strings.Contains(short, path) {
			t.Errorf("the index lists %s, which is not mounted", path)
		}
		if code, body := ask(t, h, http.MethodGet, path, nil); code != http.StatusNotFound || !strings.Contains(body, `no page "`+path+`" here`) {
			t.Errorf("%s: %d %q, want 404 that says so", path, code, body)
		}
	}
}

func TestForeignPagesCannotChangeAnything(t *testing.T) {
	t.Parallel()
	h := admin.Handler(all(), true)
	for name, tc := range map[string]struct {
		header http.Header
		want   int
	}{
		"curl":                      {nil, http.StatusOK},
		"a page of the same site":   {http.Header{"Sec-Fetch-Site": {"same-origin"}}, http.StatusOK},
		"a page of another site":    {http.Header{"Sec-Fetch-Site": {"cross-site"}}, http.StatusForbidden},
		"another site, old browser": {http.Header{"Origin": {"https://evil.example"}}, http.StatusForbidden},
	} {
		if code, _ := ask(t, h, http.MethodPut, "/log/level", tc.header); code != tc.want {
			t.Errorf("PUT from %s: %d, want %d", name, code, tc.want)
		}
	}
}

func TestServesOnItsListener(t *testing.T) {
	t.Parallel()
	cfg := admin.DefaultConfig()
	cfg.Listen = "127.0.0.1:0"
	s, err := admin.New(cfg, all(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Listen(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	tr := &http.Transport{}
	defer tr.CloseIdleConnections()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+s.Addr()+"/readyz", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := (&http.Client{Transport: tr}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Errorf("status = %d", resp.StatusCode)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := s.Close(ctx); err != nil {
		t.Errorf("Close = %v", err)
	}
}

func TestMistakesInTheConfigAreErrors(t *testing.T) {
	t.Parallel()
	if err := admin.DefaultConfig().Validate(); err != nil {
		t.Errorf("the defaults: %v", err)
	}
	cfg := admin.DefaultConfig()
	cfg.Listen = "9001"
	if _, err := admin.New(cfg, all(), nil); err == nil || !strings.Contains(err.Error(), `listen: "9001"`) {
		t.Errorf("error = %v", err)
	}
}

// Strangers are those that come from another machine without a certificate.
func TestStrangersSeeNoSettingsAndChangeNothing(t *testing.T) {
	t.Parallel()
	cfg := admin.DefaultConfig()
	verified := &tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{{}}}}
	for name, tc := range map[string]struct {
		remote bool
		from   string
		tls    *tls.ConnectionState
		open   bool
	}{
		"another machine":              {false, "10.0.0.7:4711", nil, false},
		"another machine, IPv6":        {false, "[2001:db8::7]:4711", nil, false},
		"unverified TLS":               {false, "10.0.0.7:4711", &tls.ConnectionState{}, false},
		"a client certificate":         {false, "10.0.0.7:4711", verified, true},
		"this machine":                 {false, "127.0.0.1:4711", nil, true},
		"this machine, IPv6":           {false, "[::1]:4711", nil, true},
		"this machine, IPv4 in IPv6":   {false, "[::ffff:127.0.0.1]:4711", nil, true},
		"another machine, opened":      {true, "10.0.0.7:4711", nil, true},
		"who knows where it came from": {false, "@", nil, false},
	} {
		cfg.Remote = tc.remote
		h := admin.ServedBy(cfg, all())
		for what, private := range map[string]bool{
			"GET /healthz": false, "GET /readyz": false, "GET /metrics": false, "GET /debug/discovery": false, "GET /": false, "GET /log/level": false,
			"PUT /log/level": true, "GET /debug/config": true, "GET /debug/pprof/": true, "GET /debug/pprof/heap": true, "POST /debug/pprof/symbol": true,
		} {
			method, path, _ := strings.Cut(what, " ")
			r := httptest.NewRequestWithContext(t.Context(), method, "http://10.0.0.1:9001"+path, http.NoBody)
			r.RemoteAddr, r.TLS = tc.from, tc.tls
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			if refused := w.Code == http.StatusForbidden; refused != (private && !tc.open) {
				t.Errorf("%s, %s: %d", name, what, w.Code)
			}
			if w.Code == http.StatusForbidden && (!strings.Contains(w.Body.String(), "admin.tls.client_ca") || !strings.Contains(w.Body.String(), "admin.remote: true")) {
				t.Errorf("%s: it says %q, which is no help", what, w.Body)
			}
		}
	}
}
