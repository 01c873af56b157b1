package stack_test

import (
	"context"
	"strings"
	"testing"
	"time"

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

func TestALeaderNeedsEtcd(t *testing.T) {
	t.Parallel()
	p, _, _ := params(t)
	_, err := build(t, p).Leader("report", func(context.Context, int64) error { return nil })
	if err == nil || !strings.Contains(err.Error(), `leader "report": `) || !strings.Contains(err.Error(), "apptest.WithEtcd()") {
		t.Errorf("err = %v", err)
	}
}

func next(t *testing.T, ch <-chan int) int {
	t.Helper()
	select {
	case n := <-ch:
		return n
	case <-limit(t).Done():
		t.Fatal("nobody came")
		return 0
	}
}
