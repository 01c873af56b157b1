package server

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc/credentials"
)

// handshakeLogEvery is how often failed handshakes of one kind are told.
const handshakeLogEvery = time.Minute

// toldCredentials tell why a handshake failed. The peer gets an alert of a word or two, and gRPC says nothing that is
// seen; whoever has to find out why a caller can't connect needs the reason on this side.
type toldCredentials struct {
	credentials.TransportCredentials
	log *handshakeLog
}

// ServerHandshake implements [credentials.TransportCredentials].
func (c toldCredentials) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	secured, info, err := c.TransportCredentials.ServerHandshake(conn)
	if err != nil {
		c.log.tell(conn.RemoteAddr(), err)
	}
	return secured, info, err
}

// Clone implements [credentials.TransportCredentials].
func (c toldCredentials) Clone() credentials.TransportCredentials {
	return toldCredentials{TransportCredentials: c.TransportCredentials.Clone(), log: c.log}
}

// handshakeLog tells the first failure of each kind at once, and of others how many they were.
type handshakeLog struct {
	log *zap.Logger

	mu   sync.Mutex
	told map[string]*handshakeFailures // by the type of the error, of which there are a few
}

type handshakeFailures struct {
	last    time.Time
	skipped int
}

func (l *handshakeLog) tell(peer net.Addr, err error) {
	if silent(err) {
		return
	}
	kind, now := kindOf(err), time.Now()
	l.mu.Lock()
	f := l.told[kind]
	if f == nil {
		f = &handshakeFailures{}
		l.told[kind] = f
	}
	if now.Sub(f.last) < handshakeLogEvery {
		f.skipped++
		l.mu.Unlock()
		return
	}
	skipped := f.skipped
	f.last, f.skipped = now, 0
	l.mu.Unlock()
	l.log.Warn("a TLS handshake failed", zap.Stringer("peer", peer), zap.Error(err), zap.Int("failed_alike_since", skipped))
}

// silent are the ends of connections whose peer did not want one: probes that only look whether the port is open.
func silent(err error) bool {
	op, network := errors.AsType[*net.OpError](err) // crypto/tls makes such errors too, of the alerts it gets
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) ||
		network && (op.Op == "read" || op.Op == "write")
}

// kindOf is the type of the innermost error; alerts, of which there are few, count one by one.
func kindOf(err error) string {
	for inner := errors.Unwrap(err); inner != nil; inner = errors.Unwrap(err) {
		err = inner
	}
	if kind := fmt.Sprintf("%T", err); kind != "tls.alert" {
		return kind
	}
	return err.Error()
}
