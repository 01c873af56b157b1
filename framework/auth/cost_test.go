package auth_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/newsvc/newsvc/framework/auth"
)

// TestAKnownTokenCostsThreeAllocations runs alone: AllocsPerRun counts the allocations of the whole process. They are the
// context that carries the identity, gRPC's copy of the metadata, and what the hash is worked out in.
func TestAKnownTokenCostsThreeAllocations(t *testing.T) {
	iss := newIssuer(t, "k1")
	a, err := auth.New(auth.Params{Service: "user-service", Config: config(iss.file())})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Close)
	if err := a.Bind(methods()); err != nil {
		t.Fatal(err)
	}
	authenticate, _ := a.Authenticate()
	authorize, _ := a.Authorize()
	info := infoOf(read)
	ctx := metadata.NewIncomingContext(t.Context(), metadata.Pairs("authorization", "Bearer "+iss.token(nil)))
	handled := 0
	handler := func(context.Context, any) (any, error) { handled++; return nil, nil }
	inner := func(ctx context.Context, req any) (any, error) { return authorize(ctx, req, info, handler) }
	n := testing.AllocsPerRun(100, func() { _, _ = authenticate(ctx, nil, info, inner) })
	if handled != 101 || n > 3 {
		t.Errorf("%v allocations in %d calls that were admitted, want 3", n, handled)
	}
}

// BenchmarkCall shows what authentication adds to a call, client and server in one process over a pipe.
func BenchmarkCall(b *testing.B) {
	run := func(name, method, token string, cfg auth.Config, opts ...option) {
		b.Run(name, func(b *testing.B) {
			bench := newBench(b, cfg, opts...)
			ctx := b.Context()
			if token != "" {
				ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
			}
			in, out := new(emptypb.Empty), new(wrapperspb.StringValue)
			b.ReportAllocs()
			for b.Loop() {
				if err := bench.conn.Invoke(ctx, method, in, out); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	iss := newIssuer(b, "k1")
	tokens := config(iss.file())
	none := tokens
	none.JWT.Cache = 0
	ca := newAuthority(b)
	raw := iss.token(nil)
	run("health, which is open", "/grpc.health.v1.Health/Check", "", tokens)
	run("token, known", read, raw, tokens)
	run("token, not remembered", read, raw, none)
	run("TLS, open", "/grpc.health.v1.Health/Check", "", tokens, ca.oneSided())
	run("mTLS, service admitted", read, "", tokens, ca.presenting(ca.issue("", "gateway")))
	run("mTLS and token", read, raw, tokens, ca.presenting(ca.issue("", "gateway")))
}

// BenchmarkHandshake is a connection made anew, with certificates on both sides.
func BenchmarkHandshake(b *testing.B) {
	ca := newAuthority(b)
	bench := newBench(b, config(newIssuer(b, "k1").file()), ca.presenting(ca.issue("", "gateway")))
	in, out := new(emptypb.Empty), new(wrapperspb.StringValue)
	for b.Loop() {
		conn, err := bench.dial()
		if err != nil {
			b.Fatal(err)
		}
		if err := conn.Invoke(b.Context(), read, in, out); err != nil {
			b.Fatal(err)
		}
		_ = conn.Close()
	}
}

// oneSided has only the server present a certificate.
func (a *authority) oneSided() option {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	server := credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{a.issue("", "user-service")}})
	client := credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS13, RootCAs: pool, ServerName: "user-service"})
	return func(_ *auth.Params, s *[]grpc.ServerOption, d *[]grpc.DialOption) {
		*s, *d = append(*s, grpc.Creds(server)), append(*d, grpc.WithTransportCredentials(client))
	}
}
