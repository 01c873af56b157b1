package stack_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	testpb "google.golang.org/grpc/interop/grpc_testing"

	"github.com/newsvc/newsvc/framework/discovery"
	"github.com/newsvc/newsvc/framework/stack"
)

func dial(t *testing.T, s *stack.Stack) *grpc.ClientConn {
	t.Helper()
	addr, _, _ := s.Addresses()
	cc, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cc.Close() })
	return cc
}

func TestIdleDrainDoesNotWaitForTheLongestWindow(t *testing.T) {
	t.Parallel()
	p, _, _ := params(t)
	p.Config.Server.Drain.MaxWindow = 10 * time.Second
	s := build(t, p)
	up(t, s)
	began := time.Now()
	if err := s.Drain(t.Context()); err != nil {
		t.Error(err)
	}
	if d := time.Since(began); d > 3*time.Second {
		t.Errorf("it took %v", d)
	}
}

// The window stays open while calls come, up to its maximum; all of them are answered.
func TestD01CallsAreAnsweredWhileTheInstanceLeaves(t *testing.T) {
	t.Parallel()
	p, reg, _ := params(t)
	p.Config.Server.Drain.MinWindow, p.Config.Server.Drain.MaxWindow = 100*time.Millisecond, 700*time.Millisecond
	s := build(t, p)
	up(t, s)
	cc := dial(t, s)
	began := time.Now()
	drained := make(chan error, 1)
	go func() { drained <- s.Drain(context.WithoutCancel(t.Context())) }()
	health := healthpb.NewHealthClient(cc)
	eventually(t, "NOT_SERVING", func() bool {
		res, err := health.Check(t.Context(), &healthpb.HealthCheckRequest{})
		return err == nil && res.GetStatus() == healthpb.HealthCheckResponse_NOT_SERVING
	})
	eventually(t, "the withdrawal", func() bool { return len(reg.Instances(service)) == 0 })
	calls := 0
	for time.Since(began) < 600*time.Millisecond {
		if _, err := testpb.NewTestServiceClient(cc).EmptyCall(t.Context(), &testpb.Empty{}); err != nil {
			t.Fatalf("after %v and %d calls: %v", time.Since(began), calls, err)
		}
		calls++
	}
	if err := <-drained; err != nil {
		t.Error(err)
	}
	if d := time.Since(began); d < 600*time.Millisecond || d > 5*time.Second {
		t.Errorf("the drain took %v", d)
	}
}

func TestGatewayServesWhileLoadBalancersNotice(t *testing.T) {
	t.Parallel()
	p, _, _ := params(t)
	p.Serves = false
	p.Config.Server.Drain.MinWindow = 300 * time.Millisecond
	s := build(t, p)
	if err := s.Handle("here", http.NotFoundHandler()); err != nil {
		t.Fatal(err)
	}
	if err := s.Handle("there", http.NotFoundHandler()); err == nil {
		t.Error("a second handler was taken")
	}
	up(t, s)
	_, addr, _ := s.Addresses()
	began := time.Now()
	drained := make(chan error, 1)
	go func() { drained <- s.Drain(context.WithoutCancel(t.Context())) }()
	eventually(t, "not ready", func() bool { return !s.Readiness().Report().Ready })
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	for range 3 {
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+addr, http.NoBody)
		res, err := transport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		if !res.Close {
			t.Error("a connection is kept, which the stop closes under a request that is on its way")
		}
	}
	if err := <-drained; err != nil || time.Since(began) < 300*time.Millisecond {
		t.Errorf("drained after %v: %v", time.Since(began), err)
	}
	free(t, addr)
}

func TestD07BrokenRegistryIsAWarningOnly(t *testing.T) {
	t.Parallel()
	p, reg, logs := params(t)
	s := build(t, p)
	up(t, s)
	reg.SetErr(errors.New("registry is away"))
	if err := errors.Join(s.Drain(t.Context()), s.Close(t.Context())); err != nil {
		t.Errorf("err = %v", err)
	}
	if logs.FilterMessageSnippet("could not be revoked").Len() != 1 {
		t.Error("no warning")
	}
}

// refusing is a registrar whose first answers are errors, and whose registrations take their time to close.
type refusing struct {
	discovery.Registrar
	refuse atomic.Int32
	hang   bool
}

func (r *refusing) Register(ctx context.Context, i discovery.Instance) (discovery.Registration, error) {
	if r.refuse.Add(-1) >= 0 {
		return nil, errors.New("not now")
	}
	reg, err := r.Registrar.Register(ctx, i)
	if r.hang {
		return hanging{reg}, err
	}
	return reg, err
}

type hanging struct{ discovery.Registration }

func (h hanging) Update(ctx context.Context, _ func(*discovery.Instance)) error {
	<-ctx.Done()
	return context.Cause(ctx)
}

