package stack_test

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	testpb "google.golang.org/grpc/interop/grpc_testing"

	"github.com/newsvc/newsvc/framework/internal/loop"
	"github.com/newsvc/newsvc/framework/server"
	"github.com/newsvc/newsvc/framework/stack"
)

// A caller that asks for instances is started when they are there, and its first calls wait for nothing.
func TestMinInstancesHoldsTheStartUntilCallsCanBeMade(t *testing.T) {
	t.Parallel()
	p, reg, _ := params(t)
	var calls [2]atomic.Int64
	serve := func(n int) {
		p := p
		p.ServerOptions = []server.Option{counting(&calls[n])}
		up(t, build(t, p))
	}
	serve(0)
	caller, _, _ := params(t)
	caller.Service, caller.Serves, caller.Callees = "gateway", false, []string{service}
	caller.Replace = stack.Replace{Source: reg, Registrar: reg}
	caller.Config.ClientDefaults.MinInstances = 2
	caller.Config.ClientDefaults.WaitForReady = false
	s := build(t, caller)
	connected := make(chan error, 1)
	start := loop.Start(t.Context(), func(ctx context.Context) { connected <- s.Connect(ctx) })
	defer start.Stop()
	conn, err := s.Clients().Conn(service)
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.WaitInstances(limit(t), 1); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-connected:
		t.Fatalf("connected with one instance: %v", err)
	default:
	}
	serve(1)
	select {
	case err := <-connected:
		if err != nil {
			t.Fatal(err)
		}
	case <-limit(t).Done():
		t.Fatal("it never connected")
	}
	for range 50 {
		if _, err := testpb.NewTestServiceClient(conn).EmptyCall(limit(t), &testpb.Empty{}); err != nil {
			t.Error(err)
		}
	}
	if calls[0].Load() == 0 || calls[1].Load() == 0 {
		t.Errorf("the instances had %d and %d of the first calls", calls[0].Load(), calls[1].Load())
	}
}

func TestStartTimeoutBoundsTheWaitForInstances(t *testing.T) {
	t.Parallel()
	p, _, _ := params(t)
	p.Callees = []string{"absent-service"}
	p.Config.ClientDefaults.MinInstances, p.Config.ClientDefaults.StartTimeout = 1, 50*time.Millisecond
	err := build(t, p).Connect(limit(t))
	if err == nil || !strings.Contains(err.Error(), "clients.absent-service.min_instances: ") || !strings.Contains(err.Error(), "start_timeout 50ms is over") {
		t.Errorf("err = %v", err)
	}
}
