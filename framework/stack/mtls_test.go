package stack_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/newsvc/newsvc/framework/auth"
	"github.com/newsvc/newsvc/framework/certs"
	"github.com/newsvc/newsvc/framework/stack"
)

// certAuthority issues certificates.
type certAuthority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newCertAuthority(t *testing.T, name string) *certAuthority {
	t.Helper()
	a := &certAuthority{t: t}
	tmpl := &x509.Certificate{Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	a.key, a.cert = a.make(tmpl, time.Hour)
	a.pem = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
	return a
}

func (a *certAuthority) make(tmpl *x509.Certificate, valid time.Duration) (*ecdsa.PrivateKey, *x509.Certificate) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	tmpl.SerialNumber = big.NewInt(time.Now().UnixNano())
	tmpl.NotBefore, tmpl.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(valid)
	tmpl.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = tmpl, key
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, key.Public(), signer)
	if err != nil {
		a.t.Fatal(err)
	}
	made, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return key, made
}

// pair are the files of one party.
type pair struct{ cert, key string }

// issue writes a certificate for a name, or for an ID and no name when it is one, that is valid for some time.
func (a *certAuthority) issue(p pair, name string, valid time.Duration) {
	a.t.Helper()
	tmpl := &x509.Certificate{Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	if u, err := url.Parse(name); err == nil && u.Scheme == "spiffe" {
		tmpl.DNSNames, tmpl.URIs = nil, []*url.URL{u}
	}
	key, cert := a.make(tmpl, valid)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	putFile(a.t, p.cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}))
	putFile(a.t, p.key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

// putFile replaces a file in one go, as whoever rotates certificates does.
func putFile(t *testing.T, name string, data []byte) {
	t.Helper()
	if err := os.WriteFile(name+".new", data, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(name+".new", name); err != nil {
		t.Fatal(err)
	}
}

// files are those of a callee and its caller.
type files struct {
	ca             string
	callee, caller pair
}

func newFiles(t *testing.T, a *certAuthority, callee, caller string) files {
	t.Helper()
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	f := files{at("ca.pem"), pair{at("callee.pem"), at("callee.key")}, pair{at("caller.pem"), at("caller.key")}}
	putFile(t, f.ca, a.pem)
	a.issue(f.callee, callee, time.Hour)
	a.issue(f.caller, caller, time.Hour)
	return f
}

// presents answers with who the caller's certificate was issued by and for.
type presents struct {
	testpb.UnimplementedTestServiceServer
	issuer atomic.Pointer[string]
}

func (p *presents) EmptyCall(ctx context.Context, _ *testpb.Empty) (*testpb.Empty, error) {
	if at, ok := peer.FromContext(ctx); ok {
		if info, ok := at.AuthInfo.(credentials.TLSInfo); ok && len(info.State.PeerCertificates) > 0 {
			p.issuer.Store(&info.State.PeerCertificates[0].Issuer.CommonName)
		}
	}
	return &testpb.Empty{}, nil
}

// mutual starts a callee and a caller that know each other by certificates.
func mutual(t *testing.T, f files, change func(callee, caller *stack.Params)) (callee, caller *stack.Stack, handler *presents) {
	t.Helper()
	p, reg, _ := params(t)
	p.Config.Server.TLS = certs.ServerConfig{Cert: f.callee.cert, Key: f.callee.key, ClientCA: f.ca}
	q, _, _ := params(t)
	q.Service, q.Serves, q.Callees, q.Replace.Source = "gateway", false, []string{service}, reg
	q.Config.ClientDefaults.TLS = certs.ClientConfig{CA: f.ca, Cert: f.caller.cert, Key: f.caller.key}
	if change != nil {
		change(&p, &q)
	}
	callee, err := stack.New(p)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = callee.Close(context.Background()) })
	handler = &presents{}
	testpb.RegisterTestServiceServer(callee.Server(), handler)
	up(t, callee)
	caller = build(t, q)
	if err := caller.Connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	return callee, caller, handler
}

