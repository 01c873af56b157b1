package etcd_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/goleak"

	"github.com/newsvc/newsvc/framework/devetcd"
	"github.com/newsvc/newsvc/framework/discovery"
	"github.com/newsvc/newsvc/framework/discovery/discoverytest"
	"github.com/newsvc/newsvc/framework/discovery/etcd"
	"github.com/newsvc/newsvc/framework/etcdclient"
	"github.com/newsvc/newsvc/framework/internal/fakeetcd"
)

// patience bounds every wait of a test; a test that runs into it has failed.
const patience = 20 * time.Second

// world is the etcd that tests share which do it no harm; each works below a prefix of its own.
type world struct {
	once   sync.Once
	server *devetcd.Server
	err    error
}

func (w *world) start() (*devetcd.Server, error) {
	w.once.Do(func() { w.server, w.err = devetcd.Start(context.Background(), devetcd.Config{Fast: true}) })
	return w.server, w.err
}

func (w *world) stop() {
	w.once.Do(func() { w.err = errors.New("no test needed it") })
	if w.server != nil {
		_ = w.server.Close()
	}
}

var shared world

// main closes what the tests share before leaks are looked for.
type mainWithWorld struct{ m *testing.M }

func (r mainWithWorld) Run() int {
	defer shared.stop()
	return r.m.Run()
}

func TestMain(m *testing.M) {
	// The tests mostly wait for leases and timeouts, so more of them than there are processors can run at a time.
	if err := flag.Set("test.parallel", "12"); err != nil {
		panic(err)
	}
	fakeetcd.AllowBubbles()
	goleak.VerifyTestMain(mainWithWorld{m})
}

// fixture is one test's view of an etcd, through a proxy that can be cut.
type fixture struct {
	t      *testing.T
	server *devetcd.Server
	proxy  *proxy
	prefix string
	cli    *clientv3.Client // what the code under test uses
	admin  *clientv3.Client // what the test itself uses; it does not go through the proxy
}

// newFixture uses the shared etcd.
func newFixture(t *testing.T) *fixture {
	t.Helper()
	server, err := shared.start()
	if err != nil {
		t.Fatal(err)
	}
	return fixtureOn(t, server)
}

// newOwnFixture starts an etcd for this test alone.
func newOwnFixture(t *testing.T, cfg devetcd.Config) *fixture {
	t.Helper()
	return fixtureOn(t, startServer(t, cfg))
}

func startServer(t *testing.T, cfg devetcd.Config) *devetcd.Server {
	t.Helper()
	cfg.Fast = true
	server, err := devetcd.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() })
	return server
}

func fixtureOn(t *testing.T, server *devetcd.Server) *fixture {
	t.Helper()
	f := &fixture{t: t, server: server, prefix: "/" + strings.NewReplacer("/", "-", " ", "_").Replace(t.Name()) + "-" + discovery.NewIncarnation()}
	f.proxy = newProxy(t, server.Addr())
	f.cli, f.admin = dial(t, f.proxy.addr()), dial(t, server.Addr())
	return f
}

func dial(t *testing.T, addrs ...string) *clientv3.Client {
	t.Helper()
	cfg := etcdclient.DefaultConfig()
	cfg.Endpoints = addrs
	cli, err := etcdclient.New(cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cli.Close() })
	return cli
}

// options are short of patience, so that tests are.
func (f *fixture) options() etcd.Options {
	return etcd.Options{
		Prefix: f.prefix, TTL: 3 * time.Second, CallTimeout: time.Second,
		Timing: etcd.Timing{
			AnyTTL: true, RetryMax: 200 * time.Millisecond, Patience: 300 * time.Millisecond, Audit: time.Second,
			Reput: 50 * time.Millisecond, Created: 2 * time.Second, Probe: 400 * time.Millisecond,
			PokeGap: 50 * time.Millisecond, PokeWait: 300 * time.Millisecond,
		},
	}
}

func (f *fixture) source(change ...func(*etcd.Options)) *etcd.Source {
	f.t.Helper()
	opt := f.options()
	for _, c := range change {
		c(&opt)
	}
	s, err := etcd.NewSource(f.cli, opt)
	if err != nil {
		f.t.Fatal(err)
	}
	return s
}

func (f *fixture) registrar(change ...func(*etcd.Options)) *etcd.Registrar {
	f.t.Helper()
	opt := f.options()
	for _, c := range change {
		c(&opt)
	}
	r, err := etcd.NewRegistrar(f.cli, opt)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		_ = r.Close(ctx)
	})
	return r
}

func (f *fixture) ctx() context.Context {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), patience)
	f.t.Cleanup(cancel)
	return ctx
}

func (f *fixture) key(service, addr string) string { return discovery.Key(f.prefix, service, addr) }

func (f *fixture) put(i *discovery.Instance) {
	f.t.Helper()
	value, err := discovery.Encode(i)
	if err != nil {
		f.t.Fatal(err)
	}
	f.putRaw(f.key(i.Service, i.Addr), string(value))
}

func (f *fixture) putRaw(key, value string) {
	f.t.Helper()
	if _, err := f.admin.Put(f.ctx(), key, value); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) del(key string, opts ...clientv3.OpOption) {
	f.t.Helper()
	if _, err := f.admin.Delete(f.ctx(), key, opts...); err != nil {
		f.t.Fatal(err)
	}
}

