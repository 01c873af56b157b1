package interop_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	testpb "google.golang.org/grpc/interop/grpc_testing"

	"github.com/newsvc/newsvc/framework/certs"
	"github.com/newsvc/newsvc/framework/client"
	"github.com/newsvc/newsvc/framework/discovery/discoverytest"
	"github.com/newsvc/newsvc/framework/server"
	"github.com/newsvc/newsvc/framework/stack"
)

const (
	callee = "interop-service"
	// identity is the SPIFFE ID of its certificate.
	identity = "spiffe://example.org/interop-service"
)

// lab is a running service, three instances found by name, and what callers of it are made of.
type lab struct {
	registry *discoverytest.Registry
	tls      certs.ClientConfig
	servers  []*stack.Stack
}

// labOptions say how a lab differs from a service as it comes.
type labOptions struct {
	tls     bool
	serve   func(r grpc.ServiceRegistrar, id string) // nil: the suite's service
	options []server.Option
	limits  func(*server.Limits)
}

// startLab runs the instances until the test ends.
func startLab(t *testing.T, o labOptions) *lab {
	t.Helper()
	l := &lab{registry: discoverytest.NewRegistry()}
	var own certs.ServerConfig
	if o.tls {
		cert, key := selfSigned(t, callee)
		own = certs.ServerConfig{Cert: cert, Key: key, ClientCA: cert}
		l.tls = certs.ClientConfig{Enabled: true, CA: cert, Cert: cert, Key: key}
	}
	if o.serve == nil {
		o.serve = func(r grpc.ServiceRegistrar, id string) { testpb.RegisterTestServiceServer(r, newService(id)) }
	}
	for n := range 3 {
		p := l.params(callee)
		p.Serves, p.Config.Server.TLS, p.ServerOptions = true, own, o.options
		if o.limits != nil {
			o.limits(&p.Config.Server.Limits)
		}
		s := l.build(t, p)
		o.serve(s.Server(), "server "+strconv.Itoa(n))
		if err := s.Connect(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := s.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := s.WaitRegistered(limit(t)); err != nil {
			t.Fatal(err)
		}
		l.servers = append(l.servers, s)
	}
	return l
}

func (l *lab) params(name string) stack.Params {
	cfg := stack.DefaultConfig()
	cfg.Server.Listen, cfg.Admin.Enabled = "127.0.0.1:0", false
	cfg.Server.Drain.MinWindow = 0
	return stack.Params{
		Service: name, Config: cfg, Process: stack.Process{Dev: true},
		Replace: stack.Replace{Source: l.registry, Registrar: l.registry},
	}
}

func (*lab) build(t *testing.T, p stack.Params) *stack.Stack {
	t.Helper()
	s, err := stack.New(p)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 20*time.Second)
		defer cancel()
		if err := s.Close(ctx); err != nil {
			t.Errorf("closing %q: %v", p.Service, err)
		}
	})
	return s
}

// caller is a connection of a process of its own, with the bytes that went over it.
type caller struct {
	*client.Conn
	update         func(client.Policy) error // makes it the policy
	sent, received atomic.Int64
}

// call makes a process that calls the service, under the default policy as change alters it.
func (l *lab) call(t *testing.T, change func(*client.Policy)) *caller {
	t.Helper()
	c := &caller{}
	p := l.params("interop-caller")
	p.Callees, p.Config.ClientDefaults.TLS = []string{callee}, l.tls
	if change != nil {
		change(&p.Config.ClientDefaults)
	}
	p.Replace.Dial = c.dial
	s := l.build(t, p)
	if err := s.Connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	conn, err := s.Clients().Conn(callee)
	if err != nil {
		t.Fatal(err)
	}
	c.Conn = conn
	c.update = func(p client.Policy) error { return s.Clients().Update(callee, p) }
	return c
}

func (c *caller) dial(ctx context.Context, addr string) (net.Conn, error) {
	raw, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	return counted{raw, c}, nil
}

type counted struct {
	net.Conn
	by *caller
}

func (c counted) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.by.received.Add(int64(n))
	return n, err
}

func (c counted) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.by.sent.Add(int64(n))
	return n, err
}

// shell returns a *grpc.ClientConn, which some cases of the suite ask for, whose calls all go through conn. It never
// connects by itself.
func shell(conn grpc.ClientConnInterface) (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:///nobody", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithUnaryInterceptor(func(ctx context.Context, method string, req, reply any, _ *grpc.ClientConn, _ grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			return conn.Invoke(ctx, method, req, reply, opts...)
		}),
		grpc.WithStreamInterceptor(func(ctx context.Context, desc *grpc.StreamDesc, _ *grpc.ClientConn, method string, _ grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
			return conn.NewStream(ctx, desc, method, opts...)
		}),
	)
}

// limit bounds a wait that ends long before unless something is broken.
func limit(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// selfSigned writes a certificate for name that is its own authority, for servers and for clients.
func selfSigned(t *testing.T, name string) (cert, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	id, err := url.Parse(identity)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{name}, URIs: []*url.URL{id}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for path, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: keyDER}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}

// wholeChain fails the test unless the server has every link that it has by default.
func wholeChain(t *testing.T, s *stack.Stack) {
	t.Helper()
	chain := s.Server().Chain()
	for _, link := range []string{server.SlotTelemetry, server.SlotRecovery, server.SlotAuthority, server.SlotValidation} {
		if !slices.Contains(chain, link) {
			t.Fatalf("the chain is %q, without %q", chain, link)
		}
	}
}
