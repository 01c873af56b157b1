package apptest

import (
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

	// Guarded by the network.
	dead  bool
	conns map[*conn]struct{}
}

// conn is the caller's end of a connection.
type conn struct {
	net.Conn
	once   sync.Once
	closed func()
}

// Close closes both ends.
func (c *conn) Close() error {
	c.once.Do(c.closed)
	return c.Conn.Close()
}

type memoryAddr string

func (a memoryAddr) Network() string { return "memory" }
func (a memoryAddr) String() string  { return string(a) }

func (l *listener) Addr() net.Addr { return l.addr }

func (n *network) listen(service string) net.Listener {
	n.mu.Lock()
	defer n.mu.Unlock()
	l := &listener{
		Listener: bufconn.Listen(1 << 20), conns: make(map[*conn]struct{}),
		addr: memoryAddr(fmt.Sprintf("%s.memory:%d", service, len(n.listeners)+1)),
	}
	n.listeners[l.addr.String()] = l
	return l
}

func (n *network) dial(ctx context.Context, addr string) (net.Conn, error) {
	l := n.at(addr)
	if l == nil {
		return nil, fmt.Errorf("dial %q: nobody listens there in this test", addr)
	}
	pipe, err := l.DialContext(ctx)
	if err != nil {
		return nil, err
	}
	c := &conn{Conn: pipe}
	c.closed = func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		delete(l.conns, c)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if l.dead {
		_ = pipe.Close() // never fails
		return nil, fmt.Errorf("dial %q: this test has killed the instance", addr)
	}
	l.conns[c] = struct{}{}
	return c, nil
}

// at returns who listens; nil for nobody.
func (n *network) at(addr string) *listener {
	n.mu.Lock()
	defer n.mu.Unlock()
	if l := n.listeners[addr]; l != nil && !l.dead {
		return l
	}
	return nil
}

// cut breaks all connections to an address and refuses new ones.
func (n *network) cut(addr string) {
	n.mu.Lock()
	l := n.listeners[addr]
	l.dead = true
	var all []*conn
	for c := range l.conns {
		all = append(all, c)
	}
	n.mu.Unlock()
	for _, c := range all {
		_ = c.Close() // never fails
	}
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
