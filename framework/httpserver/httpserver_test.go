package httpserver_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/newsvc/newsvc/framework/certs"
	"github.com/newsvc/newsvc/framework/httpserver"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func config() httpserver.Config { return httpserver.DefaultConfig("127.0.0.1:0") }

func start(t *testing.T, cfg httpserver.Config, h http.Handler, log *zap.Logger, opts ...httpserver.Option) *httpserver.Server {
	t.Helper()
	s, err := httpserver.New(cfg, h, log, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = closeWithin(s, 5*time.Second) }) // a test that cares has closed it already
	if err := s.Listen(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	return s
}

func closeWithin(s *httpserver.Server, d time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	return s.Close(ctx)
}

// client returns one with connections of its own.
func client(t *testing.T, tr *http.Transport) *http.Client {
	t.Helper()
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 10 * time.Second}
}

func do(t *testing.T, c *http.Client, method, url, body string) (int, string, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := c.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(text), err
}

func receive[T any](t *testing.T, what string, c <-chan T) T {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	select {
	case v := <-c:
		return v
	case <-ctx.Done():
		t.Fatalf("%s did not happen", what)
		panic("unreachable")
	}
}

func hello(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") }

func TestServesUntilClosed(t *testing.T) {
	t.Parallel()
	s := start(t, config(), http.HandlerFunc(hello), nil)
	c := client(t, &http.Transport{})
	if code, body, err := do(t, c, http.MethodGet, "http://"+s.Addr(), ""); err != nil || code != http.StatusOK || body != "hello" {
		t.Errorf("answer = %d %q %v", code, body, err)
	}
	if err := closeWithin(s, 5*time.Second); err != nil {
		t.Errorf("Close = %v", err)
	}
	receive(t, "Done", s.Done())
	if s.Err() != nil {
		t.Errorf("Err = %v after Close, want nil", s.Err())
	}
	if _, _, err := do(t, c, http.MethodGet, "http://"+s.Addr(), ""); err == nil {
		t.Error("a closed server answered")
	}
	if err := closeWithin(s, time.Second); err != nil {
		t.Errorf("second Close = %v", err)
	}
}

func TestRequestInFlightFinishes(t *testing.T) {
	t.Parallel()
	entered, release := make(chan struct{}), make(chan struct{})
	s := start(t, config(), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		close(entered)
		<-release
		hello(w, r)
	}), nil)
	answered := make(chan string, 1)
	c := client(t, &http.Transport{})
	go func() {
		_, body, _ := do(t, c, http.MethodGet, "http://"+s.Addr(), "")
		answered <- body
	}()
	receive(t, "the request", entered)
	closed := make(chan error, 1)
	go func() { closed <- closeWithin(s, time.Minute) }()
	receive(t, "the end of accepting", s.Done())
	close(release)
	if body := receive(t, "the answer", answered); body != "hello" {
		t.Errorf("answer = %q", body)
	}
	if err := receive(t, "Close", closed); err != nil {
		t.Errorf("Close = %v", err)
	}
}

func TestStreamsAreToldAtTheSoftEnd(t *testing.T) {
	t.Parallel()
	causes := make(chan error, 1)
	s := start(t, config(), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "data: 1\n\n")
		w.(http.Flusher).Flush()
		<-r.Context().Done()
		causes <- context.Cause(r.Context())
		_, _ = io.WriteString(w, "data: bye\n\n")
	}), nil, httpserver.SoftDrain(20*time.Millisecond))
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+s.Addr(), nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client(t, &http.Transport{}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if err := closeWithin(s, 10*time.Second); err != nil {
		t.Errorf("Close = %v", err)
	}
	if err := receive(t, "the end of the context", causes); !errors.Is(err, httpserver.ErrDraining) {
		t.Errorf("cause = %v, want ErrDraining", err)
	}
	if body, err := io.ReadAll(resp.Body); err != nil || !strings.HasSuffix(string(body), "bye\n\n") {
		t.Errorf("stream = %q, %v, want it whole", body, err)
	}
}

