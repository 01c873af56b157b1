package certs_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/grpc/test/bufconn"

	"github.com/newsvc/newsvc/framework/certs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// bench is one server and one client with files of their own, all by the authority ca.
type bench struct {
	t      *testing.T
	dir    string
	ca     *authority
	server certs.ServerConfig
	client certs.ClientConfig
}

// newBench writes files for a server called name; the client has a certificate for "caller" that nobody asks for yet.
func newBench(t *testing.T, name string) *bench {
	t.Helper()
	b := &bench{t: t, dir: t.TempDir(), ca: newAuthority(t, "first")}
	b.server = certs.ServerConfig{Cert: b.file("s.pem"), Key: b.file("s.key")}
	b.client = certs.ClientConfig{CA: write(t, b.file("ca.pem"), b.ca.pem), Cert: b.file("c.pem"), Key: b.file("c.key")}
	b.issueServer(b.ca, name)
	cert, key := b.ca.issue(t, "caller", time.Now().Add(time.Hour))
	write(t, b.client.Cert, cert)
	write(t, b.client.Key, key)
	return b
}

func (b *bench) file(name string) string { return filepath.Join(b.dir, name) }

func (b *bench) issueServer(ca *authority, name string) {
	cert, key := ca.issue(b.t, name, time.Now().Add(time.Hour))
	write(b.t, b.server.Cert, cert)
	write(b.t, b.server.Key, key)
}

func (b *bench) configs(name string, opts ...certs.Option) (s, c *tls.Config) {
	b.t.Helper()
	s, err := certs.Server(b.server, opts...)
	if err != nil {
		b.t.Fatal(err)
	}
	c, err = certs.Client(b.client, name, opts...)
	if err != nil {
		b.t.Fatal(err)
	}
	return s, c
}

