package auth_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"math/big"
	"net/url"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"

	"github.com/newsvc/newsvc/framework/auth"
)

func infoOf(method string) *grpc.UnaryServerInfo { return &grpc.UnaryServerInfo{FullMethod: method} }

// authority issues certificates.
type authority struct {
	t    testing.TB
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	a := &authority{t: t}
	a.key, a.cert = a.make(&x509.Certificate{
		Subject: pkix.Name{CommonName: "authority"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	})
	return a
}

// make issues a certificate; the first one issues itself.
func (a *authority) make(c *x509.Certificate) (*ecdsa.PrivateKey, *x509.Certificate) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	c.SerialNumber = big.NewInt(time.Now().UnixNano())
	c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = c, key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, key.Public(), signer)
	if err != nil {
		a.t.Fatal(err)
	}
	made, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return key, made
}

func (a *authority) issue(spiffe string, names ...string) tls.Certificate {
	a.t.Helper()
	c := &x509.Certificate{DNSNames: names}
	if spiffe != "" {
		u, err := url.Parse(spiffe)
		if err != nil {
			a.t.Fatal(err)
		}
		c.URIs = []*url.URL{u}
	}
	key, cert := a.make(c)
	return tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key, Leaf: cert}
}

// presenting has the client present a certificate, and the server demand one of the authority.
func (a *authority) presenting(pair tls.Certificate) option {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	server := credentials.NewTLS(&tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{a.issue("", "user-service")}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert,
	})
	client := credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS13, RootCAs: pool, ServerName: "user-service", Certificates: []tls.Certificate{pair}})
	return func(_ *auth.Params, s *[]grpc.ServerOption, d *[]grpc.DialOption) {
		*s = append(*s, grpc.Creds(server))
		*d = append(*d, grpc.WithTransportCredentials(client))
	}
}

func TestACertificateTellsWhichServiceCalls(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	for name, tc := range map[string]struct {
		pair     tls.Certificate
		template string
		service  string
	}{
		"a name":                   {ca.issue("", "gateway"), "", "gateway"},
		"a name among others":      {ca.issue("", "gateway.default.svc", "gateway"), "", "gateway"},
		"a foreign name":           {ca.issue("", "gateway.example.com"), "", "gateway.example.com"},
		"a SPIFFE ID":              {ca.issue("spiffe://example.org/sa/gateway"), "", "spiffe://example.org/sa/gateway"},
		"an ID that is a service":  {ca.issue("spiffe://example.org/sa/gateway"), "spiffe://example.org/sa/{service}", "gateway"},
		"an ID of another domain":  {ca.issue("spiffe://evil.org/sa/gateway"), "spiffe://example.org/sa/{service}", "spiffe://evil.org/sa/gateway"},
		"an ID that is no service": {ca.issue("spiffe://example.org/sa/x/gateway"), "spiffe://example.org/sa/{service}", "spiffe://example.org/sa/x/gateway"},
		"an ID and a name":         {ca.issue("spiffe://example.org/sa/gateway", "order-service"), "spiffe://example.org/sa/{service}", "gateway"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := config("")
			cfg.JWT.JWKS, cfg.JWT.Issuer, cfg.MTLS.SPIFFE = "", "", tc.template
			b := newBench(t, cfg, ca.presenting(tc.pair))
			if who := b.admitted(read, ""); who != tc.service {
				t.Errorf("the caller is %q, want %q", who, tc.service)
			}
			id, _ := auth.FromContext(b.seen())
			if id.Service != tc.service || id.Subject != "" || len(tc.pair.Leaf.URIs) > 0 && id.SPIFFE != tc.pair.Leaf.URIs[0].String() {
				t.Errorf("identity = %+v", id)
			}
		})
	}
}

