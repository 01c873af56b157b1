package auth_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	jose "github.com/go-jose/go-jose/v4"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/newsvc/newsvc/framework/auth"
)

func TestATokenTellsTheHandlerWhoCalls(t *testing.T) {
	t.Parallel()
	iss := newIssuer(t, "k1")
	b := newBench(t, config(iss.file()))
	raw := iss.token(map[string]any{"tenant": []string{"acme", "emca"}, "scp": []string{"more"}, "vip": true})
	if who := b.admitted(read, raw); who != "ann" {
		t.Errorf("the handler took the caller for %q, want ann", who)
	}
	id, ok := auth.FromContext(b.seen())
	if !ok || id.Subject != "ann" || id.Issuer != issuerName || id.Service != "" || id.Name() != "ann" {
		t.Errorf("identity = %+v, %v", id, ok)
	}
	if got := strings.Join(id.Scopes, " "); got != "users.read users.write more" {
		t.Errorf("scopes = %q", got)
	}
	if got := strings.Join(id.Claim("tenant"), " ") + strings.Join(id.Claim("vip"), ""); got != "acme emcatrue" {
		t.Errorf("claims = %q", got)
	}
	if id.Claim("exp") != nil {
		t.Error("what has a meaning of its own is offered as a further claim")
	}
}

func TestStreamsHaveAnIdentityToo(t *testing.T) {
	t.Parallel()
	iss := newIssuer(t, "k1")
	b := newBench(t, config(iss.file()))
	follows := func(token string) (string, error) {
		ctx := metadata.AppendToOutgoingContext(t.Context(), "authorization", "bearer "+token)
		s, err := b.conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, follow)
		if err != nil {
			t.Fatal(err)
		}
		out := new(wrapperspb.StringValue)
		_ = s.SendMsg(new(emptypb.Empty))
		_ = s.CloseSend()
		return func() (string, error) { err := s.RecvMsg(out); return out.GetValue(), err }()
	}
	if who, err := follows(iss.token(nil)); err != nil || who != "ann" {
		t.Errorf("the stream is of %q, %v, want ann", who, err)
	}
	if _, err := follows("x.y.z"); reasonOf(err) != "TOKEN_INVALID" {
		t.Errorf("a stream with a bad token: %v", err)
	}
}

func TestWithoutATokenTheCallIsNobodys(t *testing.T) {
	t.Parallel()
	b := newBench(t, config(newIssuer(t, "k1").file()))
	b.refused(read, "", codes.Unauthenticated, "CREDENTIALS_MISSING", "Bearer", "no token and no client certificate")
	if who := b.admitted(anyone, ""); who != "" {
		t.Errorf("nobody is %q", who)
	}
	if _, ok := auth.FromContext(b.seen()); ok {
		t.Error("nobody has an identity")
	}
	if _, ok := auth.Subject(context.Background()); ok {
		t.Error("outside of a call there is an identity")
	}
}

func TestAnExpiredTokenIsRefused(t *testing.T) {
	t.Parallel()
	iss := newIssuer(t, "k1")
	b := newBench(t, config(iss.file()))
	b.refused(read, iss.token(map[string]any{"exp": time.Now().Add(-31 * time.Second).Unix()}),
		codes.Unauthenticated, "TOKEN_EXPIRED", "has expired", "it ended at")
	b.admitted(read, iss.token(map[string]any{"exp": time.Now().Add(-10 * time.Second).Unix()})) // within leeway
}

func TestATokenOfTheFutureIsRefused(t *testing.T) {
	t.Parallel()
	iss := newIssuer(t, "k1")
	b := newBench(t, config(iss.file()))
	for _, claim := range []string{"nbf", "iat"} {
		b.refused(read, iss.token(map[string]any{claim: time.Now().Add(time.Minute).Unix()}),
			codes.Unauthenticated, "TOKEN_NOT_YET_VALID", "clocks", "auth.jwt.leeway")
	}
}

func TestATokenWithoutAnEndIsRefused(t *testing.T) {
	t.Parallel()
	iss := newIssuer(t, "k1")
	b := newBench(t, config(iss.file()))
	b.refused(read, iss.token(map[string]any{"exp": nil}), codes.Unauthenticated, "TOKEN_INVALID", "when it ends", `"exp"`)
}

func TestATokenWithoutASubjectIsRefused(t *testing.T) {
	t.Parallel()
	iss := newIssuer(t, "k1")
	for name, sub := range map[string]any{"none": nil, "empty": "", "longer than a log line": strings.Repeat("x", 300)} {
		newBench(t, config(iss.file())).refused(read, iss.token(map[string]any{"sub": sub}), codes.Unauthenticated, "TOKEN_INVALID", "whom it is about", `("sub")`)
		_ = name
	}
}