// handshake runs one over an in-memory pipe and returns what the client saw and both verdicts. A byte is exchanged, because
// with TLS 1.3 a client learns only then that its certificate was refused.
func handshake(t *testing.T, sc, cc *tls.Config) (state tls.ConnectionState, serverErr, clientErr error) {
	t.Helper()
	// A buffered pipe: with net.Pipe, an alert meeting a flight of the other side would block both.
	lis := bufconn.Listen(1 << 16)
	served := make(chan error, 1)
	go func() {
		a, err := lis.Accept()
		if err != nil {
			served <- err
			return
		}
		s := tls.Server(a, sc)
		err = s.Handshake()
		if err == nil {
			_, err = s.Write([]byte("x"))
		}
		_ = a.Close()
		served <- err
	}()
	b, err := lis.DialContext(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c := tls.Client(b, cc)
	clientErr = c.HandshakeContext(t.Context())
	if clientErr == nil {
		_, clientErr = io.ReadFull(c, make([]byte, 1))
	}
	state = c.ConnectionState()
	_ = b.Close()
	return state, <-served, clientErr
}

func pass(ctx context.Context, t *testing.T, d time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	<-ctx.Done()
}

func TestPlaintextIsNoConfig(t *testing.T) {
	t.Parallel()
	s, err := certs.Server(certs.ServerConfig{})
	if s != nil || err != nil {
		t.Errorf("Server = %v, %v, want nil, nil", s, err)
	}
	c, err := certs.Client(certs.ClientConfig{}, "user-service")
	if c != nil || err != nil {
		t.Errorf("Client = %v, %v, want nil, nil", c, err)
	}
}

func TestHandshakeSucceedsWithTLS13(t *testing.T) {
	t.Parallel()
	b := newBench(t, "user-service")
	sc, cc := b.configs("user-service")
	state, serr, cerr := handshake(t, sc, cc)
	if serr != nil || cerr != nil {
		t.Fatalf("server %v, client %v", serr, cerr)
	}
	if state.Version != tls.VersionTLS13 {
		t.Errorf("version = %s, want TLS 1.3", tls.VersionName(state.Version))
	}
	cc.MaxVersion, cc.MinVersion = tls.VersionTLS12, tls.VersionTLS12
	if _, serr, _ := handshake(t, sc, cc); serr == nil {
		t.Error("TLS 1.2 was accepted without AllowTLS12")
	}
}

func TestServersThatAreRefused(t *testing.T) {
	t.Parallel()
	t.Run("wrong name", func(t *testing.T) {
		t.Parallel()
		b := newBench(t, "user-service")
		sc, cc := b.configs("order-service")
		_, _, err := handshake(t, sc, cc)
		wantText(t, err, `verifying the certificate of "order-service"`)
	})
	t.Run("unknown authority", func(t *testing.T) {
		t.Parallel()
		b := newBench(t, "user-service")
		b.issueServer(newAuthority(t, "stranger"), "user-service")
		sc, cc := b.configs("user-service")
		_, _, err := handshake(t, sc, cc)
		wantText(t, err, "unknown authority")
	})
	t.Run("no name to check", func(t *testing.T) {
		t.Parallel()
		b := newBench(t, "127.0.0.1")
		sc, cc := b.configs("")
		cc.ServerName = "127.0.0.1" // as gRPC sets it for an endpoint by IP address
		_, _, err := handshake(t, sc, cc)
		wantText(t, err, "set server_name")
	})
	t.Run("none of the hosts", func(t *testing.T) {
		t.Parallel()
		b := newBench(t, "127.0.0.9")
		sc, cc := b.configs("", certs.Hosts("127.0.0.1", "127.0.0.2"))
		cc.ServerName = "127.0.0.9"
		_, _, err := handshake(t, sc, cc)
		wantText(t, err, `"127.0.0.2"`)
	})
	t.Run("dialled name that is not of the certificate although a host is", func(t *testing.T) {
		t.Parallel()
		b := newBench(t, "etcd-1")
		sc, cc := b.configs("", certs.Hosts("etcd-1", "etcd-2"))
		cc.ServerName = "etcd-2"
		_, _, err := handshake(t, sc, cc)
		wantText(t, err, `"etcd-2"`)
	})
}

func TestServerDialledByIPAddressNeedsOneOfTheHosts(t *testing.T) {
	t.Parallel()
	b := newBench(t, "127.0.0.2")
	sc, cc := b.configs("", certs.Hosts("127.0.0.1", "127.0.0.2"))
	cc.ServerName = "127.0.0.2"
	if _, serr, cerr := handshake(t, sc, cc); serr != nil || cerr != nil {
		t.Fatalf("server %v, client %v", serr, cerr)
	}
}

func TestConfiguredServerNameWins(t *testing.T) {
	t.Parallel()
	b := newBench(t, "internal-name")
	b.client.ServerName = "internal-name"
	sc, cc := b.configs("user-service")
	if _, serr, cerr := handshake(t, sc, cc); serr != nil || cerr != nil {
		t.Fatalf("server %v, client %v", serr, cerr)
	}
}

func TestClientCAMakesACertificateMandatory(t *testing.T) {
	t.Parallel()
	b := newBench(t, "user-service")
	b.server.ClientCA = b.client.CA
	sc, cc := b.configs("user-service")
	var chains int
	sc = sc.Clone()
	inner := sc.GetConfigForClient
	sc.GetConfigForClient = func(h *tls.ClientHelloInfo) (*tls.Config, error) {
		c, err := inner(h)
		c = c.Clone()
		c.VerifyConnection = func(cs tls.ConnectionState) error { chains = len(cs.VerifiedChains); return nil }
		return c, err
	}
	if _, serr, cerr := handshake(t, sc, cc); serr != nil || cerr != nil {
		t.Fatalf("with certificate: server %v, client %v", serr, cerr)
	}
	if chains == 0 {
		t.Error("the verified chain is not visible to the server")
	}
	b.client.Cert, b.client.Key = "", ""
	sc, cc = b.configs("user-service")
	if _, serr, cerr := handshake(t, sc, cc); serr == nil || cerr == nil {
		t.Fatalf("without certificate: server %v, client %v, want errors", serr, cerr)
	}
}

func TestClientOfAnotherAuthorityIsRefused(t *testing.T) {
	t.Parallel()
	b := newBench(t, "user-service")
	b.server.ClientCA = write(t, b.file("clients.pem"), newAuthority(t, "clients").pem)
	sc, cc := b.configs("user-service")
	_, serr, cerr := handshake(t, sc, cc)
	wantText(t, serr, "unknown authority")
	if cerr == nil {
		t.Error("the client did not learn of the refusal")
	}
}

func TestNextProtosAreNegotiated(t *testing.T) {
	t.Parallel()
	for _, clientCA := range []bool{false, true} {
		b := newBench(t, "user-service")
		if clientCA {
			b.server.ClientCA = b.client.CA
		}
		sc, cc := b.configs("user-service", certs.NextProtos("h2"))
		state, serr, cerr := handshake(t, sc, cc)
		if serr != nil || cerr != nil || state.NegotiatedProtocol != "h2" {
			t.Errorf("client_ca %v: protocol %q, server %v, client %v, want h2", clientCA, state.NegotiatedProtocol, serr, cerr)
		}
	}
}

func TestFilesChangedOnDiskAreUsed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, "user-service")
		b.server.ClientCA = write(t, b.file("clients.pem"), b.ca.pem)
		var reloads []string
		sc, cc := b.configs("user-service", certs.OnReload(func(what string, err error) {
			if err != nil {
				t.Errorf("reload of %s: %v", what, err)
			}
			reloads = append(reloads, what)
		}))
		before, serr, cerr := handshake(t, sc, cc)
		if serr != nil || cerr != nil {
			t.Fatalf("before: server %v, client %v", serr, cerr)
		}
		// Everything changes: authority, server certificate, client certificate.
		next := newAuthority(t, "second")
		b.issueServer(next, "user-service")
		cert, key := next.issue(t, "caller", time.Now().Add(time.Hour))
		write(t, b.client.Cert, cert)
		write(t, b.client.Key, key)
		write(t, b.client.CA, next.pem)
		write(t, b.server.ClientCA, next.pem)

		same, serr, cerr := handshake(t, sc, cc)
		if serr != nil || cerr != nil || !same.PeerCertificates[0].Equal(before.PeerCertificates[0]) {
			t.Errorf("within a second: server %v, client %v, want the old set in use", serr, cerr)
		}
		pass(t.Context(), t, time.Second)
		after, serr, cerr := handshake(t, sc, cc)
		if serr != nil || cerr != nil {
			t.Fatalf("after: server %v, client %v", serr, cerr)
		}
		if after.PeerCertificates[0].Equal(before.PeerCertificates[0]) {
			t.Error("the old certificate is still presented")
		}
		if len(reloads) != 2 {
			t.Errorf("reports = %q, want one of each side", reloads)
		}
	})
}

