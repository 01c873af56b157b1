package stack_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"

	"github.com/newsvc/newsvc/framework/devetcd"
	"github.com/newsvc/newsvc/framework/discovery"
	"github.com/newsvc/newsvc/framework/discovery/discoverytest"
	"github.com/newsvc/newsvc/framework/stack"
)

// onEtcd makes services whose registry is a real etcd.
type onEtcd struct {
	t    *testing.T
	etcd *devetcd.Server
}

func withEtcd(t *testing.T) onEtcd {
	t.Helper()
	etcd, err := devetcd.Start(t.Context(), devetcd.Config{Fast: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = etcd.Close() }) // a test may have closed it
	return onEtcd{t, etcd}
}

func (e onEtcd) serving(change ...func(*stack.Params)) *stack.Stack {
	e.t.Helper()
	p, _, _ := params(e.t)
	p.Replace = stack.Replace{}
	p.Config.Etcd.Endpoints = []string{e.etcd.Addr()}
	p.Callees = []string{service}
	for _, c := range change {
		c(&p)
	}
	return build(e.t, p)
}

func (e onEtcd) keys() int64 {
	e.t.Helper()
	res, err := e.etcd.Client().Get(limit(e.t), discovery.ServicePrefix(discovery.DefaultPrefix, service), clientv3.WithPrefix())
	if err != nil {
		e.t.Fatal(err)
	}
	return res.Count
}

// goneSoon stops a service after its failure, and sees that its key does not wait for its lease.
func (e onEtcd) goneSoon(s *stack.Stack, failed <-chan error) {
	e.t.Helper()
	began := time.Now()
	if err := <-failed; err == nil {
		e.t.Error("no reason was given")
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		if err := s.Close(limit(e.t)); err != nil {
			e.t.Errorf("close: %v", err)
		}
	})
	eventually(e.t, "the end of the key", func() bool { return e.keys() == 0 })
	if d := time.Since(began); d > 2*time.Second { // within a second, and one more for a busy machine
		e.t.Errorf("the key was gone after %v", d)
	}
}

func TestARealEtcdKnowsWhoServes(t *testing.T) {
	t.Parallel()
	e := withEtcd(t)
	s := e.serving()
	up(t, s)
	if _, err := clientOf(t, s).EmptyCall(limit(t), &testpb.Empty{}); err != nil {
		t.Error(err)
	}
	if n := e.keys(); n != 1 {
		t.Errorf("%d keys while it serves", n)
	}
	if err := errors.Join(s.Drain(t.Context()), s.Close(t.Context())); err != nil {
		t.Error(err)
	}
	if n := e.keys(); n != 0 {
		t.Errorf("%d keys are left", n)
	}
}

func TestD07StoppedWhileEtcdIsAway(t *testing.T) {
	t.Parallel()
	e := withEtcd(t)
	s := e.serving()
	up(t, s)
	if err := e.etcd.Close(); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := errors.Join(s.Drain(t.Context()), s.Close(t.Context())); err != nil {
		t.Errorf("err = %v", err)
	}
	if d := time.Since(began); d > 8*time.Second {
		t.Errorf("it took %v", d)
	}
}

func TestD08ListenerThatDiesTakesTheKeyWithIt(t *testing.T) {
	t.Parallel()
	e := withEtcd(t)
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	failed := make(chan error, 1)
	s := e.serving(func(p *stack.Params) {
		p.Replace.Listener = l
		p.Failed = func(err error) { failed <- err }
	})
	up(t, s)
	_ = l.Close() // behind the server's back
	e.goneSoon(s, failed)
}

func TestD10PanicOfATaskTakesTheKeyWithIt(t *testing.T) {
	t.Parallel()
	e := withEtcd(t)
	failed := make(chan error, 1)
	s := e.serving(func(p *stack.Params) { p.Failed = func(err error) { failed <- err } })
	panicking := make(chan struct{})
	s.Work("beat", func(context.Context) error { <-panicking; panic("heart trouble") })
	up(t, s)
	if n := e.keys(); n != 1 {
		t.Errorf("%d keys while it serves", n)
	}
	close(panicking)
	e.goneSoon(s, failed)
}

func TestD11StoppedAtAnyMomentOfTheStartLeavesNoKey(t *testing.T) {
	t.Parallel()
	e := withEtcd(t)
	for range 60 {
		s := e.serving()
		var wg sync.WaitGroup
		wg.Go(func() {
			if s.Connect(t.Context()) == nil {
				_ = s.Start(t.Context()) // it may have been stopped
			}
		})
		after := rand.N(25 * time.Millisecond)
		ctx, cancel := context.WithTimeout(t.Context(), after)
		<-ctx.Done()
		cancel()
		if err := s.Close(t.Context()); err != nil {
			t.Error(err)
		}
		wg.Wait()
		if n := e.keys(); n != 0 {
			t.Fatalf("stopped after %v: %d keys are left", after, n)
		}
	}
}

