package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"runtime"
	"runtime/pprof"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	namingresolver "go.etcd.io/etcd/client/v3/naming/resolver"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/serviceconfig"

	"github.com/newsvc/newsvc/bench/internal/process"
	"github.com/newsvc/newsvc/framework/client"
	"github.com/newsvc/newsvc/framework/discovery"
	"github.com/newsvc/newsvc/framework/discovery/cache"
	"github.com/newsvc/newsvc/framework/discovery/etcd"
	"github.com/newsvc/newsvc/framework/etcdclient"
	"github.com/newsvc/newsvc/framework/grpcresolver"
)

// role is what a child process is: a client of one service, or a server on many addresses.
type role struct {
	Kind    string
	Arm     string
	Etcd    string
	Service string
	Size    int           // instances to know before the child says hello
	Real    bool          // a real connection in place of a stub
	Conns   int           // connections to the service; stubs when Real is false
	MinGap  time.Duration // of grpcresolver
	Profile string        // directory for a CPU profile
}

const (
	kindClient = "client"
	kindServer = "server"
)

// usage is what a process has used since it started.
type usage struct {
	CPU     time.Duration
	Alloc   uint64 // bytes
	Updates int64  // calls of UpdateState
}

// hello is what a client says once it knows all instances: what that took.
type hello struct {
	Addr string        // of a server
	Took time.Duration // from before the client of etcd was made
	usage
	Live uint64 // bytes of heap in use after a collection
	RSS  uint64 // bytes, the most until then
}

// command asks a child to wait until it knows Expect instances, when that is set, and for its usage.
type command struct{ Expect int }

// answer of a client is its usage, of a server how many connections it has.
type answer struct {
	usage
	Open, Accepted int64
}

// runChild is the life of a child process.
func runChild(ctx context.Context, r role) error {
	if r.Kind == kindServer {
		return runServer(ctx)
	}
	return runClient(ctx, r)
}

// subject is a client under measurement.
type subject struct {
	known   func() int    // instances that are known
	changed chan struct{} // 1 slot: known may have changed
	updates atomic.Int64  // calls of UpdateState, over all connections
	told    atomic.Int64  // endpoints in the last one
	closers []func()
}

func (s *subject) close() {
	for n := len(s.closers) - 1; n >= 0; n-- {
		s.closers[n]()
	}
}

func (s *subject) news() {
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

const budget = 2 * time.Minute

func (s *subject) expect(ctx context.Context, n int) error {
	ctx, cancel := context.WithTimeout(ctx, budget)
	defer cancel()
	for s.known() != n {
		select {
		case <-s.changed:
		case <-ctx.Done():
			return fmt.Errorf("%d instances are known after %v, not %d", s.known(), budget, n)
		}
	}
	return nil
}

func runClient(ctx context.Context, r role) error {
	s := &subject{changed: make(chan struct{}, 1)}
	s.known = func() int { return int(s.told.Load()) }
	defer s.close()
	if r.Profile != "" {
		stop, err := profile(fmt.Sprintf("%s/%s-%d-%v-%d.cpu", r.Profile, r.Arm, r.Size, r.Real, os.Getpid()))
		if err != nil {
			return err
		}
		defer stop()
	}
	if r.Conns > 1 {
		s.known = func() int { return int(s.updates.Load()) } // each connection is told once
	}
	before, begin := s.usage(), time.Now()
	if err := s.start(r); err != nil {
		return err
	}
	if err := s.expect(ctx, r.Size); err != nil {
		return err
	}
	h := hello{Took: time.Since(begin), usage: s.usage()}
	h.CPU, h.Alloc = h.CPU-before.CPU, h.Alloc-before.Alloc
	h.RSS = peak()
	runtime.GC()
	var mem runtime.MemStats
	runtime.ReadMemStats(&mem)
	h.Live = mem.HeapAlloc
	return process.Serve(os.Stdin, os.Stdout, h, func(c command) (answer, error) {
		if c.Expect > 0 {
			if err := s.expect(ctx, c.Expect); err != nil {
				return answer{}, err
			}
		}
		return answer{usage: s.usage()}, nil
	})
}

func (s *subject) usage() usage {
	var ru syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &ru); err != nil {
		panic(err) // it can't fail for the process itself
	}
	var mem runtime.MemStats
	runtime.ReadMemStats(&mem)
	return usage{CPU: time.Duration(ru.Utime.Nano() + ru.Stime.Nano()), Alloc: mem.TotalAlloc, Updates: s.updates.Load()}
}

// profile writes a CPU profile until the returned function is called.
func profile(name string) (stop func(), err error) {
	f, err := os.Create(name)
	if err != nil {
		return nil, err
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return nil, err
	}
	return func() { pprof.StopCPUProfile(); _ = f.Close() }, nil
}

func peak() uint64 {
	var ru syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &ru)
	return uint64(ru.Maxrss) << 10
}