func TestDistrustedAuthorityIsRefusedEvenForResumedSessions(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, "user-service")
		b.server.ClientCA = write(t, b.file("clients.pem"), b.ca.pem)
		sc, cc := b.configs("user-service")
		cc.ClientSessionCache = tls.NewLRUClientSessionCache(4)
		if _, serr, cerr := handshake(t, sc, cc); serr != nil || cerr != nil {
			t.Fatalf("first: server %v, client %v", serr, cerr)
		}
		if state, serr, cerr := handshake(t, sc, cc); serr != nil || cerr != nil || !state.DidResume {
			t.Fatalf("second: resumed %v, server %v, client %v, want a resumed session", state.DidResume, serr, cerr)
		}
		write(t, b.server.ClientCA, newAuthority(t, "other").pem)
		pass(t.Context(), t, 2*time.Second)
		if _, serr, _ := handshake(t, sc, cc); serr == nil {
			t.Error("the server accepts a client of an authority it no longer trusts")
		}

		write(t, b.server.ClientCA, b.ca.pem)
		write(t, b.client.CA, newAuthority(t, "other").pem)
		pass(t.Context(), t, 2*time.Second)
		if _, _, cerr := handshake(t, sc, cc); cerr == nil {
			t.Error("the client accepts a server of an authority it no longer trusts")
		}
	})
}

func TestBadNewFilesKeepTheOldOnes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, "user-service")
		var reports []error
		sc, err := certs.Server(b.server, certs.OnReload(func(_ string, err error) { reports = append(reports, err) }))
		if err != nil {
			t.Fatal(err)
		}
		cc, err := certs.Client(b.client, "user-service")
		if err != nil {
			t.Fatal(err)
		}
		before, _, _ := handshake(t, sc, cc)
		cert, key := b.ca.issue(t, "user-service", time.Now().Add(time.Hour))
		expect := func(step string, old bool, reported int) {
			t.Helper()
			for range 2 { // the same bad files are reported once
				pass(t.Context(), t, 2*time.Second)
				now, serr, cerr := handshake(t, sc, cc)
				if serr != nil || cerr != nil {
					t.Fatalf("%s: server %v, client %v", step, serr, cerr)
				}
				if is := now.PeerCertificates[0].Equal(before.PeerCertificates[0]); is != old {
					t.Errorf("%s: old certificate in use: %v, want %v", step, is, old)
				}
			}
			if len(reports) != reported {
				t.Errorf("%s: reports = %v, want %d", step, reports, reported)
			}
		}
		write(t, b.server.Cert, cert[:len(cert)/2])
		expect("half a certificate", true, 1)
		write(t, b.server.Cert, cert)
		expect("new certificate, old key", true, 2)
		write(t, b.server.Key, key)
		expect("both", false, 3)
		if reports[0] == nil || reports[1] == nil || reports[2] != nil {
			t.Errorf("reports = %v, want two errors and a success", reports)
		}
		wantText(t, reports[1], "does not go with the certificate")
	})
}