func TestATokenForAnotherAudienceIsRefused(t *testing.T) {
	t.Parallel()
	iss := newIssuer(t, "k1")
	b := newBench(t, config(iss.file()))
	b.refused(read, iss.token(map[string]any{"aud": "order-service"}), codes.Unauthenticated, "TOKEN_AUDIENCE", "meant for somebody else", `"order-service"`)
	b.refused(read, iss.token(map[string]any{"aud": nil}), codes.Unauthenticated, "TOKEN_AUDIENCE", "meant for somebody else", "")
	b.admitted(read, iss.token(map[string]any{"aud": []string{"order-service", "user-service"}}))

	cfg := config(iss.file())
	cfg.JWT.Audiences = []string{"https://api.example.com", "users"}
	b = newBench(t, cfg)
	b.admitted(read, iss.token(map[string]any{"aud": "users"}))
	b.refused(read, iss.token(nil), codes.Unauthenticated, "TOKEN_AUDIENCE", "meant for somebody else", "auth.jwt.audiences")
}

// Issuers let users choose some claims. None of those must be taken for one that means something.
func TestClaimsThatLookLikeOthersAreNone(t *testing.T) {
	t.Parallel()
	iss := newIssuer(t, "k1")
	b := newBench(t, ruled(iss, auth.Rule{Methods: on("authtest.v1.Plain/Read"), Authenticated: true},
		auth.Rule{Methods: on("authtest.v1.Plain/Write"), Claims: map[string][]string{"account": {"9007199254740993"}}}))
	if who := b.admitted(read, iss.token(map[string]any{"SUB": "root", "Sub": "root"})); who != "ann" {
		t.Errorf("the caller is %q, want ann", who)
	}
	b.refused(read, iss.token(map[string]any{"exp": nil, "EXP": time.Now().Add(time.Hour).Unix()}), codes.Unauthenticated, "TOKEN_INVALID", "when it ends", "")
	twice := []byte(`{"iss":"` + issuerName + `","aud":"user-service","exp":9999999999,"sub":"ann","sub":"root"}`)
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: iss.newest()}, nil)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := s.Sign(twice)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := signed.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	b.refused(read, raw, codes.Unauthenticated, "TOKEN_INVALID", "", "")

	// One apart, and the same number for whoever reads numbers as floats.
	b.admitted(write, iss.token(map[string]any{"account": json.Number("9007199254740993")}))
	b.refused(write, iss.token(map[string]any{"account": json.Number("9007199254740992")}), codes.PermissionDenied, "CALLER_NOT_ADMITTED", "", "")
}

func TestATokenOfAnotherIssuerIsRefused(t *testing.T) {
	t.Parallel()
	iss := newIssuer(t, "k1")
	b := newBench(t, config(iss.file()))
	b.refused(read, iss.token(map[string]any{"iss": "https://login.example.com"}), codes.Unauthenticated, "TOKEN_ISSUER", "does not trust", "auth.jwt.issuer")
}

