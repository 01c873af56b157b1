package stack_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"

	"github.com/newsvc/newsvc/framework/config"
	"github.com/newsvc/newsvc/framework/devetcd"
	"github.com/newsvc/newsvc/framework/discovery"
	"github.com/newsvc/newsvc/framework/server"
	"github.com/newsvc/newsvc/framework/stack"
)

// counting counts the unary calls that come to the server, whatever becomes of them; streams are those of health checks.
func counting(n *atomic.Int64) server.Option {
	return server.Before(server.SlotAuthority, server.Interceptor{
		Name: "counting",
		Unary: func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
			n.Add(1)
			return h(ctx, req)
		},
	})
}

// calling is a process that serves nothing and calls user-service.
func calling(t *testing.T, replace stack.Replace, change func(*stack.Config)) *stack.Stack {
	t.Helper()
	p, _, _ := params(t)
	p.Service, p.Serves, p.Callees, p.Replace = "gateway", false, []string{service}, replace
	if change != nil {
		change(&p.Config)
	}
	s := build(t, p)
	if err := s.Connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

func clientOf(t *testing.T, s *stack.Stack) testpb.TestServiceClient {
	t.Helper()
	conn, err := s.Clients().Conn(service)
	if err != nil {
		t.Fatal(err)
	}
	return testpb.NewTestServiceClient(conn)
}

// An address of a dead instance may belong to another service before the registry has noticed. What comes there is
// refused by the other service and answered by a living instance, idempotent or not.
func TestC10CallsToAReusedAddressAreAnsweredByTheRightService(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ healthCheck bool }{
		"repeated after the refusal":                 {false},
		"not even picked, as its health check fails": {true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, reg, _ := params(t)
			var right, wrong, executed atomic.Int64
			p.ServerOptions = []server.Option{counting(&right)}
			up(t, build(t, p))
			p.Service, p.ServerOptions = "order-service", []server.Option{counting(&wrong), server.After(server.SlotAuthority, server.Interceptor{
				Name: "executed",
				Unary: func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
					executed.Add(1)
					return h(ctx, req)
				},
			})}
			other := build(t, p)
			up(t, other)
			addr, _, _ := other.Addresses()
			reg.Put(&discovery.Instance{Service: service, Addr: addr})

			users := clientOf(t, calling(t, stack.Replace{Source: reg, Registrar: reg}, func(c *stack.Config) {
				c.ClientDefaults.HealthCheck = tc.healthCheck
			}))
			calls := int64(0)
			for calls < 50 || !tc.healthCheck && wrong.Load() == 0 {
				// The proto does not say that EmptyCall is idempotent.
				if _, err := users.EmptyCall(limit(t), &testpb.Empty{}); err != nil {
					t.Fatal(err)
				}
				calls++
			}
			if n := right.Load(); n != calls {
				t.Errorf("the right service saw %d calls, want %d", n, calls)
			}
			if n := executed.Load(); n != 0 {
				t.Errorf("the other service executed %d calls", n)
			}
			if n := wrong.Load(); tc.healthCheck && n != 0 {
				t.Errorf("%d calls came to the other service", n)
			}
		})
	}
}

// The error of a call that found nobody is what somebody has who forgot to start a service or mistyped a prefix.
func TestACallWithoutInstancesSaysWhereItLookedAndWhy(t *testing.T) {
	t.Parallel()
	etcd, err := devetcd.Start(t.Context(), devetcd.Config{Fast: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = etcd.Close() })
	nobody := reserved(t)
	for name, tc := range map[string]struct {
		endpoint string
		want     []string
	}{
		"nobody is registered": {etcd.Addr(), []string{`"user-service"`, `"/newsvc/there"`, "is it running and registered under the same prefix?"}},
		"etcd is away":         {nobody, []string{`"user-service"`, `"/newsvc/there"`, nobody, "is it running, and is etcd.endpoints right?"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := calling(t, stack.Replace{}, func(c *stack.Config) {
				c.Etcd.Endpoints, c.Discovery.Prefix = []string{tc.endpoint}, "/newsvc/there"
				c.Etcd.CallTimeout = 500 * time.Millisecond
				c.ClientDefaults.Timeout = 2 * time.Second
			})
			_, err := clientOf(t, s).EmptyCall(t.Context(), &testpb.Empty{})
			if err == nil {
				t.Fatal("somebody answered")
			}
			for _, want := range tc.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q is not in: %v", want, err)
				}
			}
			if n := strings.Count(err.Error(), "no instances of"); n != 1 {
				t.Errorf("the reason is told %d times: %v", n, err)
			}
		})
	}
}

