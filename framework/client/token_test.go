package client_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/newsvc/newsvc/framework/client"
)

// answerToken answers with the authorization that came.
func answerToken(_ *server, _, _ string, stream grpc.ServerStream) error {
	md, _ := metadata.FromIncomingContext(stream.Context())
	got := "none"
	if len(md["authorization"]) > 0 {
		got = md["authorization"][0]
	}
	return stream.SendMsg(wrapperspb.String(got))
}

func writeToken(t *testing.T, path, token string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(token), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestATokenIsSentFromItsFileAndReadAgain(t *testing.T) {
	t.Parallel()
	pair, ca := certificateFor(t, "user-service")
	s := startServer(t, "127.0.0.1:0", answerToken, grpc.Creds(credentials.NewServerTLSFromCert(&pair)))
	path := filepath.Join(t.TempDir(), "token")
	writeToken(t, path, "first\n")
	c := connect(t, newRegistry(s.addr), func(p *client.Policy) { p.TLS.CA, p.TokenFile = ca, path })
	if got := mustCall(t, c); got != "Bearer first" {
		t.Fatalf("authorization = %q", got)
	}
	writeToken(t, path, "second")
	eventually(t, "the new token is sent", func() bool { return mustCall(t, c) == "Bearer second" })
	writeToken(t, path, "")
	writeToken(t, path+".next", "third")
	pause(t, 1100*time.Millisecond) // calls look at the file once a second
	if got := mustCall(t, c); got != "Bearer second" {
		t.Errorf("with an empty file authorization = %q, want the last good token", got)
	}
	if err := os.Rename(path+".next", path); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the file that took its place is read", func() bool { return mustCall(t, c) == "Bearer third" })
}

func TestATokenIsSentWithoutTLSOnlyWhenAllowed(t *testing.T) {
	t.Parallel()
	s := startServer(t, "127.0.0.1:0", answerToken)
	p := client.DefaultPolicy()
	p.TokenFile = filepath.Join(t.TempDir(), "token")
	_, err := client.NewFactory(client.Params{Caller: "caller", Resolver: newRegistry(s.addr), Default: p})
	contains(t, err, "clients.defaults.token_file: ", "tls.enabled: true", "token_without_tls")
	p.TokenWithoutTLS = true
	f := newFactoryOf(t, client.Params{Caller: "caller", Resolver: newRegistry(s.addr), Default: p})
	_, err = f.Conn("user-service")
	contains(t, err, "token_file: reading the token", p.TokenFile)
	writeToken(t, p.TokenFile, "Bearer twice")
	_, err = f.Conn("user-service")
	contains(t, err, "write the token alone")
	writeToken(t, p.TokenFile, "open")
	if got := mustCall(t, mustConn(t, f, "user-service")); got != "Bearer open" {
		t.Errorf("authorization = %q", got)
	}
}