func TestStuckHandlerIsCut(t *testing.T) {
	t.Parallel()
	entered, release := make(chan struct{}), make(chan struct{})
	s := start(t, config(), http.HandlerFunc(func(http.ResponseWriter, *http.Request) { close(entered); <-release }), nil)
	c := client(t, &http.Transport{})
	answered := make(chan error, 1)
	go func() { _, _, err := do(t, c, http.MethodGet, "http://"+s.Addr(), ""); answered <- err }()
	receive(t, "the request", entered)
	begin := time.Now()
	if err := closeWithin(s, 100*time.Millisecond); err == nil || !strings.Contains(err.Error(), "requests were cut") {
		t.Errorf("Close = %v, want an error that says so", err)
	}
	if took := time.Since(begin); took > 3*time.Second {
		t.Errorf("Close took %s", took)
	}
	if err := receive(t, "the end of the request", answered); err == nil {
		t.Error("the cut request was answered")
	}
	close(release)
}

func TestSilentConnectionDoesNotDelayTheClose(t *testing.T) {
	t.Parallel()
	s := start(t, config(), http.HandlerFunc(hello), nil)
	silent, err := new(net.Dialer).DialContext(t.Context(), "tcp", s.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = silent.Close() }()
	if _, _, err := do(t, client(t, &http.Transport{}), http.MethodGet, "http://"+s.Addr(), ""); err != nil {
		t.Fatal(err)
	}
	if err := closeWithin(s, 3*time.Second); err != nil {
		t.Errorf("Close = %v, want nil well before the five seconds of net/http", err)
	}
}

func TestPanicIsRecovered(t *testing.T) {
	t.Parallel()
	core, logs := observer.New(zap.InfoLevel)
	s := start(t, config(), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/early":
			panic("secret")
		case "/late":
			_, _ = io.WriteString(w, "half an ans")
			w.(http.Flusher).Flush()
			panic("secret")
		case "/abort":
			panic(http.ErrAbortHandler)
		}
		hello(w, r)
	}), zap.New(core))
	c := client(t, &http.Transport{})
	if code, body, err := do(t, c, http.MethodGet, "http://"+s.Addr()+"/early", ""); err != nil || code != http.StatusInternalServerError || strings.Contains(body, "secret") {
		t.Errorf("early panic: %d %q %v, want 500 without the value", code, body, err)
	}
	if _, _, err := do(t, c, http.MethodGet, "http://"+s.Addr()+"/late", ""); err == nil {
		t.Error("late panic: the client took half an answer for a whole one")
	}
	if _, _, err := do(t, c, http.MethodGet, "http://"+s.Addr()+"/abort", ""); err == nil {
		t.Error("abort: the client got an answer")
	}
	if code, _, err := do(t, c, http.MethodGet, "http://"+s.Addr()+"/fine", ""); err != nil || code != http.StatusOK {
		t.Errorf("the next request: %d %v", code, err)
	}
	entries := logs.FilterMessage("an HTTP handler panicked").All()
	if len(entries) != 2 || !strings.Contains(entries[0].ContextMap()["stack"].(string), "TestPanicIsRecovered") {
		t.Errorf("log = %v, want two lines with stacks", entries)
	}
}

func TestBodiesAreLimited(t *testing.T) {
	t.Parallel()
	cfg := config()
	cfg.MaxBodyBytes = 10
	s := start(t, cfg, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.ReadAll(r.Body); err != nil {
			http.Error(w, err.Error(), http.StatusRequestEntityTooLarge)
		}
	}), nil)
	c := client(t, &http.Transport{})
	for body, want := range map[string]int{"0123456789": http.StatusOK, "0123456789a": http.StatusRequestEntityTooLarge} {
		if code, _, err := do(t, c, http.MethodPost, "http://"+s.Addr(), body); err != nil || code != want {
			t.Errorf("body of %d: %d %v, want %d", len(body), code, err, want)
		}
	}
}

