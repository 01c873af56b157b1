package etcd_test

import (
	"context"
	"flag"
	"net"
	"os"
	"path"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/newsvc/newsvc/framework/discovery"
	"github.com/newsvc/newsvc/framework/discovery/cache"
	"github.com/newsvc/newsvc/framework/discovery/discoverytest"
	"github.com/newsvc/newsvc/framework/grpcresolver"
)

// rowsFull makes the tests named after rows as large as the table of failure modes has them.
var rowsFull = flag.Bool("rows.full", false, "repeat as often, and fill as much, as the table of failure modes asks for")

// rowsStrict takes away what a busy machine is excused for.
var rowsStrict = flag.Bool("rows.strict", false, "give a busy machine no more time than a quiet one")

// full is the first number with -rows.full, else the second.
func full(table, usual int) int {
	if *rowsFull {
		return table
	}
	return usual
}

// tap is a client of etcd whose traffic can be counted and altered on its way.
type tap struct {
	mu      sync.Mutex
	unary   map[string]int // attempts of unary calls, by method
	watches int            // watches that were asked for
	probes  int            // progress requests
	streams int            // streams of watches that are open
	opened  int            // streams of watches that ever were

	afterRange func()                  // called after an answer to a Range, before the caller gets it
	onWatch    func(*pb.WatchResponse) // may alter what the caller gets
}

// tapped puts a tap between the code under test and the proxy. No answer may be larger than limit.
func (f *fixture) tapped(limit int) *tap {
	f.t.Helper()
	p := &tap{unary: map[string]int{}}
	cli, err := clientv3.New(clientv3.Config{
		Endpoints: []string{f.proxy.addr()}, DialTimeout: time.Second, MaxUnaryRetries: 5, BackoffWaitBetween: 50 * time.Millisecond,
		DialKeepAliveTime: 10 * time.Second, DialKeepAliveTimeout: 3 * time.Second, MaxCallRecvMsgSize: limit, Logger: zap.NewNop(),
		DialOptions: []grpc.DialOption{
			grpc.WithNoProxy(), grpc.WithChainUnaryInterceptor(p.call), grpc.WithChainStreamInterceptor(p.stream),
			grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 2 * time.Second}, MinConnectTimeout: 3 * time.Second}),
		},
	})
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { _ = cli.Close() })
	f.cli = cli
	return p
}

func (p *tap) call(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	err := invoke(ctx, method, req, reply, cc, opts...)
	p.mu.Lock()
	p.unary[path.Base(method)]++
	after := p.afterRange
	p.mu.Unlock()
	if _, list := reply.(*pb.RangeResponse); list && err == nil && after != nil {
		after()
	}
	return err
}

func (p *tap) stream(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	s, err := open(ctx, desc, cc, method, opts...)
	if err != nil || path.Base(method) != "Watch" {
		return s, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.opened++
	p.streams++
	context.AfterFunc(s.Context(), func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.streams--
	})
	return &tappedStream{s, p}, nil
}

type tappedStream struct {
	grpc.ClientStream
	p *tap
}

func (s *tappedStream) SendMsg(m any) error {
	if req, ok := m.(*pb.WatchRequest); ok {
		s.p.mu.Lock()
		if req.GetCreateRequest() != nil {
			s.p.watches++
		}
		if req.GetProgressRequest() != nil {
			s.p.probes++
		}
		s.p.mu.Unlock()
	}
	return s.ClientStream.SendMsg(m)
}

func (s *tappedStream) RecvMsg(m any) error {
	err := s.ClientStream.RecvMsg(m)
	if resp, ok := m.(*pb.WatchResponse); ok && err == nil {
		s.p.mu.Lock()
		on := s.p.onWatch
		s.p.mu.Unlock()
		if on != nil {
			on(resp)
		}
	}
	return err
}

