package stack_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	jose "github.com/go-jose/go-jose/v4"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"

	"github.com/newsvc/newsvc/framework/auth"
	"github.com/newsvc/newsvc/framework/stack"
)

const tokenIssuer = "https://login.example.com/"

// tokens makes tokens, and the file of the key that checks them.
func tokens(t *testing.T) (file string, token func(change map[string]any) string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	private := jose.JSONWebKey{Key: key, KeyID: "k1", Use: "sig"}
	set, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{private.Public()}})
	if err != nil {
		t.Fatal(err)
	}
	file = filepath.Join(t.TempDir(), "keys.json")
	if err := os.WriteFile(file, set, 0o600); err != nil {
		t.Fatal(err)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: private}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return file, func(change map[string]any) string {
		claims := map[string]any{"iss": tokenIssuer, "aud": service, "sub": "ann", "exp": time.Now().Add(time.Hour).Unix()}
		maps.Copy(claims, change)
		payload, err := json.Marshal(claims)
		if err != nil {
			t.Fatal(err)
		}
		signed, err := signer.Sign(payload)
		if err != nil {
			t.Fatal(err)
		}
		raw, err := signed.CompactSerialize()
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
}

// guarded are the parameters of a service that takes tokens, with one rule: who has one may make empty calls.
func guarded(t *testing.T, p *stack.Params) (token func(change map[string]any) string) {
	t.Helper()
	file, token := tokens(t)
	p.Config.Auth.Enabled = true
	p.Config.Auth.JWT.JWKS, p.Config.Auth.JWT.Issuer = file, tokenIssuer
	p.Config.Auth.Rules = []auth.Rule{{Methods: []string{"grpc.testing.TestService/EmptyCall"}, Authenticated: true}}
	return token
}

