package etcd_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/status"

	"github.com/newsvc/newsvc/framework/client"
	"github.com/newsvc/newsvc/framework/devetcd"
	"github.com/newsvc/newsvc/framework/discovery"
	"github.com/newsvc/newsvc/framework/discovery/cache"
	"github.com/newsvc/newsvc/framework/discovery/discoverytest"
	"github.com/newsvc/newsvc/framework/etcdclient"
	"github.com/newsvc/newsvc/framework/grpcresolver"
	"github.com/newsvc/newsvc/framework/internal/fakeetcd"
	"github.com/newsvc/newsvc/framework/internal/freeport"
)

// unused returns an address that nothing listens on.
func unused(t *testing.T) string {
	t.Helper()
	addr, err := freeport.Choose(t.Context(), "127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	return addr
}

// Of three times that are measured the median counts. On a quiet machine calls take 300 to 302 ms, and the first one
// after etcd came less than half a second.
func TestB01CallsWithoutEtcdEndInTimeAndGoOnAsSoonAsItIsThere(t *testing.T) {
	t.Parallel()
	f := &fixture{t: t, prefix: "/" + t.Name()}
	addr := unused(t)
	f.cli = dial(t, addr)
	c := f.cached(f.source(asShipped), cache.Options{})
	conn := f.connect(c)
	m := measure(t)
	took, closed := make([]time.Duration, 3), make([]time.Duration, 3)
	var wg sync.WaitGroup
	for n := range 3 {
		wg.Go(func() {
			own := f.connect(c)
			start := time.Now()
			f.refused(own, n > 0)
			took[n] = time.Since(start)
			f.heard(own)
			if err := f.refused(own, n > 0); !strings.Contains(err.Error(), "etcd under /TestB01") {
				t.Errorf("err = %v, want one that names etcd", err)
			}
			start = time.Now()
			_ = own.Close()
			closed[n] = time.Since(start)
		})
	}
	err := ask(f.ctx(), conn)
	wg.Wait()
	if err == nil {
		t.Fatal("somebody answered")
	}
	slices.Sort(took)
	slices.Sort(closed)
	if !m.fits(took[1], 350*time.Millisecond) || !m.fits(took[2], time.Second) || !m.fits(closed[1], 100*time.Millisecond) {
		t.Errorf("calls of 300 ms took %v, and closing %v; want 350 ms and 100 ms at most", took, closed)
	}
	// The reason comes 200 ms after the first call of a connection, and that call ends 100 ms later: one of some that are
	// made when the machine has time ends with it.
	f.eventually("a first call that names etcd", func() bool {
		own := f.connect(c)
		defer own.Close()
		return strings.Contains(f.refused(own, true).Error(), "etcd under /TestB01")
	})
	server := startServer(t, devetcd.Config{ClientAddr: addr})
	f.admin = server.Client()
	f.soon(time.Second, "the first call after etcd came", func(ctx context.Context) error {
		f.putAll(f.serve(1)...)
		return ask(ctx, conn, grpc.WaitForReady(true))
	})
}

// refused makes a call of 300 ms that nobody can answer, and returns its error.
func (f *fixture) refused(conn *grpc.ClientConn, wait bool) error {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.ctx(), 300*time.Millisecond)
	defer cancel()
	err := ask(ctx, conn, grpc.WaitForReady(wait))
	if code := status.Code(err); code != codes.Unavailable && code != codes.DeadlineExceeded {
		f.t.Errorf("err = %v, want UNAVAILABLE or DEADLINE_EXCEEDED", err)
		return errors.New("another error")
	}
	return err
}

// heard waits until the connection knows why it has nobody to call.
func (f *fixture) heard(conn *grpc.ClientConn) {
	f.t.Helper()
	ctx := f.ctx()
	conn.Connect()
	for st := conn.GetState(); st != connectivity.TransientFailure; st = conn.GetState() {
		if !conn.WaitForStateChange(ctx, st) {
			f.t.Errorf("the connection is %v, want it to know that there is nobody", st)
			return
		}
	}
}

