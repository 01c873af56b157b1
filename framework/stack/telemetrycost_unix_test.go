//go:build unix

package stack_test

import (
	"context"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"go.uber.org/zap/zapcore"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/mem"

	"github.com/newsvc/newsvc/framework/discovery/discoverytest"
	"github.com/newsvc/newsvc/framework/stack"
)

// anyBytes takes every message as it is.
type anyBytes struct{}

func (anyBytes) Marshal(any) (mem.BufferSlice, error)     { return nil, nil }
func (anyBytes) Unmarshal(d mem.BufferSlice, _ any) error { return nil }
func (anyBytes) Name() string                             { return "proto" }

// sink is a collector that takes everything and looks at nothing.
func sink(b *testing.B) string {
	b.Helper()
	l, err := new(net.ListenConfig).Listen(b.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	gs := grpc.NewServer(grpc.ForceServerCodecV2(anyBytes{}), grpc.UnknownServiceHandler(func(_ any, ss grpc.ServerStream) error {
		if err := ss.RecvMsg(nil); err != nil {
			return err
		}
		return ss.SendMsg(nil)
	}))
	served := make(chan error, 1)
	go func() { served <- gs.Serve(l) }()
	b.Cleanup(func() { gs.Stop(); <-served })
	return l.Addr().String()
}

// BenchmarkTelemetry measures whole calls over loopback, client and server in one process, with parts of the telemetry on. The
// difference between two arms is what the part costs on both sides together; cpu-ns/op is the time of the processor, which a busy
// machine disturbs less. docs/telemetry.md has the numbers.
func BenchmarkTelemetry(b *testing.B) {
	b.Run("bare", func(b *testing.B) {
		l, err := new(net.ListenConfig).Listen(b.Context(), "tcp", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		gs := grpc.NewServer()
		testpb.RegisterTestServiceServer(gs, impl{})
		served := make(chan error, 1)
		go func() { served <- gs.Serve(l) }()
		b.Cleanup(func() { gs.Stop(); <-served })
		cc, err := grpc.NewClient("passthrough:///"+l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = cc.Close() })
		callAgain(b, cc)
	})
	traces := func(c *stack.Config, b *testing.B, ratio float64) {
		c.Telemetry.Traces.Endpoint, c.Telemetry.Traces.Insecure, c.Telemetry.Traces.SampleRatio = sink(b), true, ratio
	}
	for _, arm := range []struct {
		name   string
		change func(*stack.Config, *testing.B)
	}{
		{"nothing", func(c *stack.Config, _ *testing.B) {
			c.Telemetry.Metrics.Enabled, c.Server.AccessLog.Errors = false, false
		}},
		{"metrics", func(c *stack.Config, _ *testing.B) { c.Server.AccessLog.Errors = false }},
		{"default", func(*stack.Config, *testing.B) {}},
		{"callers", func(c *stack.Config, _ *testing.B) { c.Telemetry.Metrics.Callers = true }},
		{"native", func(c *stack.Config, _ *testing.B) { c.Telemetry.Metrics.NativeHistograms = true }},
		{"traces1pct", func(c *stack.Config, b *testing.B) { traces(c, b, 0.01) }},
		{"traces100pct", func(c *stack.Config, b *testing.B) { traces(c, b, 1) }},
		{"accesslog", func(c *stack.Config, _ *testing.B) { c.Server.AccessLog.All, c.Server.AccessLog.MaxPerSecond = true, 0 }},
		{"everything", func(c *stack.Config, b *testing.B) {
			traces(c, b, 1)
			c.Telemetry.Metrics.Callers = true
			c.Server.AccessLog.All, c.Server.AccessLog.MaxPerSecond = true, 0
		}},
	} {
		b.Run(arm.name, func(b *testing.B) { callAgain(b, measured(b, arm.change)) })
	}
}

// measured is a connection to a service that runs as in production, but is not registered in an etcd.
func measured(b *testing.B, change func(*stack.Config, *testing.B)) grpc.ClientConnInterface {
	b.Helper()
	reg := discoverytest.NewRegistry()
	cfg := stack.DefaultConfig()
	cfg.Server.Listen, cfg.Admin.Enabled, cfg.Log.Format = "127.0.0.1:0", false, "json"
	cfg.Server.Drain.MinWindow, cfg.Server.Drain.MaxWindow = 0, time.Second
	change(&cfg, b)
	log, levels, err := stack.NewLog(cfg, service, false, zapcore.AddSync(io.Discard))
	if err != nil {
		b.Fatal(err)
	}
	s, err := stack.New(stack.Params{
		Service: service, Config: cfg, Callees: []string{service}, Serves: true, Log: log, Levels: levels,
		Process: stack.Process{Dev: true}, Replace: stack.Replace{Source: reg, Registrar: reg},
	})
	if err != nil {
		b.Fatal(err)
	}
	testpb.RegisterTestServiceServer(s.Server(), impl{})
	b.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := s.Close(ctx); err != nil {
			b.Error(err)
		}
	})
	for _, step := range []func(context.Context) error{s.Connect, s.Start, s.WaitRegistered} {
		if err := step(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
	conn, err := s.Clients().Conn(service)
	if err != nil {
		b.Fatal(err)
	}
	return conn
}

func callAgain(b *testing.B, cc grpc.ClientConnInterface) {
	b.Helper()
	client := testpb.NewTestServiceClient(cc)
	ctx, cancel := context.WithTimeout(b.Context(), time.Minute)
	defer cancel()
	for range 200 { // connections, buffers and pools as they are after a while
		if _, err := client.EmptyCall(ctx, &testpb.Empty{}); err != nil {
			b.Fatal(err)
		}
	}
	before := processor(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := client.EmptyCall(ctx, &testpb.Empty{}); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(processor(b)-before)/float64(b.N), "cpu-ns/op")
}

// processor is the time that this process has used.
func processor(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
