package stack_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/newsvc/newsvc/framework/certs"
	"github.com/newsvc/newsvc/framework/client"
)

// selfSigned writes a certificate for loopback and its key.
func selfSigned(t *testing.T, until time.Time) certs.ServerConfig {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: until, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	out := certs.ServerConfig{Cert: filepath.Join(dir, "tls.crt"), Key: filepath.Join(dir, "tls.key")}
	for file, block := range map[string]*pem.Block{out.Cert: {Type: "CERTIFICATE", Bytes: der}, out.Key: {Type: "EC PRIVATE KEY", Bytes: keyDER}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

func TestMetricsTellWhenCertificatesExpire(t *testing.T) {
	t.Parallel()
	p, _, _ := params(t)
	until := time.Now().Add(48 * time.Hour)
	p.Config.Admin.TLS = selfSigned(t, until)
	p.Config.Admin.TLS.ClientCA = p.Config.Admin.TLS.Cert // one file in two roles
	p.Config.HTTP.TLS = selfSigned(t, until)
	policy := client.DefaultPolicy()
	policy.TLS = certs.ClientConfig{CA: p.Config.Admin.TLS.Cert}
	p.Config.Clients = map[string]client.Policy{"order-service": policy}
	s := build(t, p)
	if err := os.Remove(p.Config.HTTP.TLS.Cert); err != nil {
		t.Fatal(err)
	}
	m := metrics(t, s)
	for key, want := range map[string]float64{
		p.Config.Admin.TLS.Cert + " admin":                 float64(until.Unix()),
		p.Config.Admin.TLS.Cert + " clients.order-service": float64(until.Unix()),
		p.Config.HTTP.TLS.Cert + " http":                   0,
	} {
		if got, told := m["newsvc_certificate_expiry_timestamp_seconds "+key]; !told || got != want {
			t.Errorf("%s expires at %v (%t), want %v", key, got, told, want)
		}
	}
}
