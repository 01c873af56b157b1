package server_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/newsvc/newsvc/framework/certs"
)

// A caller whose certificate is refused learns a word of an alert. Why it was refused stands on this side.
func TestTheLogSaysWhyAHandshakeFailed(t *testing.T) {
	t.Parallel()
	cert, key := selfSigned(t, "echo-service")
	otherCert, otherKey := selfSigned(t, "stranger")
	expired := func() tls.Certificate {
		authority, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			t.Fatal(err)
		}
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		tmpl := &x509.Certificate{
			SerialNumber: big.NewInt(2), NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: time.Now().Add(-time.Hour),
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		}
		der, err := x509.CreateCertificate(rand.Reader, tmpl, authority.Leaf, k.Public(), authority.PrivateKey)
		if err != nil {
			t.Fatal(err)
		}
		return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: k}
	}
	client := func(cfg certs.ClientConfig) credentials.TransportCredentials {
		conf, err := certs.Client(cfg, "echo-service")
		if err != nil {
			t.Fatal(err)
		}
		return credentials.NewTLS(conf)
	}
	late := client(certs.ClientConfig{CA: cert})
	for name, tc := range map[string]struct {
		creds func() credentials.TransportCredentials
		want  string
	}{
		"another authority": {func() credentials.TransportCredentials {
			return client(certs.ClientConfig{CA: cert, Cert: otherCert, Key: otherKey})
		}, "unknown authority"},
		"no certificate":    {func() credentials.TransportCredentials { return late }, "didn't provide a certificate"},
		"does not trust us": {func() credentials.TransportCredentials { return client(certs.ClientConfig{CA: otherCert}) }, "remote error: tls: bad certificate"},
		"speaks no TLS":     {insecure.NewCredentials, "does not look like a TLS handshake"},
		"expired certificate": {func() credentials.TransportCredentials {
			pool := x509.NewCertPool()
			own, err := tls.LoadX509KeyPair(cert, key)
			if err != nil {
				t.Fatal(err)
			}
			pool.AddCert(own.Leaf)
			pair := expired()
			return credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS13, RootCAs: pool, ServerName: "echo-service", GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }})
		}, "expired"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			core, logs := observer.New(zapcore.WarnLevel)
			p := params()
			p.Log = zap.New(core)
			p.Config.TLS = certs.ServerConfig{Cert: cert, Key: key, ClientCA: cert}
			s := start(t, p, &echo{})
			for range 2 { // told once
				if _, err := invoke(t, dial(t, s, grpc.WithTransportCredentials(tc.creds())), "x"); err == nil {
					t.Error("the call went through")
				}
			}
			probe, err := net.Dial("tcp", s.Addr())
			if err != nil {
				t.Fatal(err)
			}
			_ = probe.Close() // is no failure
			told := logs.FilterMessage("a TLS handshake failed").All()
			tick, until := time.NewTicker(2*time.Millisecond), time.Now().Add(10*time.Second) // the peer may know before the log
			defer tick.Stop()
			for ; len(told) == 0 && time.Now().Before(until); <-tick.C {
				told = logs.FilterMessage("a TLS handshake failed").All()
			}
			if len(told) != 1 {
				t.Fatalf("told %d times: %v", len(told), told)
			}
			if why, _ := told[0].ContextMap()["error"].(string); !strings.Contains(why, tc.want) {
				t.Errorf("the log says %q, want %q", why, tc.want)
			}
		})
	}
}
