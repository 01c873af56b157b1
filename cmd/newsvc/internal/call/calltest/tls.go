package calltest

import (
	"context"
	"crypto/tls"
	"encoding/pem"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// TLS speaks TLS in front of a port that does not, as an etcd with certificates does.
type TLS struct {
	// Addr is host:port, the host an IP address that the certificate is for.
	Addr string
	// CA is the file of its authority.
	CA string

	ln   net.Listener
	wait sync.WaitGroup
}

// StartTLS starts one before backend. Which certificates clients have to show is up to auth.
func StartTLS(dir, backend string, auth tls.ClientAuthType) (*TLS, error) {
	lender := httptest.NewTLSServer(http.NotFoundHandler()) // of a certificate
	defer lender.Close()
	ca := filepath.Join(dir, "ca.pem")
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: lender.Certificate().Raw})
	if err := os.WriteFile(ca, text, 0o600); err != nil {
		return nil, err
	}
	conf := &tls.Config{Certificates: lender.TLS.Certificates, ClientAuth: auth, NextProtos: []string{"h2", "http/1.1"}, MinVersion: tls.VersionTLS12}
	ln, err := tls.Listen("tcp", "127.0.0.1:0", conf)
	if err != nil {
		return nil, err
	}
	s := &TLS{Addr: ln.Addr().String(), CA: ca, ln: ln}
	s.wait.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			s.wait.Go(func() { forward(conn, backend) })
		}
	})
	return s, nil
}

// Close ends it once its clients have gone.
func (s *TLS) Close() error {
	defer s.wait.Wait()
	return s.ln.Close()
}

func forward(conn net.Conn, backend string) {
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := conn.(*tls.Conn).HandshakeContext(ctx); err != nil {
		return
	}
	to, err := new(net.Dialer).DialContext(ctx, "tcp", backend)
	if err != nil {
		return
	}
	defer to.Close()
	var back sync.WaitGroup
	back.Go(func() {
		_, _ = io.Copy(conn, to)
		_ = conn.Close()
	})
	_, _ = io.Copy(to, conn)
	_ = to.Close()
	back.Wait()
}
