// Package calltest starts what tests of the commands ls, call and why talk to: a real etcd, and services that are registered
// there and offer gRPC's own test service. They run in the process of the test, or in one of their own, see [Main].
package calltest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"google.golang.org/grpc/codes"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/newsvc/newsvc/framework/discovery"
	"github.com/newsvc/newsvc/framework/stack"
)

// Service says what is started.
type Service struct {
	Name      string
	Etcd      []string
	Prefix    string // empty: the default
	Version   string
	Zone      string
	Weight    int
	Advertise string // empty: where it listens
	Callee    string // what it calls, all the time
	Client    bool   // it serves nothing and is not registered
	Sick      bool   // every call fails with UNAVAILABLE
	Mute      bool   // it does not offer reflection, and is not registered
	Subset    int    // how many instances of its callee it connects to; 0: the default
	Breaker   bool   // its breaker is on, and quick to open
	ReadyFile string
}

// Start starts a service and waits until it is registered, if it registers.
func Start(ctx context.Context, o Service) (*stack.Stack, error) {
	cfg := stack.DefaultConfig()
	cfg.Server.Listen, cfg.Admin.Listen = "127.0.0.1:0", "127.0.0.1:0"
	cfg.Etcd.Endpoints = o.Etcd
	cfg.Discovery.Prefix = o.Prefix
	if o.Prefix == "" {
		cfg.Discovery.Prefix = discovery.DefaultPrefix
	}
	cfg.Registration.Advertise, cfg.Registration.Zone, cfg.Registration.Weight = o.Advertise, o.Zone, o.Weight
	if o.Advertise == "" {
		cfg.Registration.Advertise = "127.0.0.1"
	}
	cfg.Server.Drain.MinWindow, cfg.Server.Drain.MaxWindow = 10*time.Millisecond, 100*time.Millisecond
	if o.Subset > 0 {
		cfg.Discovery.Subset = o.Subset
	}
	cfg.ClientDefaults.Breaker.Enabled = o.Breaker
	cfg.Server.Reflection = !o.Mute
	cfg.ClientDefaults.Timeout = time.Second
	p := stack.Params{Service: o.Name, Version: o.Version, Config: cfg, Serves: !o.Client, Process: stack.Process{Dev: !o.Mute, ReadyFile: o.ReadyFile}}
	if o.Mute { // under newsvc dev reflection is always on, and nothing else may advertise loopback
		p.Config.Registration.Enabled = false
	}
	if o.Callee != "" {
		p.Callees = []string{o.Callee}
	}
	s, err := stack.New(p)
	if err != nil {
		return nil, err
	}
	if !o.Client {
		testpb.RegisterTestServiceServer(s.Server(), &echo{sick: o.Sick})
	}
	if err := s.Connect(ctx); err != nil {
		return nil, errors.Join(err, Stop(s))
	}
	if err := s.Start(ctx); err != nil {
		return nil, errors.Join(err, Stop(s))
	}
	if err := s.WaitRegistered(ctx); err != nil {
		return nil, errors.Join(err, Stop(s))
	}
	return s, nil
}

// Stop ends a service in order.
func Stop(s *stack.Stack) error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	return errors.Join(s.Drain(ctx), s.Close(ctx))
}

// echo is gRPC's test service.
type echo struct {
	testpb.UnimplementedTestServiceServer
	sick bool
}

func (e *echo) EmptyCall(context.Context, *testpb.Empty) (*testpb.Empty, error) {
	if e.sick {
		return nil, status.Error(codes.Unavailable, "sick")
	}
	return &testpb.Empty{}, nil
}

// UnaryCall answers with the payload, or with the status that is asked for. It returns the header "echo".
func (e *echo) UnaryCall(ctx context.Context, in *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
	if s := in.GetResponseStatus(); s.GetCode() != 0 {
		return nil, status.Error(codes.Code(s.GetCode()), s.GetMessage()) //nolint:gosec // as the test says
	}
	md, _ := metadata.FromIncomingContext(ctx)
	out := &testpb.SimpleResponse{Payload: in.GetPayload()}
	if said := md.Get("echo"); len(said) > 0 {
		out.Username = strings.Join(said, ",")
	}
	return out, nil
}

func (e *echo) StreamingOutputCall(in *testpb.StreamingOutputCallRequest, out testpb.TestService_StreamingOutputCallServer) error {
	for _, p := range in.GetResponseParameters() {
		if err := out.Send(&testpb.StreamingOutputCallResponse{Payload: &testpb.Payload{Body: make([]byte, p.GetSize())}}); err != nil {
			return err
		}
	}
	if s := in.GetResponseStatus(); s.GetCode() != 0 {
		return status.Error(codes.Code(s.GetCode()), s.GetMessage()) //nolint:gosec // as the test says
	}
	return nil
}

func (e *echo) StreamingInputCall(in testpb.TestService_StreamingInputCallServer) error {
	size := int32(0)
	for {
		m, err := in.Recv()
		if errors.Is(err, io.EOF) {
			return in.SendAndClose(&testpb.StreamingInputCallResponse{AggregatedPayloadSize: size})
		}
		if err != nil {
			return err
		}
		size += int32(len(m.GetPayload().GetBody())) //nolint:gosec // small
	}
}

func (e *echo) FullDuplexCall(s testpb.TestService_FullDuplexCallServer) error {
	for {
		m, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := s.Send(&testpb.StreamingOutputCallResponse{Payload: m.GetPayload()}); err != nil {
			return err
		}
	}
}

// envService holds the service that a process is to be, as JSON.
const envService = "CALLTEST_SERVICE"

// Env is the variable that makes a process that begins with [Main] the service.
func Env(o Service) string {
	raw, err := json.Marshal(o)
	if err != nil {
		panic(err) // strings and numbers
	}
	return envService + "=" + string(raw)
}

// Main makes this process a service when its environment says so, until SIGTERM, and returns its exit code; ran is false
// when it does not.
func Main() (code int, ran bool) {
	raw := os.Getenv(envService)
	if raw == "" {
		return 0, false
	}
	if err := serve(raw); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1, true
	}
	return 0, true
}

func serve(raw string) error {
	var o Service
	if err := json.Unmarshal([]byte(raw), &o); err != nil {
		return err
	}
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer cancel()
	s, err := Start(ctx, o)
	if err != nil {
		return err
	}
	if o.Callee != "" {
		keepCalling(ctx, s, o.Callee)
	}
	<-ctx.Done()
	return Stop(s)
}

// keepCalling calls all the time, whatever comes of it.
func keepCalling(ctx context.Context, s *stack.Stack, callee string) {
	conn, err := s.Clients().Conn(callee)
	if err != nil {
		return
	}
	c := testpb.NewTestServiceClient(conn)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		go func() { // a call that hangs does not keep others from being made
			_, _ = c.EmptyCall(ctx, &testpb.Empty{})
		}()
	}
}
