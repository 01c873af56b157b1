package grpcresolver_test

import (
	"context"
	"net/url"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/resolver"

	"github.com/newsvc/newsvc/framework/discovery"
	"github.com/newsvc/newsvc/framework/discovery/cache"
	"github.com/newsvc/newsvc/framework/discovery/discoverytest"
	"github.com/newsvc/newsvc/framework/grpcresolver"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// stub is gRPC's side: it remembers what it is told. Every answer is the error that gRPC gives for a bad state, which
// must not matter.
type stub struct {
	resolver.ClientConn

	mu      sync.Mutex
	states  []resolver.State
	errs    []error
	changed chan struct{}
}

func newStub() *stub { return &stub{changed: make(chan struct{})} }

func (s *stub) UpdateState(st resolver.State) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.states = append(s.states, st)
	s.signal()
	return balancer.ErrBadResolverState
}

func (s *stub) ReportError(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.errs = append(s.errs, err)
	s.signal()
}

func (s *stub) signal() {
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *stub) seen() ([]resolver.State, []error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]resolver.State(nil), s.states...), append([]error(nil), s.errs...)
}

func (s *stub) last() resolver.State {
	states, _ := s.seen()
	if len(states) == 0 {
		return resolver.State{}
	}
	return states[len(states)-1]
}

// wait waits until what was told satisfies the condition.
func (s *stub) wait(t testing.TB, what string, satisfied func(states []resolver.State, errs []error) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for {
		s.mu.Lock()
		changed, done := s.changed, satisfied(s.states, s.errs)
		s.mu.Unlock()
		if done {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			t.Fatalf("waiting for %s: not seen", what)
		}
	}
}

// forgetful is gRPC's side for benchmarks: it counts and keeps only the newest state.
type forgetful struct {
	resolver.ClientConn
	updates int
	last    resolver.State
}

func (f *forgetful) UpdateState(st resolver.State) error {
	f.updates++
	f.last = st
	return nil
}

func (f *forgetful) ReportError(error) {}

func addrsOf(st resolver.State) []string {
	out := []string{}
	for _, e := range st.Endpoints {
		for _, a := range e.Addresses {
			out = append(out, a.Addr)
		}
	}
	return out
}

func target(t testing.TB, text string) resolver.Target {
	t.Helper()
	u, err := url.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return resolver.Target{URL: *u}
}

// build resolves user-service with a stub; the resolver is closed at the end of the test.
func build(t testing.TB, c grpcresolver.Cache, opt grpcresolver.Options) (*stub, resolver.Resolver) {
	t.Helper()
	cc := newStub()
	return cc, buildFor(t, cc, c, opt)
}

func buildFor(t testing.TB, cc resolver.ClientConn, c grpcresolver.Cache, opt grpcresolver.Options) resolver.Resolver {
	t.Helper()
	r, err := grpcresolver.NewBuilder(c, opt).Build(target(t, "etcd://gateway/user-service"), cc, resolver.BuildOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

const callee = "user-service"

func newCache(t testing.TB, src discovery.Source) *cache.Cache {
	t.Helper()
	c := cache.New(src, cache.Options{})
	t.Cleanup(c.Close)
	return c
}

// primed returns a registry with the instances and a cache that already knows them.
func primed(t *testing.T, instances ...*discovery.Instance) (*discoverytest.Registry, *cache.Cache) {
	t.Helper()
	r := discoverytest.NewRegistry()
	r.Put(instances...)
	c := newCache(t, r)
	discoverytest.NewWatcher(t, c, callee, nil).Wait("the first set", discovery.Update.Known)
	return r, c
}

func instance(addr string) *discovery.Instance { return discoverytest.Instance(callee, addr) }

// fed is a cache that a test feeds by hand: feed returns when the watcher has worked its update off.
type fed struct {
	in  chan discovery.Update
	out chan struct{}
}

func newFed() *fed { return &fed{in: make(chan discovery.Update), out: make(chan struct{})} }

func (f *fed) Watch(ctx context.Context, _ string, yield func(discovery.Update)) error {
	for {
		select {
		case u := <-f.in:
			yield(u)
			f.out <- struct{}{}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (*fed) Snapshot(string) (discovery.Update, bool) { return discovery.Update{}, false }
func (*fed) Refresh(string)                           {}

func (f *fed) feed(instances []*discovery.Instance) {
	f.in <- discovery.Update{Instances: instances}
	<-f.out
}