// chatting is a service whose streams go on until they are ended.
type chatting struct {
	impl
	open, opened atomic.Int64
}

func (c *chatting) FullDuplexCall(s testpb.TestService_FullDuplexCallServer) error {
	c.open.Add(1)
	c.opened.Add(1)
	defer c.open.Add(-1)
	if err := s.Send(&testpb.StreamingOutputCallResponse{}); err != nil {
		return err
	}
	<-s.Context().Done()
	return context.Cause(s.Context())
}

// replica starts an instance that registers in reg.
func replica(t *testing.T, reg *discoverytest.Registry, srv testpb.TestServiceServer, change ...func(*stack.Params)) *stack.Stack {
	t.Helper()
	p, _, _ := params(t)
	p.Replace = stack.Replace{Source: reg, Registrar: reg}
	for _, c := range change {
		c(&p)
	}
	s, err := stack.New(p)
	if err != nil {
		t.Fatal(err)
	}
	testpb.RegisterTestServiceServer(s.Server(), srv)
	t.Cleanup(func() { _ = s.Close(context.WithoutCancel(t.Context())) })
	up(t, s)
	return s
}

func TestD05AllStreamsGoOnAtTheOtherReplica(t *testing.T) {
	t.Parallel()
	const streams = 200
	reg := discoverytest.NewRegistry()
	first, second := &chatting{}, &chatting{}
	leaving := replica(t, reg, first, func(p *stack.Params) { p.Config.Server.Drain.Soft = 300 * time.Millisecond })
	client := clientOf(t, calling(t, stack.Replace{Source: reg, Registrar: reg}, nil))
	ctx, cancel := context.WithCancel(limit(t))
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	var mu sync.Mutex
	ends := map[codes.Code]int{}
	for range streams {
		wg.Go(func() {
			for ctx.Err() == nil {
				s, err := client.FullDuplexCall(ctx)
				for err == nil {
					_, err = s.Recv()
				}
				if ctx.Err() == nil {
					mu.Lock()
					ends[status.Code(err)]++
					mu.Unlock()
				}
			}
		})
	}
	eventually(t, "all streams at the first", func() bool { return first.open.Load() == streams })
	replica(t, reg, second)
	began := time.Now()
	if err := leaving.Drain(t.Context()); err != nil {
		t.Error(err)
	}
	eventually(t, "all streams at the second", func() bool { return second.open.Load() == streams })
	t.Logf("all streams had moved after %v", time.Since(began))
	if d := time.Since(began); d > 3500*time.Millisecond { // the window, the soft budget, and 2 s
		t.Errorf("it took %v", d)
	}
	mu.Lock()
	defer mu.Unlock()
	if ends[codes.Unavailable] != streams || len(ends) != 1 {
		t.Errorf("streams ended with %v, want each once with UNAVAILABLE", ends)
	}
}

// What a prober sees: not ready, ready, not ready while calls are still answered, and then nothing.
func TestD12HealthTellsWhatComes(t *testing.T) {
	t.Parallel()
	p, reg, _ := params(t)
	p.Config.Server.Drain.MinWindow = 200 * time.Millisecond
	s := build(t, p)
	db := s.Readiness().Condition("db")
	if err := s.Connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	cc := dial(t, s)
	var seen []string
	probe := func() string {
		res, err := healthpb.NewHealthClient(cc).Check(limit(t), &healthpb.HealthCheckRequest{})
		what := res.GetStatus().String()
		if err != nil {
			what = "gone"
		}
		if len(seen) == 0 || seen[len(seen)-1] != what {
			seen = append(seen, what)
		}
		return what
	}
	if probe() != "NOT_SERVING" || len(reg.Instances(service)) != 0 {
		t.Error("it serves before it is ready")
	}
	db.Set(nil)
	eventually(t, "the registration", func() bool { probe(); return len(reg.Instances(service)) == 1 })
	eventually(t, "SERVING", func() bool { return probe() == "SERVING" })
	drained := make(chan error, 1)
	go func() { drained <- s.Drain(context.WithoutCancel(t.Context())) }()
	eventually(t, "NOT_SERVING", func() bool { return probe() == "NOT_SERVING" })
	if _, err := testpb.NewTestServiceClient(cc).EmptyCall(t.Context(), &testpb.Empty{}); err != nil {
		t.Errorf("a call after NOT_SERVING: %v", err)
	}
	eventually(t, "the end", func() bool { return probe() == "gone" })
	if err := <-drained; err != nil {
		t.Error(err)
	}
	if want := []string{"NOT_SERVING", "SERVING", "NOT_SERVING", "gone"}; !slices.Equal(seen, want) {
		t.Errorf("a prober saw %v, want %v", seen, want)
	}
}