func TestBusyPort(t *testing.T) {
	t.Parallel()
	cfg := config()
	cfg.Listen = start(t, config(), http.HandlerFunc(hello), nil).Addr()
	strict, err := httpserver.New(cfg, http.HandlerFunc(hello), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := strict.Listen(t.Context()); err == nil || !strings.Contains(err.Error(), cfg.Listen) || !strings.Contains(err.Error(), "free the port") {
		t.Errorf("Listen = %v", err)
	}
	core, logs := observer.New(zap.InfoLevel)
	s := start(t, cfg, http.HandlerFunc(hello), zap.New(core), httpserver.FallbackPort())
	host, _, err := net.SplitHostPort(s.Addr())
	if err != nil || host != "127.0.0.1" || s.Addr() == cfg.Listen {
		t.Errorf("fallback address = %q, want another port of the same host", s.Addr())
	}
	if logs.Len() != 1 || logs.All()[0].ContextMap()["addr"] != s.Addr() {
		t.Errorf("log = %v, want one line with the new address", logs.All())
	}
}

func TestOrderOfCalls(t *testing.T) {
	t.Parallel()
	s, err := httpserver.New(config(), http.HandlerFunc(hello), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(); err == nil || !strings.Contains(err.Error(), "call Listen first") {
		t.Errorf("Start before Listen = %v", err)
	}
	if err := s.Listen(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := closeWithin(s, time.Second); err != nil {
		t.Errorf("Close before Start = %v", err)
	}
	receive(t, "Done", s.Done())
	if err := s.Start(); err == nil {
		t.Error("a closed server started")
	}
}

func TestMistakesInTheConfigAreErrors(t *testing.T) {
	t.Parallel()
	for want, change := range map[string]func(*httpserver.Config){
		`listen: "8080" is no host:port`:     func(c *httpserver.Config) { c.Listen = "8080" },
		`tls.key: not set`:                   func(c *httpserver.Config) { c.TLS.Cert = "x.pem" },
		`read_header_timeout: -1s`:           func(c *httpserver.Config) { c.ReadHeaderTimeout = -time.Second },
		`max_header_bytes: 0`:                func(c *httpserver.Config) { c.MaxHeaderBytes = 0 },
		`max_body_bytes: -1 is negative`:     func(c *httpserver.Config) { c.MaxBodyBytes = -1 },
		`idle_timeout: -1s is negative; use`: func(c *httpserver.Config) { c.IdleTimeout = -time.Second },
	} {
		cfg := config()
		change(&cfg)
		if _, err := httpserver.New(cfg, http.HandlerFunc(hello), nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error = %v, want it to contain %q", err, want)
		}
	}
}

func TestTLSSpeaksHTTP2(t *testing.T) {
	t.Parallel()
	cert, key := selfSigned(t, "edge")
	for name, server := range map[string]certs.ServerConfig{"TLS": {Cert: cert, Key: key}, "mTLS": {Cert: cert, Key: key, ClientCA: cert}} {
		cfg := config()
		cfg.TLS = server
		s := start(t, cfg, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.Proto) }), nil)
		conf, err := certs.Client(certs.ClientConfig{CA: cert, Cert: cert, Key: key}, "edge")
		if err != nil {
			t.Fatal(err)
		}
		c := client(t, &http.Transport{TLSClientConfig: conf, ForceAttemptHTTP2: true})
		if code, body, err := do(t, c, http.MethodGet, "https://"+s.Addr(), ""); err != nil || code != http.StatusOK || body != "HTTP/2.0" {
			t.Errorf("%s: %d %q %v, want HTTP/2.0", name, code, body, err)
		}
		c.CloseIdleConnections()
	}
}

// selfSigned writes a certificate for name that is its own authority.
func selfSigned(t *testing.T, name string) (cert, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{name}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	kder, err := x509.MarshalECPrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for path, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "EC PRIVATE KEY", Bytes: kder}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}
