package stack_test

import (
	"context"
	"net"
	"testing"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
	testpb "google.golang.org/grpc/interop/grpc_testing"

	"github.com/newsvc/newsvc/framework/discovery/discoverytest"
	"github.com/newsvc/newsvc/framework/internal/freeport"
	"github.com/newsvc/newsvc/framework/stack"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type impl struct {
	testpb.UnimplementedTestServiceServer
}

func (impl) EmptyCall(context.Context, *testpb.Empty) (*testpb.Empty, error) {
	return &testpb.Empty{}, nil
}

const service = "user-service"

// params are those of a service on free ports, with discovery in memory.
func params(t *testing.T) (stack.Params, *discoverytest.Registry, *observer.ObservedLogs) {
	t.Helper()
	core, logs := observer.New(zapcore.InfoLevel)
	reg := discoverytest.NewRegistry()
	cfg := stack.DefaultConfig()
	cfg.Server.Listen, cfg.Admin.Listen, cfg.HTTP.Listen = "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"
	cfg.Server.Drain.MinWindow = 0
	return stack.Params{
		Service: service, Config: cfg, Serves: true, Log: zap.New(core),
		Process: stack.Process{Dev: true},
		Replace: stack.Replace{Source: reg, Registrar: reg},
	}, reg, logs
}

// build makes a stack that is closed at the end of the test.
func build(t *testing.T, p stack.Params) *stack.Stack {
	t.Helper()
	s, err := stack.New(p)
	if err != nil {
		t.Fatal(err)
	}
	if p.Serves {
		testpb.RegisterTestServiceServer(s.Server(), impl{})
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		_ = s.Close(ctx) // tests that care have closed it before
	})
	return s
}

// up connects and starts.
func up(t *testing.T, s *stack.Stack) {
	t.Helper()
	if err := s.Connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.Readiness().Wait(limit(t)); err != nil {
		t.Fatal(err)
	}
	if err := s.WaitRegistered(limit(t)); err != nil {
		t.Fatal(err)
	}
}

// limit bounds a wait that ends long before unless something is broken.
func limit(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	ctx := limit(t)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("never came: %s", what)
		}
	}
}

// free fails the test when something still listens on addr.
func free(t *testing.T, addr string) {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", addr)
	if err != nil {
		t.Errorf("not released: %v", err)
		return
	}
	_ = l.Close()
}

// reserved is an address with a port that was free a moment ago.
func reserved(t *testing.T) string {
	t.Helper()
	addr, err := freeport.Choose(t.Context(), "127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	return addr
}