func TestRulesAdmitServicesByTheirCertificates(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	iss := newIssuer(t, "k1")
	cfg := ruled(iss,
		auth.Rule{Methods: on("authtest.v1.Plain/Read"), Services: []string{"gateway", "spiffe://example.org/sa/gateway"}},
		auth.Rule{Methods: on("authtest.v1.Plain/Write"), Services: []string{"gateway"}, Scopes: []string{"users.write"}})
	for pair, admitted := range map[*tls.Certificate]bool{
		new(ca.issue("", "gateway")):                               true,
		new(ca.issue("spiffe://example.org/sa/gateway")):           true,
		new(ca.issue("", "order-service")):                         false,
		new(ca.issue("spiffe://example.org/sa/gateway2")):          false,
		new(ca.issue("spiffe://evil.org/sa/gateway", "x.gateway")): false,
	} {
		b := newBench(t, cfg, ca.presenting(*pair))
		if admitted {
			b.admitted(read, "")
		} else {
			b.refused(read, "", codes.PermissionDenied, "CALLER_NOT_ADMITTED", "not admitted", "it is not one of the services")
		}
	}
	b := newBench(t, cfg, ca.presenting(ca.issue("", "gateway")))
	b.refused(write, "", codes.Unauthenticated, "CREDENTIALS_MISSING", "token", "wants a token")
	if who := b.admitted(write, iss.token(nil)); who != "ann" {
		t.Errorf("with certificate and token the caller is %q", who)
	}
	if id, _ := auth.FromContext(b.seen()); id.Service != "gateway" || id.Subject != "ann" {
		t.Errorf("identity = %+v, want both", id)
	}
	b.admitted(fallback, "") // by the option of its .proto file
}

// A stolen token that is bound to a certificate (RFC 8705) is worth nothing to the thief.
func TestABoundTokenIsRefusedFromAnybodyElse(t *testing.T) {
	t.Parallel()
	ca, iss := newAuthority(t), newIssuer(t, "k1")
	owner, thief := ca.issue("", "gateway"), ca.issue("", "order-service")
	sum := sha256.Sum256(owner.Certificate[0])
	bound := iss.token(map[string]any{"cnf": map[string]any{"x5t#S256": base64.RawURLEncoding.EncodeToString(sum[:])}})
	cfg := config(iss.file())
	newBench(t, cfg, ca.presenting(owner)).admitted(read, bound)
	newBench(t, cfg, ca.presenting(thief)).refused(read, bound, codes.Unauthenticated, "TOKEN_BINDING", "its owner only", "another certificate")
	newBench(t, cfg).refused(read, bound, codes.Unauthenticated, "TOKEN_BINDING", "its owner only", "another certificate")
	other := iss.token(map[string]any{"cnf": map[string]any{"jkt": "x"}})
	newBench(t, cfg, ca.presenting(owner)).refused(read, other, codes.Unauthenticated, "TOKEN_BINDING", "its owner only", "not known here")
}

func TestACertificateNobodyVerifiedCountsForNothing(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	server := credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{ca.issue("", "user-service")}, ClientAuth: tls.RequireAnyClientCert})
	client := credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS13, RootCAs: pool, ServerName: "user-service", Certificates: []tls.Certificate{newAuthority(t).issue("", "gateway")}})
	cfg := config("")
	cfg.JWT.JWKS, cfg.JWT.Issuer = "", ""
	b := newBench(t, cfg, func(_ *auth.Params, s *[]grpc.ServerOption, d *[]grpc.DialOption) {
		*s, *d = append(*s, grpc.Creds(server)), append(*d, grpc.WithTransportCredentials(client))
	})
	b.refused(read, "", codes.Unauthenticated, "CREDENTIALS_MISSING", "", "")
}

func TestCallersBeyondABoundAreCountedTogether(t *testing.T) {
	t.Parallel()
	m := auth.Callers()
	if len(m) != 101 || m[len(m)-1] != "(other)" {
		t.Errorf("%d values of the label, the last %q; want 100 and (other)", len(m), m[len(m)-1])
	}
}