// start makes the arm's resolver and begins to resolve.
func (s *subject) start(r role) error {
	if r.Arm == armNaming {
		return s.startNaming(r)
	}
	return s.startNewsvc(r)
}

func (s *subject) startNaming(r role) error {
	cli, err := clientv3.New(clientv3.Config{Endpoints: []string{r.Etcd}, Logger: zap.NewNop()})
	if err != nil {
		return err
	}
	s.closers = append(s.closers, func() { _ = cli.Close() })
	builder, err := namingresolver.NewBuilder(cli)
	if err != nil {
		return err
	}
	return s.connect(r, &counted{Builder: builder, s: s}, "etcd:///"+namingPrefix(r.Service))
}

// startNewsvc puts together what the framework's stack does.
func (s *subject) startNewsvc(r role) error {
	config := etcdclient.DefaultConfig()
	config.Endpoints = []string{r.Etcd}
	cli, err := etcdclient.New(config, zap.NewNop())
	if err != nil {
		return err
	}
	s.closers = append(s.closers, func() { _ = cli.Close() })
	source, err := etcd.NewSource(cli, etcd.Options{})
	if err != nil {
		return err
	}
	shared := &tapped{Cache: cache.New(source, cache.Options{}), s: s}
	s.closers = append(s.closers, shared.Close)
	opt := grpcresolver.Options{Seed: discovery.NewIncarnation(), MinGap: r.MinGap}
	if r.Arm == armAll {
		opt.Subset = grpcresolver.AllInstances
	} else if r.Conns == 0 { // gRPC is told of some of them only
		s.known = func() int { u, _ := shared.Snapshot(r.Service); return len(u.Instances) }
	}
	builder := &counted{Builder: grpcresolver.NewBuilder(shared, opt), s: s}
	if !r.Real || r.Conns > 1 {
		return s.connect(r, builder, grpcresolver.Scheme+"://bench/"+r.Service)
	}
	f, err := client.NewFactory(client.Params{Caller: "bench", Resolver: builder})
	if err != nil {
		return err
	}
	s.closers = append(s.closers, func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		_ = f.Close(ctx)
	})
	conn, err := f.Conn(r.Service)
	if err == nil {
		conn.Connect()
	}
	return err
}

// connect makes the connections of a client without a framework, stubs or real ones.
func (s *subject) connect(r role, builder resolver.Builder, target string) error {
	u, err := url.Parse(target)
	if err != nil {
		return err
	}
	for range max(r.Conns, 1) {
		if r.Real {
			conn, err := grpc.NewClient(target, grpc.WithResolvers(builder), grpc.WithTransportCredentials(insecure.NewCredentials()),
				grpc.WithDefaultServiceConfig(`{"loadBalancingConfig":[{"round_robin":{}}]}`))
			if err != nil {
				return err
			}
			s.closers = append(s.closers, func() { _ = conn.Close() })
			conn.Connect()
			continue
		}
		res, err := builder.Build(resolver.Target{URL: *u}, &stub{}, resolver.BuildOptions{})
		if err != nil {
			return err
		}
		s.closers = append(s.closers, res.Close)
	}
	return nil
}

// tapped tells when a resolver has taken in what the cache yielded.
type tapped struct {
	*cache.Cache
	s *subject
}

func (t *tapped) Watch(ctx context.Context, service string, yield func(discovery.Update)) error {
	return t.Cache.Watch(ctx, service, func(u discovery.Update) {
		yield(u)
		t.s.news()
	})
}

// counted counts the calls of UpdateState of all resolvers of a builder.
type counted struct {
	resolver.Builder
	s *subject
}

// OverrideAuthority forwards to the builder when it has the method, and answers as gRPC does when it has not.
func (c *counted) OverrideAuthority(t resolver.Target) string {
	if o, ok := c.Builder.(resolver.AuthorityOverrider); ok {
		return o.OverrideAuthority(t)
	}
	return url.PathEscape(t.Endpoint())
}

func (c *counted) Build(t resolver.Target, cc resolver.ClientConn, opt resolver.BuildOptions) (resolver.Resolver, error) {
	return c.Builder.Build(t, &counting{ClientConn: cc, s: c.s}, opt)
}

type counting struct {
	resolver.ClientConn
	s *subject
}

func (c *counting) UpdateState(st resolver.State) error {
	err := c.ClientConn.UpdateState(st)
	c.s.updates.Add(1)
	c.s.told.Store(int64(len(st.Endpoints)))
	c.s.news()
	return err
}

// stub keeps what it is told, as a real connection does, and does nothing with it.
type stub struct {
	mu    sync.Mutex
	state resolver.State
}

var _ resolver.ClientConn = (*stub)(nil)

func (c *stub) UpdateState(s resolver.State) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.state = s
	return nil
}

func (*stub) ReportError(error)             {}
func (*stub) NewAddress([]resolver.Address) {}
func (*stub) ParseServiceConfig(string) *serviceconfig.ParseResult {
	return &serviceconfig.ParseResult{Err: errors.New("the stub has none")}
}