// Everything that can be rotated is, one after the other, as in a real change of authority, while calls go on all the time.
func TestCertificatesAreRotatedUnderLoadWithoutAFailedCall(t *testing.T) {
	t.Parallel()
	first, second := newCertAuthority(t, "first"), newCertAuthority(t, "second")
	f := newFiles(t, first, service, "gateway")
	_, caller, handler := mutual(t, f, func(callee, _ *stack.Params) {
		callee.Config.Server.Limits.MaxConnectionAge = 200 * time.Millisecond // many handshakes
	})
	var calls, failed atomic.Int64
	var why atomic.Value
	ctx, stop := context.WithCancel(t.Context())
	var load sync.WaitGroup
	for range 4 {
		load.Go(func() {
			for ctx.Err() == nil {
				if err := callTo(t, caller, service); err != nil {
					failed.Add(1)
					why.Store(err.Error())
				}
				calls.Add(1)
			}
		})
	}
	defer load.Wait()
	defer stop()
	// settled waits until new connections were made with what was just written: files are looked at once a second.
	settled := func(issuer string) {
		t.Helper()
		wait, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
		<-wait.Done()
		cancel()
		eventually(t, "a caller's certificate of "+issuer, func() bool {
			at := handler.issuer.Load()
			return at != nil && *at == issuer
		})
	}
	settled("first")
	first.issue(f.callee, service, time.Hour) // new certificates of the same authority
	first.issue(f.caller, "gateway", time.Hour)
	settled("first")
	putFile(t, f.ca, append(append([]byte{}, first.pem...), second.pem...)) // both authorities are trusted
	settled("first")
	second.issue(f.callee, service, time.Hour)
	second.issue(f.caller, "gateway", time.Hour)
	settled("second")
	putFile(t, f.ca, second.pem) // the old one no longer
	settled("second")
	stop()
	load.Wait()
	t.Logf("%d calls", calls.Load())
	if failed.Load() > 0 || calls.Load() < 100 {
		t.Errorf("%d of %d calls failed, for example: %v", failed.Load(), calls.Load(), why.Load())
	}
}

func TestAServicesCertificateIsItsIdentity(t *testing.T) {
	t.Parallel()
	f := newFiles(t, newCertAuthority(t, "first"), service, "gateway")
	rules := func(callee, _ *stack.Params) {
		callee.Config.Auth.Enabled = true
		callee.Config.Auth.Rules = []auth.Rule{{Methods: []string{"grpc.testing.TestService/EmptyCall"}, Services: []string{"gateway"}}}
	}
	_, caller, _ := mutual(t, f, rules)
	if err := callTo(t, caller, service); err != nil {
		t.Error(err)
	}
	f = newFiles(t, newCertAuthority(t, "first"), service, "order-service")
	_, caller, _ = mutual(t, f, rules)
	if err := callTo(t, caller, service); status.Code(err) != codes.PermissionDenied {
		t.Errorf("a service that the rules do not name: %v", err)
	}
}

func TestCalleesAreKnownByTheirCertificates(t *testing.T) {
	t.Parallel()
	const id = "spiffe://example.org/ns/default/sa/user-service"
	for name, tc := range map[string]struct {
		change func(a *certAuthority, f files, caller *stack.Params)
		want   string // what the caller's error says; empty: it works. Why his own certificate is refused TLS 1.3 may not tell
	}{
		"its name":     {func(*certAuthority, files, *stack.Params) {}, ""},
		"another name": {func(a *certAuthority, f files, _ *stack.Params) { a.issue(f.callee, "order-service", time.Hour) }, "order-service"},
		"another authority": {func(a *certAuthority, f files, _ *stack.Params) {
			newCertAuthority(a.t, "x").issue(f.callee, service, time.Hour)
		}, "unknown authority"},
		"an ID": {func(a *certAuthority, f files, q *stack.Params) {
			a.issue(f.callee, id, time.Hour)
			q.Config.ClientDefaults.TLS.SPIFFEID = id
		}, ""},
		"another ID": {func(a *certAuthority, f files, q *stack.Params) {
			a.issue(f.callee, id+"2", time.Hour)
			q.Config.ClientDefaults.TLS.SPIFFEID = id
		}, id + "2"},
		"a name where an ID": {func(_ *certAuthority, _ files, q *stack.Params) { q.Config.ClientDefaults.TLS.SPIFFEID = id }, "no SPIFFE ID"},
		"a configured name": {func(a *certAuthority, f files, q *stack.Params) {
			a.issue(f.callee, "users", time.Hour)
			q.Config.ClientDefaults.TLS.ServerName = "users"
		}, ""},
		"plaintext to TLS": {func(_ *certAuthority, _ files, q *stack.Params) { q.Config.ClientDefaults.TLS = certs.ClientConfig{} }, " "},
		"no own certificate": {func(_ *certAuthority, _ files, q *stack.Params) {
			q.Config.ClientDefaults.TLS.Cert, q.Config.ClientDefaults.TLS.Key = "", ""
		}, " "},
		"a stranger's caller": {func(a *certAuthority, f files, _ *stack.Params) {
			newCertAuthority(a.t, "x").issue(f.caller, "gateway", time.Hour)
		}, " "},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := newCertAuthority(t, "first")
			f := newFiles(t, a, service, "gateway")
			_, caller, _ := mutual(t, f, func(_, q *stack.Params) {
				tc.change(a, f, q)
				q.Config.ClientDefaults.WaitForReady = false
			})
			var err error
			eventually(t, "an answer that is more than that it connects", func() bool {
				err = callTo(t, caller, service)
				return err == nil || !strings.Contains(err.Error(), "connecting")
			})
			switch {
			case tc.want == "" && err != nil:
				t.Error(err)
			case tc.want != "" && (status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), tc.want)):
				t.Errorf("%v, want UNAVAILABLE with %q", err, tc.want)
			}
		})
	}
}

