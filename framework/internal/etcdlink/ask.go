package etcdlink

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"syscall"
	"time"
)

// askTimeout is how long a port that hung up may take to show which language it speaks.
const askTimeout = 500 * time.Millisecond

// greet has a short talk with a port that hung up on us. Nothing of ours is told, so it does not matter who answers.
func greet(addr string, talk func(context.Context, net.Conn) bool) bool {
	ctx, cancel := context.WithTimeout(context.Background(), askTimeout)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return false
	}
	defer func() { _ = conn.Close() }()
	return talk(ctx, conn)
}

// answersTLS asks a port that hung up on plaintext.
func answersTLS(addr string) bool {
	return greet(addr, func(ctx context.Context, conn net.Conn) bool {
		err := tls.Client(conn, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}}).HandshakeContext(ctx) //nolint:gosec // see greet
		return err == nil || strings.Contains(err.Error(), "remote error: tls: ")
	})
}

// plainPort finds out about a port that hung up on TLS: etcd answers a question in plaintext.
func (l *Link) plainPort(f *ConnError) *ConnError {
	if f.kind != other || !hungUp(f.Err) {
		return f
	}
	if last := l.last(f.Endpoint); last != nil && last.kind == speaksPlain {
		return last
	}
	plain := greet(f.Endpoint, func(ctx context.Context, conn net.Conn) bool {
		if end, ok := ctx.Deadline(); ok {
			_ = conn.SetDeadline(end) // reading tells
		}
		answer := make([]byte, len("HTTP/"))
		_, err := io.WriteString(conn, "GET /version HTTP/1.0\r\n\r\n")
		if err == nil {
			_, err = io.ReadFull(conn, answer)
		}
		return err == nil && string(answer) == "HTTP/"
	})
	if !plain {
		return f
	}
	return &ConnError{Endpoint: f.Endpoint, Err: errors.New("it hangs up on TLS"), kind: speaksPlain}
}

func hungUp(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET)
}
