package etcdclient_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/newsvc/newsvc/framework/certs"
	"github.com/newsvc/newsvc/framework/etcdclient"
)

func TestTLSAndPassword(t *testing.T) {
	t.Parallel()
	f := newFiles(t)
	addr, admin := startSecureEtcd(t, transport.TLSInfo{CertFile: f.serverCert, KeyFile: f.serverKey})
	enableAuth(t, admin)

	cfg := config(addr)
	cfg.TLS = certs.ClientConfig{CA: f.ca}
	cfg.Username, cfg.Password = "root", "secret"
	works(t, cfg)

	cfg.Password = "wrong"
	if err := put(t, newClient(t, cfg, nil)); err == nil || !strings.Contains(err.Error(), "authentication failed") {
		t.Errorf("put with a wrong password: %v, want it refused as such", err)
	}
}

func TestMutualTLSNamesTheUser(t *testing.T) {
	t.Parallel()
	f := newFiles(t)
	addr, admin := startSecureEtcd(t, transport.TLSInfo{
		CertFile: f.serverCert, KeyFile: f.serverKey, TrustedCAFile: f.ca, ClientCertAuth: true,
	})
	enableAuth(t, admin)

	// The common name of this certificate is an etcd user, and etcd asks for no password then.
	cfg := config("https://" + addr)
	cfg.TLS = certs.ClientConfig{CA: f.ca, Cert: f.rootCert, Key: f.rootKey}
	works(t, cfg)

	cfg.TLS = certs.ClientConfig{CA: f.ca, Cert: f.strangerCert, Key: f.strangerKey}
	if err := put(t, newClient(t, cfg, nil)); err == nil || !strings.Contains(err.Error(), "permission denied") {
		t.Errorf("put by a user without permission: %v, want it refused as such", err)
	}
	cfg.TLS = certs.ClientConfig{CA: f.ca}
	if err := put(t, newClient(t, cfg, nil)); err == nil {
		t.Error("put without a certificate succeeded")
	}
}

func TestEtcdOfAnotherAuthorityIsRefusedWithTheReason(t *testing.T) {
	t.Parallel()
	f, other := newFiles(t), newFiles(t)
	addr, _ := startSecureEtcd(t, transport.TLSInfo{CertFile: f.serverCert, KeyFile: f.serverKey})
	core, logs := observer.New(zapcore.WarnLevel)
	cfg := config(addr)
	cfg.TLS = certs.ClientConfig{CA: other.ca}
	if err := put(t, newClient(t, cfg, zap.New(core))); err == nil {
		t.Fatal("put to an etcd whose certificate nobody vouches for succeeded")
	}
	said := ""
	for _, e := range logs.All() {
		for _, v := range e.ContextMap() {
			if text, ok := v.(string); ok {
				said += text + "\n"
			}
		}
	}
	if !strings.Contains(said, "certificate") {
		t.Errorf("the log says %q, want the reason, the certificate", said)
	}
}

// works writes, reads by a watch and keeps a lease alive: unary calls and both kinds of streams.
func works(t *testing.T, cfg etcdclient.Config) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	cli := newClient(t, cfg, nil)
	lease, err := cli.Grant(ctx, 30)
	if err != nil {
		t.Fatalf("grant: %v", err)
	}
	put, err := cli.Put(ctx, "k", "v", clientv3.WithLease(lease.ID))
	if err != nil {
		t.Fatalf("put: %v", err)
	}
	seen := <-cli.Watch(ctx, "k", clientv3.WithRev(put.Header.Revision))
	if seen.Err() != nil || len(seen.Events) != 1 || string(seen.Events[0].Kv.Value) != "v" {
		t.Fatalf("watch: %+v %v", seen, seen.Err())
	}
	if _, err := cli.KeepAliveOnce(ctx, lease.ID); err != nil {
		t.Fatalf("keep alive: %v", err)
	}
}

func put(t *testing.T, cli *clientv3.Client) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	_, err := cli.Put(ctx, "k", "v")
	return err
}

// startSecureEtcd starts an etcd that speaks TLS only and returns its address and a client inside of it that needs
// neither certificate nor password. It is not devetcd, which has no TLS.
func startSecureEtcd(t *testing.T, info transport.TLSInfo) (addr string, admin *clientv3.Client) {
	t.Helper()
	client := url.URL{Scheme: "https", Host: freeAddr(t)}
	s := startEmbedded(t, func(c *embed.Config) {
		c.ListenClientUrls, c.AdvertiseClientUrls = []url.URL{client}, []url.URL{client}
		c.ClientTLSInfo = info
	})
	admin = v3client.New(s.Server)
	t.Cleanup(func() { _ = admin.Close() })
	return client.Host, admin
}

// startEmbedded starts an etcd in this process and returns when it serves.
func startEmbedded(t *testing.T, change func(*embed.Config)) *embed.Etcd {
	t.Helper()
	c := embed.NewConfig()
	c.Dir = t.TempDir()
	c.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())
	c.ListenPeerUrls = nil
	c.EnableGRPCGateway = false
	c.TickMs, c.ElectionMs = 10, 100
	c.UnsafeNoFsync = true
	c.BcryptCost = 4
	change(c)
	s, err := embed.StartEtcd(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	select {
	case <-s.Server.ReadyNotify():
	case err := <-s.Err():
		t.Fatal(err)
	case <-t.Context().Done():
		t.Fatal(t.Context().Err())
	}
	return s
}

// files are those of one authority: a server certificate for 127.0.0.1 and client certificates of two users.
type files struct {
	ca, serverCert, serverKey, rootCert, rootKey, strangerCert, strangerKey string
}

func newFiles(t *testing.T) files {
	t.Helper()
	dir := t.TempDir()
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	caKey := newKey(t)
	var f files
	f.ca, _ = issue(t, dir, ca, ca, caKey, caKey)
	leaf := func(serial int64, name string) (cert, key string) {
		return issue(t, dir, &x509.Certificate{
			SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
			NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		}, ca, newKey(t), caKey)
	}
	f.serverCert, f.serverKey = leaf(2, "etcd")
	f.rootCert, f.rootKey = leaf(3, "root")
	f.strangerCert, f.strangerKey = leaf(4, "stranger")
	return f
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func issue(t *testing.T, dir string, cert, parent *x509.Certificate, key, parentKey *ecdsa.PrivateKey) (certFile, keyFile string) {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, cert, parent, key.Public(), parentKey)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	write := func(suffix, kind string, der []byte) string {
		name := filepath.Join(dir, cert.Subject.CommonName+suffix)
		if err := os.WriteFile(name, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	return write(".pem", "CERTIFICATE", der), write(".key", "PRIVATE KEY", keyDER)
}
