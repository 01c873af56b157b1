package main

import (
	"context"
	"fmt"
	"net"
	"time"

	dto "github.com/prometheus/client_model/go"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"

	echov1 "github.com/newsvc/newsvc/bench/proto/echo/v1"
	"github.com/newsvc/newsvc/framework/discovery"
	"github.com/newsvc/newsvc/framework/discovery/etcd"
	"github.com/newsvc/newsvc/framework/stack"
)

// Arms of the comparison.
const (
	armBare   = "bare"   // grpc-go, addresses given, round robin
	armAgain  = "again"  // the same in other processes
	armNewsvc = "newsvc" // both default chains, found in etcd by name
	armNaming = "naming" // propagation only: etcd's own naming resolver
)

const (
	service     = "echo-service"
	caller      = "bench-caller"
	panicText   = "panic"
	startBudget = 20 * time.Second
)

// echo is the service of all arms.
type echo struct {
	echov1.UnimplementedEchoServiceServer
	name string
}

// Echo returns the text of the request, or panics when that is asked for.
func (e echo) Echo(_ context.Context, req *echov1.EchoRequest) (*echov1.EchoResponse, error) {
	if req.GetText() == panicText {
		panic("asked for")
	}
	return &echov1.EchoResponse{Text: req.GetText(), Server: e.name}, nil
}

// bareServer is what everybody starts with.
type bareServer struct {
	gs     *grpc.Server
	served chan error
}

func startBare(ctx context.Context, impl echov1.EchoServiceServer) (*bareServer, string, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, "", err
	}
	b := &bareServer{gs: grpc.NewServer(), served: make(chan error, 1)}
	echov1.RegisterEchoServiceServer(b.gs, impl)
	go func() { b.served <- b.gs.Serve(l) }()
	return b, l.Addr().String(), nil
}

func (b *bareServer) handle(context.Context, command) (answer, error) { return usage() }

func (b *bareServer) close() error {
	b.gs.Stop()
	return <-b.served
}

// newsvcProcess is a service made of the framework's defaults; it serves, or calls.
type newsvcProcess struct {
	*stack.Stack
	leave func(context.Context) error // nil: not registered
}

// newsvcConfig is the default configuration but for ports. Traces are on and sampled so rarely that the decision is
// what is measured; nobody listens at their endpoint.
func newsvcConfig(endpoint string) stack.Config {
	c := stack.DefaultConfig()
	c.Etcd.Endpoints = []string{endpoint}
	c.Server.Listen, c.Admin.Listen = "127.0.0.1:0", "127.0.0.1:0"
	c.Server.Drain.MinWindow, c.Server.Drain.MaxWindow = 0, time.Second // nobody calls when a process ends
	c.Registration.Enabled = false                                      // it refuses loopback unless in development, which has a longer chain
	c.Telemetry.Traces.Endpoint, c.Telemetry.Traces.Insecure = "127.0.0.1:1", true
	c.Telemetry.Traces.SampleRatio = 1e-7
	return c
}

// startNewsvc starts a service; impl may be nil for one that only calls.
func startNewsvc(ctx context.Context, name string, c stack.Config, impl echov1.EchoServiceServer, callees ...string) (*newsvcProcess, error) {
	s, err := stack.New(stack.Params{
		Service: name, Version: "bench", Config: c, Serves: impl != nil, Callees: callees,
		Log: zap.NewNop(),
	})
	if err != nil {
		return nil, err
	}
	if impl != nil {
		echov1.RegisterEchoServiceServer(s.Server(), impl)
	}
	p := &newsvcProcess{Stack: s}
	if err := s.Connect(ctx); err != nil {
		return nil, firstError(err, p.close())
	}
	if err := s.Start(ctx); err != nil {
		return nil, firstError(err, p.close())
	}
	return p, nil
}

func (p *newsvcProcess) handle(_ context.Context, c command) (answer, error) {
	if c.Op == opCount {
		n, err := p.counted()
		return answer{Counted: n}, err
	}
	return usage()
}

