package client_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"

	"github.com/newsvc/newsvc/framework/client"
)

// certificateFor makes a self-signed certificate for name and returns it with the file to trust it by.
func certificateFor(t *testing.T, name string) (pair tls.Certificate, ca string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	ca = filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, ca
}

func TestTLSVerifiesTheCalleesName(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		certificate, serverName string
		ok                      bool
	}{
		"its own name":           {"user-service", "", true},
		"somebody else's name":   {"order-service", "", false},
		"the configured name":    {"users.example.com", "users.example.com", true},
		"not the configured one": {"user-service", "users.example.com", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pair, ca := certificateFor(t, tc.certificate)
			s := startServer(t, "127.0.0.1:0", nil, grpc.Creds(credentials.NewServerTLSFromCert(&pair)))
			p := client.DefaultPolicy()
			p.TLS.CA, p.TLS.ServerName, p.WaitForReady = ca, tc.serverName, false
			c := mustConn(t, newFactoryOf(t, client.Params{Caller: "caller", Resolver: newRegistry(s.addr), Default: p}), "user-service")
			_, err := call(t.Context(), c, methodPut)
			if tc.ok {
				if err != nil {
					t.Fatal(err)
				}
				if got := s.seen.Load(); got != "user-service" {
					t.Errorf("authority = %q, want the callee's name", got)
				}
				return
			}
			wantCode(t, err, codes.Unavailable)
			contains(t, err, "certificate", tc.certificate)
		})
	}
}

// The system does not know the authority of a test; a callee without TLS does not understand the hello.
func TestTLSThatIsEnabledAloneTrustsTheSystem(t *testing.T) {
	t.Parallel()
	pair, _ := certificateFor(t, "user-service")
	for want, opts := range map[string][]grpc.ServerOption{
		"certificate signed by unknown authority": {grpc.Creds(credentials.NewServerTLSFromCert(&pair))},
		"handshake": nil,
	} {
		s := startServer(t, "127.0.0.1:0", nil, opts...)
		p := client.DefaultPolicy()
		p.TLS.Enabled, p.WaitForReady = true, false
		_, err := call(t.Context(), mustConn(t, newFactoryOf(t, client.Params{Caller: "caller", Resolver: newRegistry(s.addr), Default: p}), "user-service"), methodPut)
		wantCode(t, err, codes.Unavailable)
		contains(t, err, want)
	}
}

// Somebody has to hear that a new authority is not used. gRPC goes on connecting to a server that it can't trust, and so
// looks at the files again.
func TestRefusedCertificateFilesAreLogged(t *testing.T) {
	t.Parallel()
	pair, ca := certificateFor(t, "order-service")
	s := startServer(t, "127.0.0.1:0", nil, grpc.Creds(credentials.NewServerTLSFromCert(&pair)))
	core, logs := observer.New(zapcore.WarnLevel)
	p := client.DefaultPolicy()
	p.TLS.CA = ca
	f := newFactoryOf(t, client.Params{Caller: "caller", Resolver: newRegistry(s.addr), Default: p, Log: zap.New(core)})
	mustConn(t, f, "user-service").Connect()
	if err := os.WriteFile(ca, []byte("half of it"), 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the refused file to be told of", func() bool {
		return logs.FilterMessageSnippet("refused").FilterField(zap.String("callee", "user-service")).Len() > 0
	})
}
