package app_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	jose "github.com/go-jose/go-jose/v4"
	"google.golang.org/grpc/codes"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/newsvc/newsvc/framework/app"
	"github.com/newsvc/newsvc/framework/apptest"
)

// Whoami is domain code: it wants to know who calls, and imports nothing for it.
type Whoami struct {
	testpb.UnimplementedTestServiceServer
	caller func(context.Context) (subject string, ok bool)
}

// NewWhoami takes what tells who calls as a parameter.
func NewWhoami(caller func(context.Context) (subject string, ok bool)) *Whoami {
	return &Whoami{caller: caller}
}

func (w *Whoami) UnaryCall(ctx context.Context, _ *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
	who, ok := w.caller(ctx)
	if !ok {
		return nil, status.Error(codes.Unauthenticated, "nobody")
	}
	return &testpb.SimpleResponse{Username: who}, nil
}

func TestConstructorsMayAskForWhatTellsWhoCalls(t *testing.T) {
	t.Parallel()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	private := jose.JSONWebKey{Key: key, KeyID: "k1"}
	set, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{private.Public()}})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "keys.json")
	if err := os.WriteFile(file, set, 0o600); err != nil {
		t.Fatal(err)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: private}, nil)
	if err != nil {
		t.Fatal(err)
	}
	payload, err := json.Marshal(map[string]any{"iss": "me", "aud": "user-service", "sub": "ann", "exp": time.Now().Add(time.Hour).Unix()})
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
	apps := apptest.Start(t, apptest.Service("user-service", app.Serve(testpb.RegisterTestServiceServer, NewWhoami)).
		Set("auth.enabled", "true").Set("auth.jwt.jwks", file).Set("auth.jwt.issuer", "me").Set("server.chain.authorization", "false"))
	c := testpb.NewTestServiceClient(apps.Conn("user-service"))
	if _, err := c.UnaryCall(t.Context(), &testpb.SimpleRequest{}); status.Convert(err).Message() != "nobody" {
		t.Errorf("without a token: %v", err)
	}
	answer, err := c.UnaryCall(metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+raw), &testpb.SimpleRequest{})
	if err != nil || answer.GetUsername() != "ann" {
		t.Errorf("with a token: %q, %v", answer.GetUsername(), err)
	}
}
