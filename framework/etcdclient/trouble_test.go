package etcdclient_test

import (
	"context"
	"net"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"

	"github.com/newsvc/newsvc/framework/certs"
	"github.com/newsvc/newsvc/framework/devetcd"
	"github.com/newsvc/newsvc/framework/discovery/etcd"
	"github.com/newsvc/newsvc/framework/etcdclient"
)

// Each is a mistake in the settings. What a service says of it names the cause and the setting, and who asks need not wait for
// the deadline of a call.
func TestAMistakeInTheTLSSettingsIsNamed(t *testing.T) {
	t.Parallel()
	f, foreign := newFiles(t), newFiles(t)
	secure, _ := startSecureEtcd(t, transport.TLSInfo{CertFile: f.serverCert, KeyFile: f.serverKey, TrustedCAFile: f.ca, ClientCertAuth: true})
	plain := startEtcd(t, devetcd.Config{})
	_, port, _ := net.SplitHostPort(secure)
	for name, tc := range map[string]struct {
		endpoint string
		tls      certs.ClientConfig
		want     []string
	}{
		"unknown authority": {secure, certs.ClientConfig{CA: foreign.ca, Cert: f.rootCert, Key: f.rootKey}, []string{"x509: certificate signed by unknown authority", "etcd.tls.ca"}},
		"another name":      {net.JoinHostPort("localhost", port), certs.ClientConfig{CA: f.ca, Cert: f.rootCert, Key: f.rootKey}, []string{"localhost", "etcd.endpoints"}},
		"no certificate":    {secure, certs.ClientConfig{CA: f.ca}, []string{"tls: certificate required", "etcd.tls.cert and etcd.tls.key"}},
		"another's client":  {secure, certs.ClientConfig{CA: f.ca, Cert: foreign.rootCert, Key: foreign.rootKey}, []string{"remote error: tls: ", "etcd.tls.cert has to be"}},
		"plaintext to TLS":  {secure, certs.ClientConfig{}, []string{"hangs up on plaintext", "it speaks TLS: write https://" + secure}},
		"TLS to plaintext":  {plain.Addr(), certs.ClientConfig{CA: f.ca}, []string{"hangs up on TLS", "it does not speak TLS"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := config(tc.endpoint)
			cfg.TLS = tc.tls
			cli := newClient(t, cfg, nil)
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			trouble := etcdclient.Hopeless(ctx, cli)
			if trouble == nil {
				t.Fatalf("it is not known to be hopeless; the last failure: %+v", etcdclient.Why(cli))
			}
			source, err := etcd.NewSource(cli, etcd.Options{CallTimeout: 300 * time.Millisecond})
			if err != nil {
				t.Fatal(err)
			}
			_, err = source.Services(ctx)
			if err == nil {
				t.Fatal("the services were listed")
			}
			for _, want := range tc.want {
				if !strings.Contains(err.Error(), want) || !strings.Contains(trouble.Err.Error()+trouble.Remedy, want) {
					t.Errorf("a service says %q, a tool %q and %q; want %q", err, trouble.Err, trouble.Remedy, want)
				}
			}
			if strings.Contains(err.Error(), "deadline") {
				t.Errorf("%q speaks of a deadline", err)
			}
		})
	}
}

func TestNobodyThereIsNotHopeless(t *testing.T) {
	t.Parallel()
	addr := freeAddr(t)
	cli := newClient(t, config(addr), nil)
	if err := put(t, cli); err == nil {
		t.Fatal("nobody answered")
	}
	if why := etcdclient.Why(cli); why == nil || why.Certain || !strings.Contains(why.Err.Error(), "connection refused") {
		t.Errorf("why = %+v, want that nobody listens, which may pass", why)
	}
}

// A port that hangs up on whatever it is told, as a proxy does whose etcd is away, is not taken for one that speaks TLS.
func TestAProxyWithoutItsEtcdIsNotHopeless(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() { _ = ln.Close(); <-done })
	cli := newClient(t, config(ln.Addr().String()), nil)
	if err := put(t, cli); err == nil {
		t.Fatal("nobody answered")
	}
	if why := etcdclient.Why(cli); why == nil || why.Certain {
		t.Errorf("why = %+v, want a failure that may pass", why)
	}
}

// What failed once is forgotten when the endpoint answers, and is not taken for the cause while another one does.
func TestTroubleIsOver(t *testing.T) {
	t.Parallel()
	plain := startEtcd(t, devetcd.Config{})
	cli := newClient(t, config(freeAddr(t), plain.Addr()), nil)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if _, err := cli.Put(ctx, "k", "v"); err != nil {
		t.Fatal(err)
	}
	if why := etcdclient.Why(cli); why != nil {
		t.Errorf("why = %+v, want nothing: a member answers", why)
	}
	if why := etcdclient.Why(cli, "http://"+plain.Addr()); why != nil {
		t.Errorf("why = %+v, want nothing", why)
	}
}