func TestTheAdminServerBehindMutualTLS(t *testing.T) {
	t.Parallel()
	first, second := newCertAuthority(t, "first"), newCertAuthority(t, "second")
	f := newFiles(t, first, "admin", "operator")
	p, _, _ := params(t)
	p.Config.Admin.TLS = certs.ServerConfig{Cert: f.callee.cert, Key: f.callee.key, ClientCA: f.ca}
	s := build(t, p)
	up(t, s)
	_, _, addr := s.Addresses()
	// ask makes a connection of its own and returns who signed the server's certificate.
	ask := func(cfg certs.ClientConfig) (string, error) {
		t.Helper()
		conf, err := certs.Client(cfg, "admin")
		if err != nil {
			t.Fatal(err)
		}
		if conf == nil {
			conf = &tls.Config{MinVersion: tls.VersionTLS13}
		}
		req, err := http.NewRequestWithContext(limit(t), http.MethodGet, "https://"+addr+"/healthz", http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := (&http.Client{Transport: &http.Transport{TLSClientConfig: conf, DisableKeepAlives: true}}).Do(req)
		if err != nil {
			return "", err
		}
		defer resp.Body.Close()
		return resp.TLS.PeerCertificates[0].Issuer.CommonName, nil
	}
	operator := certs.ClientConfig{CA: f.ca, Cert: f.caller.cert, Key: f.caller.key}
	if by, err := ask(operator); err != nil || by != "first" {
		t.Fatalf("the operator: %q, %v", by, err)
	}
	if _, err := ask(certs.ClientConfig{CA: f.ca}); err == nil {
		t.Error("somebody without a certificate was let in")
	}
	g := newFiles(t, second, "admin", "operator")
	if _, err := ask(certs.ClientConfig{CA: f.ca, Cert: g.caller.cert, Key: g.caller.key}); err == nil {
		t.Error("somebody with a certificate of another authority was let in")
	}
	resp, err := new(net.Dialer).DialContext(limit(t), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = resp.Write([]byte("GET /debug/config HTTP/1.0\r\n\r\n"))
	_ = resp.SetReadDeadline(time.Now().Add(10 * time.Second))
	answer := make([]byte, 200)
	n, _ := resp.Read(answer)
	_ = resp.Close()
	if strings.Contains(string(answer[:n]), " 200 ") {
		t.Errorf("plaintext is answered: %q", answer[:n])
	}
	// Rotation: the next connection sees it, and the old operator is out.
	second.issue(f.callee, "admin", time.Hour)
	putFile(t, f.ca, second.pem)
	eventually(t, "the new certificate", func() bool {
		by, err := ask(certs.ClientConfig{CA: f.ca, Cert: g.caller.cert, Key: g.caller.key})
		return err == nil && by == "second"
	})
	if _, err := ask(operator); err == nil {
		t.Error("an operator of the old authority was let in")
	}
}
