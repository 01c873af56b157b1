package auth_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/newsvc/newsvc/framework/auth"
)

// The documentation of auth.jwt.refresh: "A key that the issuer has withdrawn counts no longer than this."
func TestAKeyWithdrawnADayAgoCountsNoMoreAfterAQuietDay(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		iss := newIssuer(t, "k1")
		b := newBench(t, config(keysAddress), from(&keyServer{body: iss.set}))
		raw := iss.token(map[string]any{"exp": time.Now().Add(100 * time.Hour).Unix()})
		fresh := iss.token(map[string]any{"exp": time.Now().Add(100 * time.Hour).Unix(), "sub": "mallory"})
		b.admitted(read, raw)
		iss.add("k2")
		iss.drop()
		pass(t, 24*time.Hour)
		b.refused(read, fresh, codes.Unauthenticated, "TOKEN_INVALID", "can't be verified", "")
		b.refused(read, raw, codes.Unauthenticated, "TOKEN_INVALID", "can't be verified", "")
	})
}

// With mtls.spiffe set the trust domain says who is a service. A foreign ID with a DNS name beside it is none.
func TestAForeignSPIFFEIDIsNoServiceByItsDNSName(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	for _, id := range []string{"spiffe://evil.org/sa/x", "spiffe://example.org/sa/x/y"} {
		cfg := config("")
		cfg.JWT.JWKS, cfg.JWT.Issuer, cfg.MTLS.SPIFFE = "", "", "spiffe://example.org/sa/{service}"
		cfg.Rules = []auth.Rule{{Methods: on("authtest.v1.Plain/*"), Services: []string{"gateway"}}}
		b := newBench(t, cfg, ca.presenting(ca.issue(id, "gateway")))
		b.refused(read, "", codes.PermissionDenied, "CALLER_NOT_ADMITTED", "not admitted", "")
	}
}

// A DNS name may hold anything that is ASCII. A rule that names a SPIFFE ID means one.
func TestADNSNameIsNoSPIFFEID(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	cfg := config("")
	cfg.JWT.JWKS, cfg.JWT.Issuer = "", ""
	cfg.Rules = []auth.Rule{{Methods: on("authtest.v1.Plain/*"), Services: []string{"spiffe://example.org/sa/gateway"}}}
	b := newBench(t, cfg, ca.presenting(ca.issue("", "spiffe://example.org/sa/gateway")))
	b.refused(read, "", codes.Unauthenticated, "CREDENTIALS_MISSING", "", "") // it names nobody
}

// Only the health service is open, and not whatever else is named below its package.
func TestOnlyTheHealthServiceIsOpen(t *testing.T) {
	t.Parallel()
	iss := newIssuer(t, "k1")
	a, err := auth.New(auth.Params{Service: "user-service", Config: config(iss.file())})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Close)
	unary, _ := a.Authorize()
	for _, m := range []string{"/grpc.health.v1.Admin/Delete", "/grpc.health.mine.Users/List"} {
		_, err := unary(context.Background(), nil, &grpc.UnaryServerInfo{FullMethod: m}, func(context.Context, any) (any, error) { return nil, nil })
		if err == nil {
			t.Errorf("%s is open to everybody, though it is not the health service", m)
		}
	}
}
