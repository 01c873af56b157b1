package stack_test

import (
	"context"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/newsvc/newsvc/framework/coordination"
	"github.com/newsvc/newsvc/framework/discovery"
	"github.com/newsvc/newsvc/framework/internal/loop"
	"github.com/newsvc/newsvc/framework/stack"
)

// The instance that stops hands over when its stop begins, while it still serves.
func TestALeaderHandsOverWhenItsStopBegins(t *testing.T) {
	t.Parallel()
	etcd := realEtcd(t)
	leads, ended := make(chan int, 10), make(chan int, 10)
	tokens := make(chan int64, 10)
	instance := func(n int, window time.Duration) *stack.Stack {
		p, _, _ := params(t)
		p.Replace = stack.Replace{}
		p.Config.Etcd.Endpoints = etcd.Endpoints()
		p.Config.Server.Drain.MinWindow = window
		s := build(t, p)
		leader, err := s.Leader("report", func(ctx context.Context, token int64) error {
			tokens <- token
			leads <- n
			<-ctx.Done()
			ended <- n
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		s.Work("report", leader.Run)
		up(t, s)
		return s
	}
	first := instance(1, 3*time.Second) // so that the drain takes far longer than the hand-over
	if n := next(t, leads); n != 1 {
		t.Fatalf("instance %d leads", n)
	}
	instance(2, 0)
	began := time.Now()
	drain := loop.Start(t.Context(), func(ctx context.Context) { _ = first.Drain(ctx) })
	if n := next(t, ended); n != 1 {
		t.Errorf("instance %d stopped leading", n)
	}
	if n := next(t, leads); n != 2 {
		t.Errorf("instance %d leads", n)
	}
	select {
	case <-drain.Done():
		t.Error("the hand-over came after the drain")
	default:
	}
	t.Logf("handed over %v after the stop began", time.Since(began))
	if a, b := <-tokens, <-tokens; b <= a {
		t.Errorf("token %d after %d", b, a)
	}
	<-drain.Done()
}

// A TTL of its own, under a role that etcd-roles prints, and told by the metrics.
func TestALeaderHasTheTTLThatItAskedFor(t *testing.T) {
	t.Parallel()
	srv := protected(t, "user-service")
	p := as(t, srv, "user-service")
	root, leads := userOf(t, as(t, srv, "root")), discovery.DefaultPrefix+"-coordination/leader/user-service.report/"
	if _, err := root.RoleGrantPermission(limit(t), "user-service", leads, clientv3.GetPrefixRangeEnd(leads), clientv3.PermissionType(clientv3.PermReadWrite)); err != nil {
		t.Fatal(err)
	}
	s := build(t, p)
	led := make(chan int64, 1)
	leader, err := s.Leader("report", func(ctx context.Context, token int64) error {
		led <- token
		<-ctx.Done()
		return nil
	}, func(o *coordination.Options) { o.TTL = 30 * time.Second })
	if err != nil {
		t.Fatal(err)
	}
	s.Work("report", leader.Run)
	up(t, s)
	next(t, led)
	got, err := root.Get(limit(t), leads, clientv3.WithPrefix())
	if err != nil || len(got.Kvs) != 1 {
		t.Fatalf("keys %v, %v", got, err)
	}
	lease, err := root.TimeToLive(limit(t), clientv3.LeaseID(got.Kvs[0].Lease))
	if err != nil || lease.GrantedTTL != 30 {
		t.Errorf("lease %+v, %v", lease, err)
	}
	m := metrics(t, s)
	of := " leader user-service.report"
	if m["newsvc_coordination_held"+of] != 1 || m["newsvc_coordination_terms_total"+of] != 1 || m["newsvc_coordination_lost_total"+of] != 0 ||
		m["newsvc_coordination_waiting"+of] != 0 || m["newsvc_coordination_wait_seconds_total"+of] <= 0 {
		t.Errorf("metrics %v", m)
	}
	if _, err := s.Coordination(func(o *coordination.Options) { o.TTL = time.Millisecond }); err == nil || !strings.Contains(err.Error(), "ttl") {
		t.Errorf("err = %v", err)
	}
}

func next[T any](t *testing.T, ch <-chan T) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-limit(t).Done():
		t.Fatal("nobody came")
		panic("unreachable")
	}
}

func TestALeaderNeedsEtcd(t *testing.T) {
	t.Parallel()
	p, _, _ := params(t)
	_, err := build(t, p).Leader("report", func(context.Context, int64) error { return nil })
	if err == nil || !strings.Contains(err.Error(), `leader "report": `) || !strings.Contains(err.Error(), "apptest.WithEtcd()") {
		t.Errorf("err = %v", err)
	}
}