func reach(t *testing.T, addr string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func bearing(t *testing.T, token string) context.Context {
	t.Helper()
	return metadata.AppendToOutgoingContext(limit(t), "authorization", "Bearer "+token)
}

func TestAServiceWithAuthAdmitsWhomItsRulesName(t *testing.T) {
	t.Parallel()
	p, _, logs := params(t)
	p.Config.Server.AccessLog.Errors = true
	token := guarded(t, &p)
	s := build(t, p)
	up(t, s)
	chain := s.Server().Chain()
	if i := slices.Index(chain, "authentication"); i < 0 || chain[i+1] != "authorization" || slices.Index(chain, "caller") > slices.Index(chain, "access_log") {
		t.Errorf("the chain is %q", chain)
	}
	addr, _, admin := s.Addresses()
	c := testpb.NewTestServiceClient(reach(t, addr))
	if _, err := c.EmptyCall(limit(t), &testpb.Empty{}); status.Code(err) != codes.Unauthenticated {
		t.Errorf("without a token: %v", err)
	}
	if _, err := c.EmptyCall(bearing(t, token(nil)), &testpb.Empty{}); err != nil {
		t.Errorf("with a token: %v", err)
	}
	if _, err := c.UnaryCall(bearing(t, token(nil)), &testpb.SimpleRequest{}); status.Code(err) != codes.PermissionDenied {
		t.Errorf("a method that no rule speaks of: %v", err)
	}
	if logs.FilterMessageSnippet("nobody may call these methods").Len() != 1 {
		t.Error("at start nobody was told of closed methods")
	}
	if text := get(t, "http://"+admin+"/metrics"); !strings.Contains(text, `newsvc_auth_calls_total{caller="(token)",decision="admitted"} 1`) {
		t.Error("calls are not counted by caller")
	}
	if m := metrics(t, s); m["newsvc_auth_keys"] != 1 || m["newsvc_auth_keys_age_seconds"] <= 0 || m["newsvc_auth_keys_failing"] != 0 {
		t.Errorf("of the keys: %v, %v s old, failing %v", m["newsvc_auth_keys"], m["newsvc_auth_keys_age_seconds"], m["newsvc_auth_keys_failing"])
	}
}

// What an access log says of a call is written outside of authentication, and names the caller all the same.
func TestLogLinesOfTheServerSayWhoCalled(t *testing.T) {
	t.Parallel()
	p, _, logs := params(t)
	p.Config.Server.AccessLog.Errors = true
	token := guarded(t, &p)
	p.Config.Auth.Rules = []auth.Rule{{Methods: []string{"*"}, Authenticated: true}}
	s := build(t, p)
	up(t, s)
	addr, _, _ := s.Addresses()
	_, err := testpb.NewTestServiceClient(reach(t, addr)).UnaryCall(bearing(t, token(nil)), &testpb.SimpleRequest{})
	if status.Code(err) != codes.Unimplemented {
		t.Fatal(err)
	}
	eventually(t, "the line of the failed call", func() bool {
		for _, e := range logs.FilterMessage("call failed").All() {
			if e.ContextMap()["subject"] == "ann" {
				return true
			}
		}
		return false
	})
}

func TestHealthAndReflectionUnderAuth(t *testing.T) {
	t.Parallel()
	p, _, _ := params(t)
	guarded(t, &p)
	p.Process.Dev = false
	p.Config.Registration.Advertise = "127.0.0.1"
	p.Config.Registration.Enabled = false
	s := build(t, p)
	if err := s.Connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	addr, _, _ := s.Addresses()
	conn := reach(t, addr)
	if _, err := healthpb.NewHealthClient(conn).Check(limit(t), &healthpb.HealthCheckRequest{}); err != nil {
		t.Errorf("health: %v", err)
	}
	if slices.ContainsFunc(s.Server().Methods(), func(m string) bool { return strings.HasPrefix(m, "/grpc.reflection.") }) {
		t.Error("reflection is served, which nobody asked for")
	}
	p.Config.Server.Reflection = true
	s = build(t, p)
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	addr, _, _ = s.Addresses()
	err := reflect(t, reach(t, addr))
	if status.Code(err) != codes.PermissionDenied {
		t.Errorf("reflection that no rule speaks of: %v, want it closed", err)
	}
}

func TestMistakesOfAuthAreToldBeforeTheFirstCall(t *testing.T) {
	t.Parallel()
	for want, change := range map[string]func(*stack.Params){
		"nobody can prove who he is":                         func(p *stack.Params) { p.Config.Auth.JWT.JWKS, p.Config.Auth.JWT.Issuer = "", "" },
		"serves no gRPC":                                     func(p *stack.Params) { p.Serves = false },
		"auth.jwt.jwks: reading":                             func(p *stack.Params) { p.Config.Auth.JWT.JWKS = "absent.json" },
		`did you mean "grpc.testing.TestService/EmptyCall"?`: func(p *stack.Params) { p.Config.Auth.Rules[0].Methods = []string{"grpc.testing.TestService/EmptyCal"} },
	} {
		p, _, _ := params(t)
		guarded(t, &p)
		change(&p)
		s, err := stack.New(p)
		if err == nil {
			t.Cleanup(func() { _ = s.Close(context.Background()) })
			testpb.RegisterTestServiceServer(s.Server(), impl{})
			err = s.Start(t.Context())
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want it to say %q", err, want)
		}
	}
}

// A service that does not use auth pays nothing for it: its chain has no link more.
func TestWithoutAuthTheChainIsAsItWas(t *testing.T) {
	t.Parallel()
	p, _, _ := params(t)
	p.Process.Dev = false
	s := build(t, p)
	for _, link := range []string{"caller", "authentication", "authorization"} {
		if slices.Contains(s.Server().Chain(), link) {
			t.Errorf("%q is in the chain %q", link, s.Server().Chain())
		}
	}
}

func get(t *testing.T, url string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(limit(t), http.MethodGet, url, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// reflect asks for the services of a server.
func reflect(t *testing.T, conn *grpc.ClientConn) error {
	t.Helper()
	stream, err := reflectionpb.NewServerReflectionClient(conn).ServerReflectionInfo(limit(t))
	if err != nil {
		return err
	}
	_ = stream.Send(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{}})
	_, err = stream.Recv()
	return err
}