func TestLogToTellsOfNewAndOfRefusedFiles(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, "user-service")
		core, logs := observer.New(zapcore.InfoLevel)
		sc, cc := b.configs("user-service", certs.LogTo(zap.New(core)))
		cert, key := b.ca.issue(t, "user-service", time.Now().Add(time.Hour))
		for _, tc := range []struct {
			name, file string
			content    []byte
			level      zapcore.Level
		}{
			{"half a certificate", b.server.Cert, cert[:len(cert)/2], zapcore.WarnLevel},
			{"new certificate, old key", b.server.Cert, cert, zapcore.WarnLevel},
			{"both", b.server.Key, key, zapcore.InfoLevel},
		} {
			write(t, tc.file, tc.content)
			pass(t.Context(), t, 2*time.Second)
			if _, serr, cerr := handshake(t, sc, cc); serr != nil || cerr != nil {
				t.Fatalf("%s: server %v, client %v", tc.name, serr, cerr)
			}
			told := logs.TakeAll()
			if len(told) != 1 || told[0].Level != tc.level || !strings.Contains(fmt.Sprint(told[0].ContextMap()["files"]), b.server.Cert) {
				t.Errorf("%s: logged %v, want one line at %v that names the files", tc.name, told, tc.level)
			}
		}
	})
}

func TestErrorsNameKeyAndFile(t *testing.T) {
	t.Parallel()
	b := newBench(t, "user-service")
	other, _ := b.ca.issue(t, "other", time.Now().Add(time.Hour))
	expiredCert, expiredKey := b.ca.issue(t, "late", time.Now().Add(-time.Hour))
	otherFile := write(t, b.file("other.pem"), other)
	garbage := write(t, b.file("garbage.pem"), []byte("hello"))
	two := write(t, b.file("two.pem"), append(bytes.Clone(b.ca.pem), b.ca.pem[:100]...))
	expired := write(t, b.file("expired.pem"), expiredCert)
	expiredK := write(t, b.file("expired.key"), expiredKey)
	absent := b.file("absent.pem")
	s := b.server
	for name, tc := range map[string]struct {
		cfg  certs.ServerConfig
		want []string
	}{
		"no key":             {certs.ServerConfig{Cert: s.Cert}, []string{"key: not set", s.Cert}},
		"no cert":            {certs.ServerConfig{Key: s.Key}, []string{"cert: not set", s.Key}},
		"client_ca alone":    {certs.ServerConfig{ClientCA: b.client.CA}, []string{"cert: not set", "client_ca"}},
		"absent cert":        {certs.ServerConfig{Cert: absent, Key: s.Key}, []string{"cert: reading", absent}},
		"absent key":         {certs.ServerConfig{Cert: s.Cert, Key: absent}, []string{"key: reading", absent}},
		"absent client_ca":   {certs.ServerConfig{Cert: s.Cert, Key: s.Key, ClientCA: absent}, []string{"client_ca: reading", absent}},
		"mismatch":           {certs.ServerConfig{Cert: otherFile, Key: s.Key}, []string{"key: ", s.Key, otherFile}},
		"garbage cert":       {certs.ServerConfig{Cert: garbage, Key: s.Key}, []string{"cert: ", garbage, "no certificate found"}},
		"garbage key":        {certs.ServerConfig{Cert: s.Cert, Key: garbage}, []string{"key: ", garbage, "no PEM block"}},
		"expired":            {certs.ServerConfig{Cert: expired, Key: expiredK}, []string{"cert: ", expired, "expired at"}},
		"half-written roots": {certs.ServerConfig{Cert: s.Cert, Key: s.Key, ClientCA: two}, []string{"client_ca: ", two, "after 1 certificates"}},
	} {
		_, err := certs.Server(tc.cfg)
		for _, want := range tc.want {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: error %v, want it to contain %q", name, err, want)
			}
		}
	}
	_, err := certs.Client(certs.ClientConfig{CA: garbage}, "user-service")
	wantText(t, err, "ca: ")
}

