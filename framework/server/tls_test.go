package server_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/newsvc/newsvc/framework/certs"
)

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

func TestMutualTLS(t *testing.T) {
	t.Parallel()
	cert, key := selfSigned(t, "echo-service")
	p := params()
	p.Config.TLS = certs.ServerConfig{Cert: cert, Key: key, ClientCA: cert}
	s := start(t, p, &echo{})
	for name, tc := range map[string]struct {
		client certs.ClientConfig
		ok     bool
	}{
		"with a client certificate":    {certs.ClientConfig{CA: cert, Cert: cert, Key: key}, true},
		"without a client certificate": {certs.ClientConfig{CA: cert}, false},
	} {
		conf, err := certs.Client(tc.client, "echo-service")
		if err != nil {
			t.Fatal(err)
		}
		_, err = invoke(t, dial(t, s, grpc.WithTransportCredentials(credentials.NewTLS(conf))), "x")
		if (err == nil) != tc.ok {
			t.Errorf("%s: %v, want success = %v", name, err, tc.ok)
		}
	}
}