// callers call until stop is called, which returns the errors and how many calls there were.
func callers(t *testing.T, client testpb.TestServiceClient) (stop func() (failed []error, calls int64)) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	var mu sync.Mutex
	var failed []error
	var calls atomic.Int64
	for range 8 {
		wg.Go(func() {
			tick := time.NewTicker(4 * time.Millisecond)
			defer tick.Stop()
			for ctx.Err() == nil {
				// With the deadline of the policy, and to its end.
				if _, err := client.EmptyCall(context.WithoutCancel(ctx), &testpb.Empty{}); err != nil {
					mu.Lock()
					failed = append(failed, err)
					mu.Unlock()
				}
				calls.Add(1)
				select {
				case <-tick.C:
				case <-ctx.Done():
				}
			}
		})
	}
	t.Cleanup(func() { cancel(); wg.Wait() })
	return func() ([]error, int64) { cancel(); wg.Wait(); return failed, calls.Load() }
}

func TestD13AllReplicasLeaveBeforeTheirSuccessorsCome(t *testing.T) {
	t.Parallel()
	reg := discoverytest.NewRegistry()
	var old []*stack.Stack
	for range 3 {
		old = append(old, replica(t, reg, impl{}))
	}
	stop := callers(t, clientOf(t, calling(t, stack.Replace{Source: reg, Registrar: reg}, nil)))
	var wg sync.WaitGroup
	for _, s := range old {
		wg.Go(func() {
			if err := errors.Join(s.Drain(t.Context()), s.Close(t.Context())); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	nobody, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	<-nobody.Done()
	var latest atomic.Int64
	for range 3 {
		replica(t, reg, impl{}, func(p *stack.Params) { p.ServerOptions = append(p.ServerOptions, counting(&latest)) })
	}
	eventually(t, "calls at the successors", func() bool { return latest.Load() > 100 })
	if failed, calls := stop(); len(failed) > 0 {
		t.Errorf("%d of %d calls failed, the first with %v", len(failed), calls, failed[0])
	}
}

// The caller is cut off from the registry: that an instance leaves it hears from the instance alone.
func TestD14CallersThatHearNothingLoseNoCallInARoll(t *testing.T) {
	t.Parallel()
	reg, blind := discoverytest.NewRegistry(), discoverytest.NewRegistry()
	var all []*stack.Stack
	for range 3 {
		s := replica(t, reg, impl{})
		addr, _, _ := s.Addresses()
		blind.Put(&discovery.Instance{Service: service, Addr: addr})
		all = append(all, s)
	}
	stop := callers(t, clientOf(t, calling(t, stack.Replace{Source: blind, Registrar: blind}, nil)))
	for _, s := range all {
		addr, _, _ := s.Addresses()
		if err := errors.Join(s.Drain(t.Context()), s.Close(t.Context())); err != nil {
			t.Error(err)
		}
		var served atomic.Int64
		replica(t, reg, impl{}, func(p *stack.Params) {
			p.Config.Server.Listen = addr
			p.ServerOptions = append(p.ServerOptions, counting(&served))
		})
		eventually(t, "calls at the successor", func() bool { return served.Load() > 10 })
	}
	if failed, calls := stop(); len(failed) > 0 {
		t.Errorf("%d of %d calls failed, the first with %v", len(failed), calls, failed[0])
	}
}

// Kubernetes grants 30 s by default, and manifests of created services more.
func TestD15StopFitsIntoTheGraceOfAContainer(t *testing.T) {
	t.Parallel()
	c := stack.DefaultConfig()
	if d := c.App.StopTimeout; d != 25*time.Second || c.Server.Drain.Hard >= d {
		t.Errorf("stop_timeout is %v and calls are cut after %v; want 25s, and less", d, c.Server.Drain.Hard)
	}
	p, _, _ := params(t)
	s := build(t, p)
	up(t, s)
	began := time.Now()
	if err := errors.Join(s.Drain(t.Context()), s.Close(t.Context())); err != nil {
		t.Error(err)
	}
	if d := time.Since(began); d > 3*time.Second {
		t.Errorf("an idle service took %v to stop", d)
	}
}