// set sets what happens to answers from now on.
func (p *tap) set(afterRange func(), onWatch func(*pb.WatchResponse)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.afterRange, p.onWatch = afterRange, onWatch
}

// counts is what a tap has seen.
type counts struct{ ranges, watches, probes, streams, opened int }

func (p *tap) counts() counts {
	p.mu.Lock()
	defer p.mu.Unlock()
	return counts{p.unary["Range"], p.watches, p.probes, p.streams, p.opened}
}

// callee is a real gRPC server on loopback that answers health checks.
type callee struct {
	*grpc.Server
	addr  string
	ended chan struct{}
}

func (f *fixture) serveAt(addr string) *callee {
	f.t.Helper()
	lis, err := (&net.ListenConfig{}).Listen(f.t.Context(), "tcp", addr)
	if err != nil {
		f.t.Fatal(err)
	}
	c := &callee{Server: grpc.NewServer(), addr: lis.Addr().String(), ended: make(chan struct{})}
	healthpb.RegisterHealthServer(c, health.NewServer())
	go func() {
		defer close(c.ended)
		_ = c.Serve(lis)
	}()
	f.t.Cleanup(c.end)
	return c
}

func (c *callee) end() {
	c.Stop()
	<-c.ended
}

// serve starts n callees of service "user".
func (f *fixture) serve(n int) []*callee {
	f.t.Helper()
	out := make([]*callee, n)
	for k := range out {
		out[k] = f.serveAt("127.0.0.1:0")
	}
	return out
}

func (f *fixture) cached(src discovery.Source, opt cache.Options) *cache.Cache {
	f.t.Helper()
	c := cache.New(src, opt)
	f.t.Cleanup(c.Close)
	return c
}

// connect returns a connection to the service "user" as gRPC makes it with the settings of the client factory.
func (f *fixture) connect(c grpcresolver.Cache, opts ...grpc.DialOption) *grpc.ClientConn {
	f.t.Helper()
	opts = append([]grpc.DialOption{
		grpc.WithResolvers(grpcresolver.NewBuilder(c, grpcresolver.Options{Where: "etcd under " + f.prefix})),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithNoProxy(), grpc.WithIdleTimeout(0),
		grpc.WithDefaultServiceConfig(`{"loadBalancingConfig":[{"round_robin":{}}]}`),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 3 * time.Second},
			MinConnectTimeout: 3 * time.Second,
		}),
	}, opts...)
	conn, err := grpc.NewClient("etcd://caller/user", opts...)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func ask(ctx context.Context, conn grpc.ClientConnInterface, opts ...grpc.CallOption) error {
	_, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{}, opts...)
	return err
}

// load calls all the time, 400 times a second at the most, from two callers.
type load struct {
	t       *testing.T
	cancel  context.CancelFunc
	callers sync.WaitGroup
	total   atomic.Int64
	mu      sync.Mutex
	errs    []error
}

// callOn begins to call once the first call was answered.
func (f *fixture) callOn(conn grpc.ClientConnInterface) *load {
	f.t.Helper()
	if err := ask(f.ctx(), conn, grpc.WaitForReady(true)); err != nil {
		f.t.Fatalf("the first call: %v", err)
	}
	ctx, cancel := context.WithCancel(f.t.Context())
	l := &load{t: f.t, cancel: cancel}
	for range 2 {
		l.callers.Go(func() { l.run(ctx, conn) })
	}
	f.t.Cleanup(l.stop)
	return l
}

func (l *load) run(ctx context.Context, conn grpc.ClientConnInterface) {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		cctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		err := ask(cctx, conn, grpc.WaitForReady(true))
		cancel()
		if ctx.Err() != nil {
			return
		}
		l.total.Add(1)
		if err != nil {
			l.mu.Lock()
			l.errs = append(l.errs, err)
			l.mu.Unlock()
		}
	}
}

func (l *load) stop() {
	l.cancel()
	l.callers.Wait()
}