func TestAlgNoneIsRefused(t *testing.T) {
	t.Parallel()
	iss := newIssuer(t, "k1")
	b := newBench(t, config(iss.file()))
	body, err := json.Marshal(claims(nil))
	if err != nil {
		t.Fatal(err)
	}
	for _, alg := range []string{"none", "None", "NONE", ""} {
		head := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"` + alg + `","typ":"JWT","kid":"k1"}`))
		for _, signature := range []string{"", "AAAA"} {
			b.refused(read, head+"."+base64.RawURLEncoding.EncodeToString(body)+"."+signature,
				codes.Unauthenticated, "TOKEN_INVALID", "can't be verified", "unexpected signature algorithm")
		}
	}
}

// The classic confusion: a verifier that believes the header takes the issuer's public key, which everybody has, for the
// secret of an HMAC.
func TestHS256WithThePublicKeyAsSecretIsRefused(t *testing.T) {
	t.Parallel()
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	iss := newIssuer(t)
	iss.keys = []jose.JSONWebKey{{Key: private, KeyID: "k1", Use: "sig"}}
	b := newBench(t, config(iss.file()))
	der, err := x509.MarshalPKIXPublicKey(private.Public())
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range [][]byte{der, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), iss.set()} {
		forged := sign(t, jose.SigningKey{Algorithm: jose.HS256, Key: jose.JSONWebKey{Key: secret, KeyID: "k1"}}, claims(nil))
		b.refused(read, forged, codes.Unauthenticated, "TOKEN_INVALID", "can't be verified", "unexpected signature algorithm")
	}
	b.admitted(read, sign(t, jose.SigningKey{Algorithm: jose.PS256, Key: jose.JSONWebKey{Key: private, KeyID: "k1"}}, claims(nil)))
	b.refused(read, sign(t, jose.SigningKey{Algorithm: jose.RS512, Key: jose.JSONWebKey{Key: private, KeyID: "k1"}}, claims(nil)),
		codes.Unauthenticated, "TOKEN_INVALID", "can't be verified", "unexpected signature algorithm")
}

func TestAForgedSignatureIsRefused(t *testing.T) {
	t.Parallel()
	iss, forger := newIssuer(t, "k1"), newIssuer(t, "k1")
	b := newBench(t, config(iss.file()))
	b.refused(read, forger.token(nil), codes.Unauthenticated, "TOKEN_INVALID", "can't be verified", "the signature is not of the key")

	good := strings.Split(iss.token(nil), ".")
	changed, err := json.Marshal(claims(map[string]any{"sub": "root"}))
	if err != nil {
		t.Fatal(err)
	}
	good[1] = base64.RawURLEncoding.EncodeToString(changed)
	b.refused(read, strings.Join(good, "."), codes.Unauthenticated, "TOKEN_INVALID", "can't be verified", "")
}

func TestAKeyWithinTheTokenCountsForNothing(t *testing.T) {
	t.Parallel()
	iss, forger := newIssuer(t, "k1"), newIssuer(t, "")
	b := newBench(t, config(iss.file()))
	embedded := sign(t, jose.SigningKey{Algorithm: jose.ES256, Key: forger.keys[0].Key}, claims(nil), func(o *jose.SignerOptions) { o.EmbedJWK = true })
	b.refused(read, embedded, codes.Unauthenticated, "TOKEN_INVALID", "can't be verified", "the signature is not of the key")
	pointed := sign(t, jose.SigningKey{Algorithm: jose.ES256, Key: forger.keys[0].Key}, claims(nil), func(o *jose.SignerOptions) {
		o.WithHeader("jku", "https://forger.example.com/keys.json")
	})
	b.refused(read, pointed, codes.Unauthenticated, "TOKEN_INVALID", "can't be verified", "")
}

func TestOtherThingsThanAccessTokensAreRefused(t *testing.T) {
	t.Parallel()
	iss := newIssuer(t, "k1")
	b := newBench(t, config(iss.file()))
	key := jose.SigningKey{Algorithm: jose.ES256, Key: iss.newest()}
	for typ, good := range map[string]bool{"JWT": true, "at+jwt": true, "application/at+jwt": true, "logout+jwt": false, "dpop+jwt": false} {
		raw := sign(t, key, claims(nil), func(o *jose.SignerOptions) { o.WithType(jose.ContentType(typ)) })
		if good {
			b.admitted(read, raw)
		} else {
			b.refused(read, raw, codes.Unauthenticated, "TOKEN_INVALID", "can't be verified", "its type is")
		}
	}
}

func TestWhatIsNoTokenIsRefused(t *testing.T) {
	t.Parallel()
	iss := newIssuer(t, "k1")
	b := newBench(t, config(iss.file()))
	for _, raw := range []string{"x", "a.b", "a.b.c", "a.b.c.d", "{}", strings.Repeat("x", 20<<10), iss.token(nil) + "="} {
		b.refused(read, raw, codes.Unauthenticated, "TOKEN_INVALID", "can't be verified", "")
	}
	for _, values := range [][]string{{"Basic YWRtaW46YWRtaW4="}, {iss.token(nil)}, {"Bearer " + iss.token(nil), "Bearer " + iss.token(nil)}} {
		ctx := metadata.NewOutgoingContext(t.Context(), metadata.MD{"authorization": values})
		if err := b.conn.Invoke(ctx, read, new(emptypb.Empty), new(wrapperspb.StringValue)); reasonOf(err) != "TOKEN_INVALID" {
			t.Errorf("authorization %q: %v", values, err)
		}
	}
	if strings.Contains(b.log(), "YWRtaW4") {
		t.Error("the log holds a password")
	}
}

func TestABadTokenIsRefusedWhereNoneIsNeeded(t *testing.T) {
	t.Parallel()
	iss := newIssuer(t, "k1")
	b := newBench(t, config(iss.file()))
	b.refused(anyone, "x.y.z", codes.Unauthenticated, "TOKEN_INVALID", "can't be verified", "")
}

func TestATokenIsRefusedWhereNoneIsTaken(t *testing.T) {
	t.Parallel()
	cfg := auth.DefaultConfig()
	cfg.Enabled = true
	b := newBench(t, cfg)
	b.refused(anyone, newIssuer(t, "k1").token(nil), codes.Unauthenticated, "TOKEN_INVALID", "takes no tokens", "auth.jwt.jwks")
}

func TestATokenIsRememberedUntilItsEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		iss := newIssuer(t, "k1")
		b := newBench(t, config(iss.file()))
		raw := iss.token(map[string]any{"exp": time.Now().Add(time.Minute).Unix()})
		b.admitted(read, raw)
		pass(t, 80*time.Second) // within leeway
		b.admitted(read, raw)
		pass(t, 20*time.Second)
		b.refused(read, raw, codes.Unauthenticated, "TOKEN_EXPIRED", "has expired", "")
	})
}

func TestManyTokensAreRememberedWithinBounds(t *testing.T) {
	t.Parallel()
	iss := newIssuer(t, "k1")
	cfg := config(iss.file())
	cfg.JWT.Cache = 5
	b := newBench(t, cfg)
	for i := range 30 {
		raw := iss.token(map[string]any{"jti": strconv.Itoa(i)})
		b.admitted(read, raw)
		b.admitted(read, raw)
		if n := auth.Remembered(b.auth); n > 5 || n < min(i+1, 4) {
			t.Fatalf("%d tokens are remembered after %d", n, i+1)
		}
	}
	cfg.JWT.Cache = 0
	b = newBench(t, cfg)
	b.admitted(read, iss.token(nil))
	if n := auth.Remembered(b.auth); n != 0 {
		t.Errorf("%d tokens are remembered, want none", n)
	}
}

// Someone who sends bad tokens as fast as he can shall not fill the disk of the server with words about it.
func TestRefusalsOfOneKindAreToldOnceAMinute(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		iss := newIssuer(t, "k1")
		b := newBench(t, config(iss.file()))
		for range 50 {
			b.refused(read, "x.y.z", codes.Unauthenticated, "TOKEN_INVALID", "", "")
		}
		told := b.logs.FilterMessage("a call was refused").Len()
		if told != 1 {
			t.Errorf("told %d times, want once", told)
		}
		pass(t, time.Minute)
		b.refused(read, "x.y.z", codes.Unauthenticated, "TOKEN_INVALID", "", "")
		lines := b.logs.FilterMessage("a call was refused").All()
		if len(lines) != 2 || lines[1].ContextMap()["refused_alike_since"] != int64(49) {
			t.Errorf("after a minute the log says %v, want that 49 were not told", lines)
		}
	})
}

func TestKeysOfAFileMustBeThereAtStart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name, text string) string {
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	weak, err := rsa.GenerateKey(rand.Reader, 1024) //nolint:gosec // that is the point
	if err != nil {
		t.Skip("this Go makes no key as weak as the test needs: ", err)
	}
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	one := func(k jose.JSONWebKey) string {
		data, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{k}})
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	for name, tc := range map[string]struct{ file, want string }{
		"absent":     {filepath.Join(dir, "absent.json"), "no such file"},
		"garbage":    {write("garbage.json", "secret-garbage"), "no JSON Web Key Set"},
		"empty":      {write("empty.json", `{"keys": []}`), "none of its 0 keys"},
		"symmetric":  {write("symmetric.json", one(jose.JSONWebKey{Key: []byte("secret-secret-secret-secret"), KeyID: "k"})), "symmetric"},
		"private":    {write("private.json", one(jose.JSONWebKey{Key: private, KeyID: "k"})), "private key"},
		"weak":       {write("weak.json", one(jose.JSONWebKey{Key: weak.Public(), KeyID: "k"})), "too short"},
		"encryption": {write("encryption.json", one(jose.JSONWebKey{Key: private.Public(), KeyID: "k", Use: "enc"})), `"enc"`},
	} {
		_, err := auth.New(auth.Params{Service: "user-service", Config: config(tc.file)})
		if err == nil || !strings.HasPrefix(err.Error(), "jwt.jwks: ") || !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), tc.file) {
			t.Errorf("%s: %v, want it to name the key, the file and %q", name, err, tc.want)
		}
		if err != nil && strings.Contains(err.Error(), "secret-") {
			t.Errorf("%s: the error shows what is in the file: %v", name, err)
		}
	}
}
