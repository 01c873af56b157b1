package apptest

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"sync"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/test/bufconn"

	"github.com/newsvc/newsvc/framework/devetcd"
)

// network holds listeners that exist in this process only, by address.
type network struct {
	mu        sync.Mutex
	listeners map[string]*listener
}

func newNetwork() *network { return &network{listeners: make(map[string]*listener)} }

// listener is a pipe listener with an address of its own.
type listener struct {
	*bufconn.Listener
	addr memoryAddr
}

type memoryAddr string

func (a memoryAddr) Network() string { return "memory" }
func (a memoryAddr) String() string  { return string(a) }

func (l *listener) Addr() net.Addr { return l.addr }

func (n *network) listen(service string) net.Listener {
	n.mu.Lock()
	defer n.mu.Unlock()
	l := &listener{bufconn.Listen(1 << 20), memoryAddr(fmt.Sprintf("%s.memory:%d", service, len(n.listeners)+1))}
	n.listeners[l.addr.String()] = l
	return l
}

func (n *network) dial(ctx context.Context, addr string) (net.Conn, error) {
	n.mu.Lock()
	l, ok := n.listeners[addr]
	n.mu.Unlock()
	if !ok {
		return nil, fmt.Errorf("dial %q: nobody listens there in this test", addr)
	}
	return l.DialContext(ctx)
}

// logBuffer keeps a service's log until somebody asks for it.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *logBuffer) Sync() error { return nil }

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func etcdKeys(ctx context.Context, srv *devetcd.Server, prefix string) ([]string, error) {
	res, err := srv.Client().Get(ctx, prefix, clientv3.WithPrefix(), clientv3.WithKeysOnly())
	if err != nil {
		return nil, err
	}
	keys := make([]string, 0, len(res.Kvs))
	for _, kv := range res.Kvs {
		keys = append(keys, string(kv.Key))
	}
	return keys, nil
}