func wantText(t *testing.T, err error, want string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("error = %v, want it to contain %q", err, want)
	}
	if errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the handshake timed out: %v", err)
	}
}

func TestServersAreKnownByTheirSPIFFEID(t *testing.T) {
	t.Parallel()
	const id = "spiffe://example.org/ns/default/sa/user-service"
	for name, tc := range map[string]struct {
		uris []string
		want string // empty: accepted
	}{
		"the ID":            {[]string{id}, ""},
		"another ID":        {[]string{"spiffe://example.org/ns/default/sa/user-service2"}, `it is for "spiffe://example.org/ns/default/sa/user-service2"`},
		"another domain":    {[]string{"spiffe://evil.org/ns/default/sa/user-service"}, `it is for "spiffe://evil.org`},
		"the name alone":    {nil, "has no SPIFFE ID"},
		"the ID and others": {[]string{id, "spiffe://example.org/other"}, "more than one URI"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, "user-service")
			cert, key := b.ca.issue(t, "user-service", time.Now().Add(time.Hour), tc.uris...)
			write(t, b.server.Cert, cert)
			write(t, b.server.Key, key)
			b.client.SPIFFEID = id
			sc, cc := b.configs("no-matter-which-service")
			_, serr, err := handshake(t, sc, cc)
			if tc.want != "" {
				wantText(t, err, tc.want)
			} else if serr != nil || err != nil {
				t.Errorf("server %v, client %v", serr, err)
			}
		})
	}
	t.Run("of another authority", func(t *testing.T) {
		t.Parallel()
		b := newBench(t, "user-service")
		cert, key := newAuthority(t, "stranger").issue(t, "user-service", time.Now().Add(time.Hour), id)
		write(t, b.server.Cert, cert)
		write(t, b.server.Key, key)
		b.client.SPIFFEID = id
		sc, cc := b.configs("")
		_, _, err := handshake(t, sc, cc)
		wantText(t, err, "unknown authority")
	})
}

func TestSPIFFEIDsThatCanBeNone(t *testing.T) {
	t.Parallel()
	for _, id := range []string{"user-service", "spiffe://", "spiffe://example.org", "spiffe://example.org/", "https://example.org/a", "spiffe://example.org/a?b", "spiffe://example.org/a/"} {
		if err := (certs.ClientConfig{SPIFFEID: id}).Validate(); err == nil || !strings.HasPrefix(err.Error(), "spiffe_id: ") {
			t.Errorf("%q: %v", id, err)
		}
	}
	err := certs.ClientConfig{SPIFFEID: "spiffe://example.org/a", ServerName: "b"}.Validate()
	wantText(t, err, "server_name")
}

// A certificate that ended is refused by both sides, and the side that refuses says so.
func TestExpiredCertificatesAreRefused(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, "user-service")
		b.server.ClientCA = write(t, b.file("clients.pem"), b.ca.pem)
		cert, key := b.ca.issue(t, "user-service", time.Now().Add(3*time.Hour))
		write(t, b.server.Cert, cert)
		write(t, b.server.Key, key)
		sc, cc := b.configs("user-service")
		pass(t.Context(), t, 2*time.Hour) // the client's ends after one
		_, serr, _ := handshake(t, sc, cc)
		wantText(t, serr, "expired")
		cert, key = b.ca.issue(t, "caller", time.Now().Add(3*time.Hour))
		write(t, b.client.Cert, cert)
		write(t, b.client.Key, key)
		pass(t.Context(), t, 2*time.Second)
		if _, serr, cerr := handshake(t, sc, cc); serr != nil || cerr != nil {
			t.Fatalf("with a new certificate: server %v, client %v", serr, cerr)
		}
		pass(t.Context(), t, 2*time.Hour) // and now the server's
		_, _, cerr := handshake(t, sc, cc)
		wantText(t, cerr, "expired")
	})
}