// noneFailed ends the load and fails the test when a call failed.
func (l *load) noneFailed() {
	l.t.Helper()
	l.stop()
	if n := len(l.errs); n > 0 {
		l.t.Errorf("%d of %d calls failed, the first with: %v", n, l.total.Load(), l.errs[0])
	}
	if l.total.Load() == 0 {
		l.t.Error("no call was made")
	}
}

// putAll announces instances without anybody who keeps them announced.
func (f *fixture) putAll(callees ...*callee) {
	f.t.Helper()
	for _, c := range callees {
		f.put(discoverytest.Instance("user", c.addr))
	}
}

// meter tells whether a time that was measured says something of us or of a machine that has too much to do. It excuses
// times only, never what was to be seen.
type meter struct {
	t       testing.TB
	start   time.Time
	waiting time.Duration
	working time.Duration
	most    time.Duration // how many times as much as its limit something may take on a busy machine
}

func measure(t testing.TB) meter { return meter{t, time.Now(), waitingForCPU(), workingOnCPU(), 5} }

// waitingForCPU is for how long, since the machine started, somebody who could run had to wait for a processor; 0 on
// systems that do not count it.
func waitingForCPU() time.Duration {
	text, err := os.ReadFile("/proc/pressure/cpu")
	if err != nil {
		return 0
	}
	_, total, _ := strings.Cut(string(text), "total=")
	total, _, _ = strings.Cut(total, "\n")
	us, _ := strconv.ParseInt(total, 10, 64)
	return time.Duration(us) * time.Microsecond
}

// workingOnCPU is how long processors have worked for this process; 0 on systems that do not tell it that way. Go hands a
// processor from goroutine to goroutine, so tests and etcd in one process wait for each other without the system's knowledge.
func workingOnCPU() time.Duration {
	text, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(text), ") ")
	fields := strings.Fields(rest) // from the third one on
	if len(fields) < 13 {
		return 0
	}
	user, _ := strconv.ParseInt(fields[11], 10, 64)
	system, _ := strconv.ParseInt(fields[12], 10, 64)
	return time.Duration(user+system) * (time.Second / 100) // Linux counts in hundredths
}

// fits reports whether something took no longer than limit. It excuses what took longer, within bounds and with a word
// in the log, when somebody had to wait for a processor during half of the time since measure or more, or when this process
// kept half of what processors Go has at work.
func (m meter) fits(took, limit time.Duration) bool {
	m.t.Helper()
	if took <= limit {
		return true
	}
	all, waited := time.Since(m.start), waitingForCPU()-m.waiting
	worked := (workingOnCPU() - m.working) / time.Duration(runtime.GOMAXPROCS(0))
	if *rowsStrict || took > m.most*limit || max(waited, worked) < all/2 {
		m.t.Logf("of %v, somebody waited for a processor during %v; this process kept each busy for %v", all, waited, worked)
		return false
	}
	m.t.Logf("excused: %v where %v is the limit; during %v of %v somebody waited for a processor, and this process kept each busy for %v", took, limit, waited, all, worked)
	return true
}

// within is fits for all that has passed.
func (m meter) within(limit time.Duration) bool {
	m.t.Helper()
	return m.fits(time.Since(m.start), limit)
}

// soon fails the test when what it awaits takes longer than limit.
func (f *fixture) soon(limit time.Duration, what string, await func(ctx context.Context) error) {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), patience)
	defer cancel()
	m := measure(f.t)
	err := await(ctx)
	took := time.Since(m.start)
	if err != nil || !m.fits(took, limit) {
		f.t.Errorf("%s took %v (%v), want at most %v", what, took, err, limit)
		return
	}
	f.t.Logf("%s took %v, of %v at most", what, took, limit)
}

// inUse reports whether so many instances are known.
func inUse(n int) func(discovery.Update) bool {
	return func(u discovery.Update) bool { return len(u.Instances) == n }
}
