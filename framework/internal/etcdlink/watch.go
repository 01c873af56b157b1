package etcdlink

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"syscall"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
)

// DialOptions make a client tell the link of its connections, and speak TLS unless conf is nil.
func (l *Link) DialOptions(conf *tls.Config) []grpc.DialOption {
	creds := insecure.NewCredentials()
	if conf != nil {
		creds = credentials.NewTLS(conf)
	}
	return []grpc.DialOption{
		grpc.WithContextDialer(l.dial),
		grpc.WithTransportCredentials(&watched{TransportCredentials: creds, link: l, plain: conf == nil}),
	}
}

func (l *Link) dial(ctx context.Context, addr string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil && !errors.Is(err, context.Canceled) {
		l.failed(&ConnError{Endpoint: addr, Err: err})
	}
	return conn, err
}

// watched are credentials that tell how their handshakes end.
type watched struct {
	credentials.TransportCredentials
	link  *Link
	plain bool
}

// ClientHandshake implements [credentials.TransportCredentials]. etcd's resolver gives each endpoint's host:port for the
// authority.
func (w *watched) ClientHandshake(ctx context.Context, authority string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, info, err := w.TransportCredentials.ClientHandshake(ctx, authority, raw)
	if err != nil {
		if !errors.Is(err, context.Canceled) {
			w.link.failed(w.link.plainPort(ofHandshake(authority, err)))
		}
		return nil, nil, err
	}
	c := &heard{Conn: conn, link: w.link, addr: authority, plain: w.plain}
	if sys, ok := conn.(syscall.Conn); ok {
		return &heardSys{heard: c, sys: sys}, info, nil
	}
	return c, info, nil
}

// Clone implements [credentials.TransportCredentials].
func (w *watched) Clone() credentials.TransportCredentials {
	return &watched{TransportCredentials: w.TransportCredentials.Clone(), link: w.link, plain: w.plain}
}

// heard is a connection that waits for etcd's first word: with TLS 1.3 a client certificate is refused only then.
type heard struct {
	net.Conn
	link  *Link
	addr  string
	plain bool
	done  atomic.Bool
}

// heardSys is one whose socket can be looked at.
type heardSys struct {
	*heard
	sys syscall.Conn
}

// SyscallConn implements [syscall.Conn].
func (c *heardSys) SyscallConn() (syscall.RawConn, error) { return c.sys.SyscallConn() }

// Read implements [net.Conn].
func (c *heard) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n == 0 && err == nil || c.done.Load() {
		return n, err
	}
	c.done.Store(true)
	switch {
	case n > 0 && c.plain && p[0] == alertRecord:
		c.link.failed(c.tlsPort())
	case n > 0:
		c.link.reached(c.addr)
	case errors.Is(err, net.ErrClosed): // by ourselves
	case !c.plain:
		c.link.failed(ofHandshake(c.addr, err))
	case c.asked() || answersTLS(c.addr):
		c.link.failed(c.tlsPort())
	default:
		c.link.failed(&ConnError{Endpoint: c.addr, Err: fmt.Errorf("it hung up before a word: %w", err)})
	}
	return n, err
}

// alertRecord is the first byte of what a port that speaks TLS may say to who does not.
const alertRecord = 0x15

func (c *heard) tlsPort() *ConnError {
	return &ConnError{Endpoint: c.addr, Err: errors.New("it hangs up on plaintext"), kind: speaksTLS}
}

// asked reports whether it is known already that the port speaks TLS.
func (c *heard) asked() bool {
	last := c.link.last(c.addr)
	return last != nil && last.kind == speaksTLS
}