// get returns the key's lease and value; 0 and "" when there is none.
func (f *fixture) get(key string) (lease clientv3.LeaseID, value string) {
	f.t.Helper()
	resp, err := f.admin.Get(f.ctx(), key)
	if err != nil {
		f.t.Fatal(err)
	}
	if len(resp.Kvs) == 0 {
		return 0, ""
	}
	return clientv3.LeaseID(resp.Kvs[0].Lease), string(resp.Kvs[0].Value)
}

// putMany fills a prefix fast: 100 keys a transaction.
func (f *fixture) putMany(service string, n int) (addrs []string) {
	f.t.Helper()
	var ops []clientv3.Op
	for k := range n {
		i := discoverytest.Instance(service, fmt.Sprintf("10.%d.%d.%d:9000", k/65536, k/256%256, k%256))
		addrs = append(addrs, i.Addr)
		value, err := discovery.Encode(i)
		if err != nil {
			f.t.Fatal(err)
		}
		ops = append(ops, clientv3.OpPut(f.key(service, i.Addr), string(value)))
		if len(ops) == 100 || k == n-1 {
			if _, err := f.admin.Txn(f.ctx()).Then(ops...).Commit(); err != nil {
				f.t.Fatal(err)
			}
			ops = nil
		}
	}
	slices.Sort(addrs)
	return addrs
}

func (f *fixture) keys() []string {
	f.t.Helper()
	resp, err := f.admin.Get(f.ctx(), f.prefix+"/", clientv3.WithPrefix(), clientv3.WithKeysOnly())
	if err != nil {
		f.t.Fatal(err)
	}
	var out []string
	for _, kv := range resp.Kvs {
		out = append(out, string(kv.Key))
	}
	return out
}

func (f *fixture) register(r discovery.Registrar, i *discovery.Instance) discovery.Registration {
	f.t.Helper()
	reg, err := r.Register(f.ctx(), *i)
	if err != nil {
		f.t.Fatal(err)
	}
	if err := discovery.WaitUp(f.ctx(), reg); err != nil {
		f.t.Fatalf("not up: %v", err)
	}
	return reg
}

func (f *fixture) close(reg discovery.Registration) {
	f.t.Helper()
	if err := reg.Close(f.ctx()); err != nil {
		f.t.Fatalf("Close: %v", err)
	}
}

// await waits until the registration's status is as wanted.
func (f *fixture) await(reg discovery.Registration, what string, ok func(discovery.RegistrationStatus) bool) discovery.RegistrationStatus {
	f.t.Helper()
	ctx := f.ctx()
	for {
		changed := reg.Changed()
		if st := reg.Status(); ok(st) {
			return st
		}
		select {
		case <-changed:
		case <-ctx.Done():
			f.t.Fatalf("waiting for %s: the status is still %+v", what, reg.Status())
		}
	}
}

func inState(want discovery.RegistrationState) func(discovery.RegistrationStatus) bool {
	return func(st discovery.RegistrationStatus) bool { return st.State == want }
}

// proxy stands between a client and etcd and can be cut.
type proxy struct {
	listener net.Listener
	target   string
	wg       sync.WaitGroup

	deaf  atomic.Bool  // what etcd answers is lost; end it with a cut
	mute  atomic.Bool  // what etcd is asked is lost; end it with a cut
	age   atomic.Int64 // see swallow
	mu    sync.Mutex
	cut   bool
	conns map[net.Conn]struct{}
}

func newProxy(t *testing.T, target string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return newProxyAt(t, l, target)
}

func newProxyAt(t *testing.T, l net.Listener, target string) *proxy {
	t.Helper()
	p := &proxy{listener: l, target: target, conns: make(map[net.Conn]struct{})}
	p.wg.Go(p.accept)
	t.Cleanup(func() {
		_ = l.Close()
		p.setCut(true)
		p.wg.Wait()
	})
	return p
}

func (p *proxy) addr() string { return p.listener.Addr().String() }

// setCut ends all connections and refuses new ones, or lets them through again.
func (p *proxy) setCut(cut bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut = cut
	for c := range p.conns {
		if cut {
			_ = c.Close()
		}
	}
}

func (p *proxy) accept() {
	for {
		c, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.wg.Go(func() { p.serve(c) })
	}
}

func (p *proxy) serve(client net.Conn) {
	defer client.Close()
	if !p.add(client) {
		return
	}
	defer p.drop(client)
	server, err := net.Dial("tcp", p.target)
	if err != nil {
		return
	}
	defer server.Close()
	if !p.add(server) {
		return
	}
	defer p.drop(server)
	var wg sync.WaitGroup
	born := p.age.Load()
	wg.Go(func() { _, _ = io.Copy(way{p, &p.mute, born, server}, client); _ = server.Close() })
	wg.Go(func() { _, _ = io.Copy(way{p, &p.deaf, born, client}, server); _ = client.Close() })
	wg.Wait()
}

// swallow loses all that is said on the connections that there are, for good; new ones get through.
func (p *proxy) swallow() { p.age.Add(1) }

// way hands on what is said in one direction, unless it is to be lost.
type way struct {
	p    *proxy
	lost *atomic.Bool
	born int64
	w    io.Writer
}

func (a way) Write(b []byte) (int, error) {
	if a.lost.Load() || a.born != a.p.age.Load() {
		return len(b), nil
	}
	return a.w.Write(b)
}

func (p *proxy) add(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cut {
		return false
	}
	p.conns[c] = struct{}{}
	return true
}

// carries reports whether anybody is connected through it.
func (p *proxy) carries() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.conns) > 0
}

func (p *proxy) drop(c net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
}