func TestB06CallsGoOnWhileThePermissionComesAndGoes(t *testing.T) {
	t.Parallel()
	f := newOwnFixture(t, devetcd.Config{AuthTokenTTL: time.Second})
	f.withAuth()
	f.grant()
	callees := f.serve(4)
	f.putAll(callees[:3]...)
	src := f.source()
	l := f.callOn(f.connect(f.cached(src, cache.Options{})))
	for n := range full(20, 3) {
		if _, err := f.admin.RoleRevokePermission(f.ctx(), "svc", f.prefix+"/", clientv3.GetPrefixRangeEnd(f.prefix+"/")); err != nil {
			t.Fatal(err)
		}
		f.proxy.setCut(true) // a watch that runs is not refused, the next one is
		f.proxy.setCut(false)
		f.eventually("etcd to refuse", func() bool {
			err := src.State()[0].Err
			return err != nil && strings.Contains(err.Error(), "permission denied")
		})
		if n == 1 {
			f.putAll(callees[3])
		}
		f.grant()
		f.eventually("etcd to answer again", func() bool { return src.State()[0].Err == nil })
	}
	f.eventually("what was announced meanwhile", func() bool { return src.State()[0].Instances == 4 })
	l.noneFailed()
}

func TestB09CallsGoOnWithoutEtcdAndTheAgeIsKnown(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	callees := f.serve(4)
	f.putAll(callees[:3]...)
	c := f.cached(f.source(asShipped), cache.Options{})
	l := f.callOn(f.connect(c))
	f.proxy.setCut(true)
	f.eventually("the cache to say so", func() bool { u, _ := c.Snapshot("user"); return u.Err != nil })
	f.pass(full2(5*time.Minute, time.Second))
	f.putAll(callees[3])
	u, _ := c.Snapshot("user")
	if age := time.Since(u.AsOf); len(u.Instances) != 3 || age < time.Second {
		t.Errorf("%d instances of %v ago, want 3 whose age is told", len(u.Instances), age)
	}
	f.proxy.setCut(false)
	w := discoverytest.NewWatcher(t, c, "user", nil)
	f.soon(reconnect, "the new one", func(context.Context) error {
		w.Wait("four without an error", func(u discovery.Update) bool { return len(u.Instances) == 4 && u.Err == nil })
		return nil
	})
	l.noneFailed()
}

// full2 is full for times.
func full2(table, usual time.Duration) time.Duration {
	return time.Duration(full(int(table), int(usual)))
}

func TestB11CallsGoOnAndAllComeBackWhenEtcdIsWiped(t *testing.T) {
	t.Parallel()
	server := startServer(t, devetcd.Config{})
	f := fixtureOn(t, server)
	// Or the new etcd would be at the old one's revision once all are back, which may be before the source asks: that is
	// for TestB10ARestoredEtcdThatHasCaughtUpIsNoticed.
	for n := range 100 {
		f.putRaw(fmt.Sprintf("%s-other/%d", f.prefix, n), "x")
	}
	r := f.registrar()
	for _, c := range f.serve(20) {
		f.register(r, discoverytest.Instance("user", c.addr))
	}
	src := f.source()
	c := f.cached(src, cache.Options{})
	w := discoverytest.NewWatcher(t, c, "user", nil)
	w.Wait("all", func(u discovery.Update) bool { return len(u.Instances) == 20 })
	l := f.callOn(f.connect(c))
	_ = server.Close()
	f.pass(200 * time.Millisecond)
	startServer(t, devetcd.Config{ClientAddr: server.Addr()}) // on an empty directory
	f.soon(reconnect, "all keys", func(ctx context.Context) error {
		f.eventually("all keys", func() bool { return len(f.keys()) == 20 })
		return ctx.Err()
	})
	f.eventually("the source to know", func() bool {
		st := src.State()[0]
		return st.Lists["reset"] > 0 && st.Instances == 20
	})
	f.eventually("all to be in use", func() bool { u, _ := c.Snapshot("user"); return len(u.Instances) == 20 })
	l.noneFailed()
}

// A member that is cut off from the others takes calls and answers none. An old set, which a single member gives, is for when
// nobody knows a current one.
func TestB30TheFirstListDoesNotMeetTheSilentMemberAgainAndAgain(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.put(discoverytest.Instance("user", "10.0.0.1:9000"))
	var alone atomic.Int32
	cli, err := clientv3.New(clientv3.Config{
		Endpoints: []string{f.server.Addr()}, Logger: zap.NewNop(),
		DialOptions: []grpc.DialOption{grpc.WithNoProxy(), fakeetcd.LoneReadsMeetASilentMember(func(r *pb.RangeRequest) {
			if r.GetSerializable() {
				alone.Add(1)
			}
		})},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cli.Close() })
	f.cli = cli
	w := discoverytest.NewWatcher(t, f.source(), "user", nil)
	f.soon(time.Second, "the first set", func(context.Context) error {
		w.WaitAddrs("10.0.0.1:9000")
		return nil
	})
	if n := alone.Load(); n > 0 {
		t.Errorf("a single member was asked for what it knows %d times", n)
	}
}