// counted is how many calls of Echo the chain has counted on either side.
func (p *newsvcProcess) counted() (uint64, error) {
	families, err := p.Telemetry().Gatherer().Gather()
	if err != nil {
		return 0, err
	}
	var n uint64
	for _, f := range families {
		if name := f.GetName(); name != "grpc_server_call_duration_seconds" && name != "grpc_client_call_duration_seconds" {
			continue
		}
		for _, m := range f.GetMetric() {
			if isEcho(m) {
				n += m.GetHistogram().GetSampleCount()
			}
		}
	}
	return n, nil
}

func isEcho(m *dto.Metric) bool {
	for _, l := range m.GetLabel() {
		if l.GetName() == "grpc_method" && l.GetValue() == "echo.v1.EchoService/Echo" {
			return true
		}
	}
	return false
}

// register announces the server as a deployed service would.
func (p *newsvcProcess) register(ctx context.Context) error {
	r, err := etcd.NewRegistrar(p.Etcd(), etcd.Options{})
	if err != nil {
		return err
	}
	addr, _, _ := p.Addresses()
	_, err = r.Register(ctx, discovery.Instance{Service: service, Addr: addr, Incarnation: p.Incarnation(), State: discovery.StateUp})
	p.leave = r.Close
	return err
}

func (p *newsvcProcess) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), startBudget)
	defer cancel()
	var err error
	if p.leave != nil {
		err = p.leave(ctx)
	}
	return firstError(firstError(err, p.Drain(ctx)), p.Close(ctx))
}

func startServer(ctx context.Context, r role) (handler, string, error) {
	if r.Arm != armNewsvc {
		return startBare(ctx, echo{})
	}
	p, err := startNewsvc(ctx, service, newsvcConfig(r.Etcd), echo{})
	if err != nil {
		return nil, "", err
	}
	if err := p.register(ctx); err != nil {
		return nil, "", firstError(err, p.close())
	}
	addr, _, _ := p.Addresses()
	return p, addr, nil
}

// dialBare connects to fixed addresses.
func dialBare(addrs []string) (*grpc.ClientConn, error) {
	r := manual.NewBuilderWithScheme("fixed")
	var state resolver.State
	for _, a := range addrs {
		state.Endpoints = append(state.Endpoints, resolver.Endpoint{Addresses: []resolver.Address{{Addr: a}}})
	}
	r.InitialState(state)
	return grpc.NewClient("fixed:///"+service, grpc.WithResolvers(r), roundRobin(), plaintext())
}

func roundRobin() grpc.DialOption {
	return grpc.WithDefaultServiceConfig(`{"loadBalancingConfig":[{"round_robin":{}}]}`)
}

func plaintext() grpc.DialOption { return grpc.WithTransportCredentials(insecure.NewCredentials()) }

// connectNewsvc starts a caller and waits until it knows n instances of the service.
func connectNewsvc(ctx context.Context, r role, n int) (*newsvcProcess, grpc.ClientConnInterface, error) {
	c := newsvcConfig(r.Etcd)
	c.ClientDefaults.HealthCheck = !r.NoHealth
	p, err := startNewsvc(ctx, caller, c, nil, service)
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, startBudget)
	defer cancel()
	conn, err := p.Clients().Conn(service)
	if err == nil {
		err = conn.WaitInstances(ctx, n)
	}
	if err != nil {
		return nil, nil, firstError(fmt.Errorf("connect to %d instances: %w", n, err), p.close())
	}
	return p, conn, nil
}

// etcdKey is where an instance of an arm of the propagation test is registered, and what is written there.
func etcdKey(addr string) (key, value string, err error) {
	i := &discovery.Instance{Service: service, Addr: addr, Incarnation: discovery.NewIncarnation(), State: discovery.StateUp}
	v, err := discovery.Encode(i)
	return discovery.Key(discovery.DefaultPrefix, service, addr), string(v), err
}