func (h hanging) Close(ctx context.Context) error {
	<-ctx.Done()
	return errors.Join(context.Cause(ctx), h.Registration.Close(context.WithoutCancel(ctx)))
}

func TestRefusedRegistrationIsTriedAgain(t *testing.T) {
	t.Parallel()
	p, reg, logs := params(t)
	r := &refusing{Registrar: reg}
	r.refuse.Store(2)
	p.Replace.Registrar = r
	s := build(t, p)
	up(t, s)
	if n := logs.FilterMessageSnippet("cannot register").Len(); n != 1 {
		t.Errorf("%d complaints, want one", n)
	}
}

func TestD07WithdrawalThatHangsKeepsToItsBudget(t *testing.T) {
	t.Parallel()
	p, reg, logs := params(t)
	p.Replace.Registrar = &refusing{Registrar: reg, hang: true}
	s := build(t, p)
	up(t, s)
	began := time.Now()
	if err := s.Drain(t.Context()); err != nil {
		t.Error(err)
	}
	if d := time.Since(began); d > 6*time.Second {
		t.Errorf("it took %v", d)
	}
	if logs.FilterMessageSnippet("could not be revoked").Len() != 1 {
		t.Error("no warning")
	}
}

// A check that fails each time for another reason is as bad as one that always gives the same.
func TestInstanceLeavesWhenReadinessIsLostForLongAndReturns(t *testing.T) {
	t.Parallel()
	p, reg, logs := params(t)
	p.Config.Registration.LeaveAfter = 200 * time.Millisecond
	s := build(t, p)
	db := s.Readiness().Condition("db")
	db.Set(nil)
	up(t, s)
	n := 0
	eventually(t, "the leave", func() bool {
		n++
		db.Set(fmt.Errorf("attempt %d failed", n))
		return len(reg.Instances(service)) == 0
	})
	if logs.FilterMessageSnippet("leaving the registry").Len() != 1 {
		t.Error("the log does not say that it left")
	}
	db.Set(nil)
	eventually(t, "the return", func() bool { return len(reg.Instances(service)) == 1 })
	if logs.FilterMessage("not ready").Len() != 1 || logs.FilterMessage("ready again").Len() != 1 {
		t.Errorf("log: %v", logs.All())
	}
}

// recording notes what is told to the registry.
type recording struct {
	discovery.Registrar
	mu   sync.Mutex
	told []string
}

func (r *recording) note(what string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.told = append(r.told, what)
}

func (r *recording) all() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.told)
}

func (r *recording) Register(ctx context.Context, i discovery.Instance) (discovery.Registration, error) {
	r.note(string(i.State))
	reg, err := r.Registrar.Register(ctx, i)
	return recorded{reg, r}, err
}

type recorded struct {
	discovery.Registration
	by *recording
}

func (r recorded) Update(ctx context.Context, change func(*discovery.Instance)) error {
	return r.Registration.Update(ctx, func(i *discovery.Instance) {
		change(i)
		r.by.note(string(i.State))
	})
}

func (r recorded) Close(ctx context.Context) error {
	r.by.note("closed")
	return r.Registration.Close(ctx)
}

// Callers tell a leave from a loss by the mark, and hold on to what they take for lost.
func TestInstanceThatIsNotReadyMarksItsLeave(t *testing.T) {
	t.Parallel()
	p, reg, _ := params(t)
	p.Config.Registration.LeaveAfter = 10 * time.Millisecond
	r := &recording{Registrar: reg}
	p.Replace.Registrar = r
	s := build(t, p)
	db := s.Readiness().Condition("db")
	db.Set(nil)
	up(t, s)
	db.Set(errors.New("away"))
	eventually(t, "the leave", func() bool { return len(reg.Instances(service)) == 0 })
	db.Set(nil)
	eventually(t, "the return", func() bool { return len(reg.Instances(service)) == 1 })
	if got, want := r.all(), []string{"up", "draining", "closed", "up"}; !slices.Equal(got, want) {
		t.Errorf("the registry was told %q, want %q", got, want)
	}
}

func TestShortLossOfReadinessKeepsTheRegistration(t *testing.T) {
	t.Parallel()
	p, reg, _ := params(t)
	p.Config.Registration.LeaveAfter = time.Minute
	s := build(t, p)
	db := s.Readiness().Condition("db")
	db.Set(nil)
	up(t, s)
	before := reg.Revision()
	db.Set(errors.New("away"))
	db.Set(nil)
	if err := s.Readiness().Wait(limit(t)); err != nil {
		t.Fatal(err)
	}
	if reg.Revision() != before || len(reg.Instances(service)) != 1 {
		t.Error("the registry was changed")
	}
}