func TestB12CallsGoOnWhenAllVanishAtOnceAndEndWhenAllAreDead(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	callees := f.serve(20)
	var leases []clientv3.LeaseID
	for _, c := range callees {
		lease, err := f.admin.Grant(f.ctx(), 60)
		if err != nil {
			t.Fatal(err)
		}
		value, err := discovery.Encode(discoverytest.Instance("user", c.addr))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.admin.Put(f.ctx(), f.key("user", c.addr), string(value), clientv3.WithLease(lease.ID)); err != nil {
			t.Fatal(err)
		}
		leases = append(leases, lease.ID)
	}
	src := f.source()
	c := f.cached(src, cache.Options{})
	l := f.callOn(f.connect(c))
	for _, vanish := range []func(){
		func() {
			for _, id := range leases {
				if _, err := f.admin.Revoke(f.ctx(), id); err != nil {
					t.Fatal(err)
				}
			}
		},
		func() { f.del(f.prefix, clientv3.WithPrefix()) },
	} {
		vanish()
		f.eventually("etcd to be known as empty", func() bool { return src.State()[0].Instances == 0 })
		f.pass(200 * time.Millisecond)
		if u, _ := c.Snapshot("user"); len(u.Instances) != 20 {
			t.Errorf("%d instances in use, want all 20", len(u.Instances))
		}
		f.putAll(callees...)
		f.eventually("all to be back", func() bool { return src.State()[0].Instances == 20 })
	}
	l.noneFailed()

	const hold = 2 * time.Second
	c = f.cached(src, cache.Options{HoldTTL: hold})
	conn := f.connect(c)
	f.eventually("all to be known", func() bool { u, _ := c.Snapshot("user"); conn.Connect(); return len(u.Instances) == 20 })
	gone, m := time.Now(), measure(t)
	f.del(f.prefix, clientv3.WithPrefix())
	for _, c := range callees {
		c.end()
	}
	f.eventually("calls to fail fast", func() bool {
		m := measure(t)
		ctx, cancel := context.WithTimeout(f.ctx(), patience)
		defer cancel()
		return status.Code(ask(ctx, conn)) == codes.Unavailable && m.within(time.Second)
	})
	f.eventually("those that were held to be let go", func() bool { u, _ := c.Snapshot("user"); return len(u.Instances) == 0 })
	if d := time.Since(gone); d < hold || !m.fits(d, hold+3*time.Second) {
		t.Errorf("let go after %v, want about %v", d, hold)
	}
}

func TestB15WithoutInstancesCallsFailAtOnceOrWaitForTheFirst(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	conn := f.connect(f.cached(f.source(), cache.Options{}))
	// Calls fail for another reason while a list takes longer than 200 ms, but never with another code.
	f.soon(300*time.Millisecond, "a call that does not wait, and says why", func(context.Context) error {
		f.eventually("the reason", func() bool {
			err := ask(f.ctx(), conn)
			if status.Code(err) != codes.Unavailable {
				t.Errorf("a call that does not wait: %v, want UNAVAILABLE", err)
				return true
			}
			return strings.Contains(err.Error(), `no instances of "user" in etcd under `+f.prefix)
		})
		return nil
	})
	answered := make(chan error, 1)
	go func() { answered <- ask(f.ctx(), conn, grpc.WaitForReady(true)) }()
	f.pass(50 * time.Millisecond)
	one := f.serve(1)
	f.soon(200*time.Millisecond, "the call that waits", func(context.Context) error {
		f.putAll(one...)
		return <-answered
	})
}

// etcdMetric reads one of the metrics that an etcd in this process keeps of itself.
func etcdMetric(t *testing.T, name string) float64 {
	t.Helper()
	families, err := prometheus.DefaultGatherer.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() == name {
			return family.GetMetric()[0].GetGauge().GetValue()
		}
	}
	t.Fatalf("etcd has no metric %s", name)
	return 0
}

// It does not run beside others, since etcd counts the watches of all servers of a process together.
func TestB24ManyConnectionsAreOneWatch(t *testing.T) { //nolint:paralleltest // see above
	f := newOwnFixture(t, devetcd.Config{})
	c := f.cached(f.source(), cache.Options{})
	f.putAll(f.serve(1)...)
	watchers, streams := etcdMetric(t, "etcd_debugging_mvcc_watcher_total"), etcdMetric(t, "etcd_debugging_mvcc_watch_stream_total")
	for range 500 {
		if err := ask(f.ctx(), f.connect(c), grpc.WaitForReady(true)); err != nil {
			t.Fatal(err)
		}
	}
	if w, s := etcdMetric(t, "etcd_debugging_mvcc_watcher_total")-watchers, etcdMetric(t, "etcd_debugging_mvcc_watch_stream_total")-streams; w != 1 || s != 1 {
		t.Errorf("etcd counts %v watches on %v streams for 500 connections, want one on one", w, s)
	}
}

