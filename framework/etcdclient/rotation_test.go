package etcdclient_test

import (
	"context"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/newsvc/newsvc/framework/certs"
)

// line is a way to a server that can be cut; the next connection over it works again.
type line struct {
	to string
	l  net.Listener

	mu    sync.Mutex
	conns []net.Conn
}

func newLine(t *testing.T, to string) *line {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &line{to: to, l: l}
	var all sync.WaitGroup
	all.Go(func() { p.run(&all) })
	t.Cleanup(func() { _ = l.Close(); p.cut(); all.Wait() })
	return p
}

func (p *line) run(all *sync.WaitGroup) {
	for {
		in, err := p.l.Accept()
		if err != nil {
			return
		}
		out, err := new(net.Dialer).DialContext(context.Background(), "tcp", p.to)
		if err != nil {
			_ = in.Close()
			continue
		}
		p.mu.Lock()
		p.conns = append(p.conns, in, out)
		p.mu.Unlock()
		all.Go(func() { _, _ = io.Copy(out, in); _ = out.Close() })
		all.Go(func() { _, _ = io.Copy(in, out); _ = in.Close() })
	}
}

func (p *line) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		_ = c.Close()
	}
	p.conns = nil
}

func replace(t *testing.T, name, with string) {
	t.Helper()
	data, err := os.ReadFile(with)
	if err == nil {
		err = os.WriteFile(name, data, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// The certificate is the user in etcd here, so that which one was presented shows in what is permitted.
func TestARotatedCertificateCountsFromTheNextConnectionOn(t *testing.T) {
	t.Parallel()
	f := newFiles(t)
	addr, admin := startSecureEtcd(t, transport.TLSInfo{CertFile: f.serverCert, KeyFile: f.serverKey, TrustedCAFile: f.ca, ClientCertAuth: true})
	enableAuth(t, admin)
	way := newLine(t, addr)
	cfg := config("https://" + way.l.Addr().String())
	cfg.TLS = certs.ClientConfig{CA: f.ca, Cert: f.strangerCert, Key: f.strangerKey}
	cli := newClient(t, cfg, nil)
	if err := put(t, cli); err == nil || !strings.Contains(err.Error(), "permission denied") {
		t.Fatalf("put by a user without permission: %v", err)
	}
	replace(t, f.strangerCert, f.rootCert)
	replace(t, f.strangerKey, f.rootKey)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	deadline, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for put(t, cli) != nil {
		way.cut() // the files are looked at once a second
		select {
		case <-tick.C:
		case <-deadline.Done():
			t.Fatal("the new certificate is never presented")
		}
	}
	// Half a certificate keeps the good one in use, through any number of connections.
	if err := os.WriteFile(f.strangerCert, []byte("-----BEGIN CERTIFICATE-----\nhalf"), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 15 {
		way.cut()
		<-tick.C
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if _, err := cli.Put(ctx, "k", "v"); err != nil {
		t.Errorf("with half a certificate in the file: %v", err)
	}
	if _, err := cli.Get(ctx, "k", clientv3.WithSerializable()); err != nil {
		t.Error(err)
	}
}

func TestAnEtcdOfAnotherNameIsRefused(t *testing.T) {
	t.Parallel()
	f := newFiles(t) // its certificates are for 127.0.0.1
	addr, _ := startSecureEtcd(t, transport.TLSInfo{CertFile: f.serverCert, KeyFile: f.serverKey})
	cfg := config(addr)
	cfg.TLS = certs.ClientConfig{CA: f.ca, ServerName: "etcd.example.com"}
	if err := put(t, newClient(t, cfg, nil)); err == nil {
		t.Error("put to an etcd of another name succeeded")
	}
	cfg.TLS = certs.ClientConfig{CA: f.ca, SPIFFEID: "spiffe://example.org/etcd"}
	if err := put(t, newClient(t, cfg, nil)); err == nil {
		t.Error("put to an etcd without the SPIFFE ID succeeded")
	}
}