// Both sides take their certificates from the configuration; the name that is verified is the callee's.
func TestMutualTLSByCalleeName(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	authority := newAuthority(t, dir)
	authority.issue(t, service)
	authority.issue(t, "order-service")
	authority.issue(t, "gateway")

	serve := func(t *testing.T, certificate string) stack.Replace {
		p, reg, _ := params(t)
		p.Settings, p.Config = load(t, dir, service, fmt.Sprintf(
			"server:\n  listen: 127.0.0.1:0\n  tls: {cert: %[1]s.pem, key: %[1]s.key, client_ca: %[2]s}\n", filepath.Join(dir, certificate), filepath.Join(dir, "ca.pem")))
		up(t, build(t, p))
		return stack.Replace{Source: reg, Registrar: reg}
	}
	call := func(t *testing.T, replace stack.Replace, tls string) error {
		p, _, _ := params(t)
		p.Service, p.Serves, p.Callees, p.Replace = "gateway", false, []string{service}, replace
		p.Settings, p.Config = load(t, dir, "gateway", "clients:\n  user-service:\n    timeout: 2s\n    wait_for_ready: false\n    tls: "+tls+"\n", service)
		s := build(t, p)
		if err := s.Connect(t.Context()); err != nil {
			t.Fatal(err)
		}
		_, err := clientOf(t, s).EmptyCall(t.Context(), &testpb.Empty{})
		return err
	}
	in := func(name string) string { return filepath.Join(dir, name) }
	withCert := fmt.Sprintf("{ca: %s, cert: %s, key: %s}", in("ca.pem"), in("gateway.pem"), in("gateway.key"))
	t.Run("both sides show who they are", func(t *testing.T) {
		t.Parallel()
		if err := call(t, serve(t, service), withCert); err != nil {
			t.Error(err)
		}
	})
	for name, tc := range map[string]struct{ certificate, tls, want string }{
		// In TLS 1.3 the caller's handshake is over before the refusal comes, so its text may be lost with the connection.
		"a caller without a certificate":       {service, "{ca: " + in("ca.pem") + "}", ""},
		"a callee with somebody else's":        {"order-service", withCert, `certificate is valid for order-service, not user-service`},
		"a callee of an authority not trusted": {service, "{enabled: true}", "unknown authority"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := call(t, serve(t, tc.certificate), tc.tls)
			if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("err = %v, want UNAVAILABLE with %q", err, tc.want)
			}
		})
	}
}

// load reads a configuration as a process does that is called name; ports are free ones.
func load(t *testing.T, dir, name, yaml string, callees ...string) (*config.Config, stack.Config) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(file, []byte(yaml), 0o600); err != nil {
		t.Fatal(err)
	}
	settings, c, err := stack.LoadConfig(config.Sources{Service: name, Args: []string{"--config", file, "--set", "admin.listen=127.0.0.1:0"}, Dir: dir}, callees)
	if err != nil {
		t.Fatal(err)
	}
	return settings, c
}

// authority issues certificates into a directory: NAME.pem with NAME.key, and ca.pem to trust them by.
type authority struct {
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	next int64
}

func newAuthority(t *testing.T, dir string) *authority {
	t.Helper()
	a := &authority{dir: dir, next: 2, cert: &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}}
	a.key = a.write(t, "ca", a.cert, nil)
	return a
}

func (a *authority) issue(t *testing.T, name string) {
	t.Helper()
	a.next++
	a.write(t, name, &x509.Certificate{
		SerialNumber: big.NewInt(a.next), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, a.key)
}

// write signs with by, or with the new key itself.
func (a *authority) write(t *testing.T, name string, cert *x509.Certificate, by *ecdsa.PrivateKey) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if by == nil {
		by = key
	}
	der, err := x509.CreateCertificate(rand.Reader, cert, a.cert, key.Public(), by)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{".pem": {Type: "CERTIFICATE", Bytes: der}, ".key": {Type: "PRIVATE KEY", Bytes: keyDER}} {
		if err := os.WriteFile(filepath.Join(a.dir, name+file), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return key
}