// aside is gRPC's side of a resolver that nobody connects with.
type aside struct{ resolver.ClientConn }

func (aside) UpdateState(resolver.State) error { return nil }
func (aside) ReportError(error)                {}

func TestB28AStormOfHintsIsOneQuestion(t *testing.T) {
	t.Parallel()
	for name, busy := range map[string]bool{"busy": true, "quiet": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newOwnFixture(t, devetcd.Config{})
			p := f.tapped(0)
			s := f.source(asShipped)
			c := f.cached(s, cache.Options{})
			discoverytest.NewWatcher(t, c, "user", nil).WaitAddrs()
			u, err := url.Parse("etcd://caller/user")
			if err != nil {
				t.Fatal(err)
			}
			r, err := grpcresolver.NewBuilder(c, grpcresolver.Options{}).Build(resolver.Target{URL: *u}, aside{}, resolver.BuildOptions{})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(r.Close)
			f.eventually("the watch", func() bool { return p.counts().streams == 1 })
			f.pass(50 * time.Millisecond)
			if busy {
				f.put(discoverytest.Instance("other", addr1))
			}
			before, seen := p.counts(), s.State()[0].LastSeen
			for range 10_000 {
				r.ResolveNow(resolver.ResolveNowOptions{})
			}
			f.eventually("the answer", func() bool { return s.State()[0].LastSeen.After(seen) })
			after := p.counts()
			// A progress request reads nothing. An etcd in which nothing was written since does not answer it, and is
			// asked for its revision then.
			if busy && (after.probes-before.probes != 1 || after.ranges != before.ranges) || after.ranges-before.ranges > 1 || after.watches != before.watches {
				t.Errorf("before %+v, after %+v; want one question", before, after)
			}
		})
	}
}

// ownAddress returns an address of this machine that is no loopback.
func ownAddress(t *testing.T) string {
	t.Helper()
	all, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range all {
		if n, ok := a.(*net.IPNet); ok && n.IP.IsGlobalUnicast() && n.IP.To4() != nil {
			return n.IP.String()
		}
	}
	t.Skip("this machine has loopback addresses only, and those never go through a proxy")
	return ""
}

// The environment is read once in a process, and so this runs in one of its own. etcd is reached at 0.0.0.0, which is this
// machine too, as loopback addresses never go through a proxy.
func TestB32ProxiesOfTheEnvironmentAreNotUsed(t *testing.T) {
	t.Parallel()
	const dead = "http://127.0.0.1:1"
	own := ownAddress(t)
	if os.Getenv("HTTPS_PROXY") != dead {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestB32ProxiesOfTheEnvironmentAreNotUsed$", "-test.timeout=60s")
		cmd.Env = append(os.Environ(), "HTTPS_PROXY="+dead, "https_proxy="+dead, "NO_PROXY=", "no_proxy=")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v:\n%s", err, out)
		}
		return
	}
	f := newFixture(t)
	_, port, _ := net.SplitHostPort(f.server.Addr())
	cfg := etcdclient.DefaultConfig()
	cfg.Endpoints = []string{"0.0.0.0:" + port}
	cli, err := etcdclient.New(cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cli.Close() })
	f.cli = cli
	f.register(f.registrar(), discoverytest.Instance("user", f.serveAt(own+":0").addr))
	builder := grpcresolver.NewBuilder(f.cached(f.source(), cache.Options{}), grpcresolver.Options{})
	factory, err := client.NewFactory(client.Params{Caller: "caller", Resolver: builder})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = factory.Close(context.Background()) })
	conn, err := factory.Conn("user")
	if err != nil {
		t.Fatal(err)
	}
	if err := ask(f.ctx(), conn); err != nil {
		t.Errorf("a call through the factory: %v", err)
	}
	// That the environment would be obeyed shows a connection that is not told otherwise.
	plain, err := grpc.NewClient("etcd://caller/user", grpc.WithResolvers(builder), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	if err := ask(f.ctx(), plain); err == nil || !strings.Contains(err.Error(), "127.0.0.1:1") {
		t.Errorf("a connection through the dead proxy: %v, want it refused there; the test proves nothing", err)
	}
}
