package deploy_test

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
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// TestEtcdIsTheOneThatIsLinked keeps tools/etcd at the version that the framework is built with.
func TestEtcdIsTheOneThatIsLinked(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join(root, "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	for _, module := range []string{"go.etcd.io/etcd/server/v3", "go.etcd.io/etcd/etcdctl/v3"} {
		if v := toolVersion(t, "etcd", module); !strings.Contains(string(text), "go.etcd.io/etcd/server/v3 "+v+"\n") {
			t.Errorf("tools/etcd has %s %s; the framework links another", module, v)
		}
	}
}

// cluster is an etcd as its operators run it: a process of its own, asked by etcdctl.
type cluster struct {
	t        *testing.T
	endpoint string
	dir      string   // of a service that is configured for it
	env      []string // what an operator has set
	flags    []string // of etcdctl
}

func (c *cluster) etcdctl(args ...string) string {
	c.t.Helper()
	return strings.TrimSpace(command(c.t, c.dir, c.env, filepath.Join(bin, "etcdctl"), append(c.flags, args...)...))
}

// startCluster starts etcd, with certificates on both sides and users if it is secure, and writes a service that is configured for it.
func startCluster(t *testing.T, secure bool) *cluster {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	_ = l.Close()
	c := &cluster{t: t, dir: filepath.Join(t.TempDir(), "my service"), endpoint: "http://" + addr}
	conf := "etcd:\n  endpoints: [" + addr + "]\n"
	var args []string
	if secure {
		certs := filepath.Join(c.dir, "my certs")
		certificate(t, certs)
		ca, cert, key := filepath.Join(certs, "ca.pem"), filepath.Join(certs, "cert.pem"), filepath.Join(certs, "key.pem")
		c.endpoint = "https://" + addr
		args = []string{"--cert-file", cert, "--key-file", key, "--trusted-ca-file", ca, "--client-cert-auth"}
		c.flags = []string{"--cacert=" + ca, "--cert=" + cert, "--key=" + key}
		conf += "  username: root\n  password: geheim\n  tls:\n    ca: my certs/ca.pem\n    cert: my certs/cert.pem\n    key: my certs/key.pem\n"
	}
	c.flags = append(c.flags, "--endpoints="+c.endpoint)
	write(t, filepath.Join(c.dir, "go.mod"), []byte("module example.com/x\n\ngo 1.26.0\n"))
	write(t, filepath.Join(c.dir, "newsvc.yaml"), []byte("kind: service\nname: x\n"))
	write(t, filepath.Join(c.dir, "config.yaml"), []byte(conf))
	c.run(append([]string{"--data-dir", t.TempDir(), "--listen-client-urls", c.endpoint, "--advertise-client-urls", c.endpoint,
		"--listen-peer-urls", "http://127.0.0.1:0", "--logger", "zap", "--log-level", "error", "--unsafe-no-fsync"}, args...))
	if secure {
		c.etcdctl("user", "add", "root:geheim")
		c.etcdctl("user", "grant-role", "root", "root")
		c.etcdctl("auth", "enable")
		c.flags = append(c.flags, "--user=root")
		c.env = []string{"ETCDCTL_PASSWORD=geheim"}
	}
	return c
}

// run starts the server, and waits until it is healthy.
func (c *cluster) run(args []string) {
	t := c.t
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	server := exec.CommandContext(ctx, filepath.Join(bin, "etcd"), args...)
	server.Dir = c.dir
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	server.Stdout, server.Stderr = log, log
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		_ = server.Wait()
		_ = log.Close()
	})
	if out, err := try(t, c.dir, nil, filepath.Join(bin, "etcdctl"), append(c.flags, "--command-timeout=60s", "--dial-timeout=60s", "get", "x")...); err != nil {
		text, _ := os.ReadFile(log.Name())
		t.Fatalf("etcd does not answer: %v\n%s\n%s", err, out, text)
	}
}

var (
	fixLine = regexp.MustCompile(`(?m)^ +fix: (.*etcdctl .*)$`)
	granted = regexp.MustCompile(`lease ([0-9a-f]+) granted`)
)

// TestRemediesOfDoctorByTheRealEtcdctl pastes what doctor says of a registry: instances that do not answer, with a lease and without,
// and leases of nobody.
func TestRemediesOfDoctorByTheRealEtcdctl(t *testing.T) {
	t.Parallel()
	for name, secure := range map[string]bool{"plain": false, "with certificates and users": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := startCluster(t, secure)
			lease := func() string {
				m := granted.FindStringSubmatch(c.etcdctl("lease", "grant", "600"))
				if m == nil {
					t.Fatal("etcdctl grants no lease")
				}
				return m[1]
			}
			c.etcdctl("put", "--lease="+lease(), "/newsvc/default/user-service/127.0.0.1:1", "127.0.0.1:1")
			c.etcdctl("put", "/newsvc/default/pay-windows/127.0.0.1:2", "127.0.0.1:2")
			for range 7 {
				lease()
			}
			out := command(t, c.dir, nil, "sh", "-c", "newsvc doctor || test $? = 4")
			fixes := fixLine.FindAllStringSubmatch(out, -1)
			if len(fixes) != 3 {
				t.Fatalf("%d remedies are of etcdctl, want two for instances and one for leases:\n%s", len(fixes), out)
			}
			for _, f := range fixes {
				t.Logf("paste: %s", f[1])
				if strings.Contains(f[1], "geheim") {
					t.Error("the password is printed")
				}
				command(t, c.dir, c.env, "sh", "-c", f[1])
			}
			after := command(t, c.dir, nil, "sh", "-c", "newsvc doctor || test $? = 4")
			if !regexp.MustCompile(`(?m)^ok    instances `).MatchString(after) || !regexp.MustCompile(`(?m)^ok    leases `).MatchString(after) {
				t.Errorf("after %q doctor says\n%s", fixes, after)
			}
			if left := c.etcdctl("lease", "list"); left != "found 0 leases" {
				t.Errorf("%s", left)
			}
			if left := c.etcdctl("get", "--prefix", "/newsvc"); left != "" {
				t.Errorf("left is %s", left)
			}
		})
	}
}

// certificate writes a certificate for 127.0.0.1, for servers and clients, which is its own authority.
func certificate(t *testing.T, dir string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	about := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "etcd"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	cert, err := x509.CreateCertificate(rand.Reader, about, about, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})
	write(t, filepath.Join(dir, "ca.pem"), text)
	write(t, filepath.Join(dir, "cert.pem"), text)
	write(t, filepath.Join(dir, "key.pem"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}))
}
