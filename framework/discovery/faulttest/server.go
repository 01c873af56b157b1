package faulttest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/newsvc/newsvc/framework/internal/backoff"
	"github.com/newsvc/newsvc/framework/internal/loop"
	probev1 "github.com/newsvc/newsvc/proto/probe/v1"
)

const (
	// serverStopBudget is what a server has to stop in.
	serverStopBudget = 40 * time.Second
	// followInterval is the time between two messages of a stream whose caller does not say.
	followInterval = 100 * time.Millisecond
)

// ServerOptions say what server to start.
type ServerOptions struct {
	// Adapter is the name of the implementation, Service that of the service.
	Adapter, Service string
	// Listen is the host:port to listen on. Empty is any free port of 127.0.0.1.
	Listen string
	// Etcd is the registry.
	Etcd Etcd
	// TTL is how long the announcement outlives the process. Default 5s.
	TTL time.Duration
}

// ServerProc is a process that serves. It ends in good order at SIGTERM; its exit status is then 0.
type ServerProc struct {
	*Process
	lab  *Lab
	opt  ServerOptions
	addr string
}

// serverHello is the first word of a server.
type serverHello struct {
	Addr string `json:"addr"`
}

// StartServer starts a server and returns when it answers calls. Whether it is announced by then is another matter.
func (lab *Lab) StartServer(ctx context.Context, opt ServerOptions) (*ServerProc, error) {
	if opt.Listen == "" {
		opt.Listen = "127.0.0.1:0"
	}
	if opt.TTL == 0 {
		opt.TTL = 5 * time.Second
	}
	var hello serverHello
	p, err := lab.spawn(ctx, lab.number(opt.Adapter+" server of "+opt.Service), role{Server: &serverRole{opt}}, &hello)
	if err != nil {
		return nil, err
	}
	return &ServerProc{Process: p, lab: lab, opt: opt, addr: hello.Addr}, nil
}

// Addr is the host:port on which it listens, and which it announces.
func (s *ServerProc) Addr() string { return s.addr }

// Options are those it was started with.
func (s *ServerProc) Options() ServerOptions { return s.opt }

// Stats asks the process about itself. A server that is stopping does not answer.
func (s *ServerProc) Stats(ctx context.Context) (Stats, error) {
	var out Stats
	return out, s.ask(ctx, opStats, nil, &out)
}

// leaveUnconfirmed is the suite's own line in the log of a server whose Stop returned [ErrLeaveUnconfirmed].
const leaveUnconfirmed = "faulttest: leave unconfirmed"

// Unconfirmed tells of a server that has ended whether the registry had not confirmed that it left.
func (s *ServerProc) Unconfirmed() bool { return strings.Contains(s.Log(), leaveUnconfirmed) }

// Stop sends SIGTERM and waits for the end. Any exit status but 0 is an error.
func (s *ServerProc) Stop(ctx context.Context) error {
	if err := s.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	code, err := s.Wait(ctx)
	if err != nil {
		return err
	}
	s.lab.forget(s.Process)
	if code != 0 {
		return fmt.Errorf("%s ended with status %d%s", s.Name(), code, s.lastWords())
	}
	return nil
}

// Again starts another process on the same address, which the first one must have left.
func (s *ServerProc) Again(ctx context.Context) (*ServerProc, error) {
	s.lab.forget(s.Process)
	opt := s.opt
	opt.Listen = s.addr
	return s.lab.StartServer(ctx, opt)
}

// serverRole is the server's process.
type serverRole struct {
	ServerOptions
}

func (r *serverRole) run(ctx context.Context, adapters []Adapter, l *line) error {
	a, err := adapterNamed(adapters, r.Adapter)
	if err != nil {
		return err
	}
	p := &probe{service: r.Service, pid: int64(os.Getpid()), draining: make(chan struct{})}
	watch := loop.Start(ctx, p.stalls.run)
	defer watch.Stop()
	srv, err := a.Serve(ctx, ServeConfig{Service: r.Service, Listen: r.Listen, Etcd: r.Etcd, TTL: r.TTL, Register: p.register})
	if err != nil {
		return fmt.Errorf("serve %q on %q: %w", r.Service, r.Listen, err)
	}
	addr := srv.Addr()
	p.addr.Store(&addr)
	err = l.hello(serverHello{Addr: addr})
	if err == nil {
		err = l.serve(ctx, handlers{opStats: func(context.Context, json.RawMessage) (any, error) { return p.stats(), nil }}.handle)
	}
	p.stopping.Store(true)
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), serverStopBudget)
	defer cancel()
	serr := srv.Stop(stop)
	if errors.Is(serr, ErrLeaveUnconfirmed) {
		fmt.Fprintln(os.Stderr, leaveUnconfirmed)
		serr = nil
	}
	if serr != nil {
		return fmt.Errorf("stop: %w", serr)
	}
	return err
}

// probe is the service that is called.
type probe struct {
	probev1.UnimplementedProbeServiceServer
	service           string
	pid               int64
	addr              atomic.Pointer[string] // nil until it is known, which may be after the first call
	stopping          atomic.Bool
	drainSignal       func(context.Context) <-chan struct{} // nil: the server has none
	draining          chan struct{}                         // never closed; stands in for a signal that does not exist
	executed, foreign atomic.Int64
	stalls            stalls
}

// register mounts the service. A server may offer handlers a signal that it is going to stop; newsvc's does.
func (p *probe) register(r grpc.ServiceRegistrar) {
	if d, ok := r.(interface {
		DrainSignal() func(context.Context) <-chan struct{}
	}); ok {
		p.drainSignal = d.DrainSignal()
	}
	probev1.RegisterProbeServiceServer(r, p)
}

func (p *probe) stats() Stats {
	s := p.stalls.stats()
	s.Executed, s.Foreign = p.executed.Load(), p.foreign.Load()
	return s
}

// enter counts a call.
func (p *probe) enter(ctx context.Context) {
	p.executed.Add(1)
	if wanted := metadata.ValueFromIncomingContext(ctx, wantedKey); len(wanted) > 0 && !slices.Contains(wanted, p.service) {
		p.foreign.Add(1)
	}
}

func (p *probe) answerer() *probev1.Answerer {
	a := &probev1.Answerer{Service: p.service, Pid: p.pid}
	if addr := p.addr.Load(); addr != nil {
		a.Addr = *addr
	}
	return a
}

// Read answers after the wait that the caller asks for.
func (p *probe) Read(ctx context.Context, req *probev1.ReadRequest) (*probev1.ReadResponse, error) {
	p.enter(ctx)
	if err := wait(ctx, req.GetWaitMs()); err != nil {
		return nil, err
	}
	return &probev1.ReadResponse{Answerer: p.answerer()}, nil
}

// Write answers after the wait that the caller asks for.
func (p *probe) Write(ctx context.Context, req *probev1.WriteRequest) (*probev1.WriteResponse, error) {
	p.enter(ctx)
	if err := wait(ctx, req.GetWaitMs()); err != nil {
		return nil, err
	}
	return &probev1.WriteResponse{Answerer: p.answerer()}, nil
}

func wait(ctx context.Context, ms int64) error {
	if ms <= 0 {
		return nil
	}
	if err := backoff.Sleep(ctx, time.Duration(ms)*time.Millisecond); err != nil {
		return status.FromContextError(ctx.Err()).Err()
	}
	return nil
}

// Follow sends messages until the caller leaves or the server drains.
func (p *probe) Follow(req *probev1.FollowRequest, stream grpc.ServerStreamingServer[probev1.FollowResponse]) error {
	ctx := stream.Context()
	p.enter(ctx)
	draining := (<-chan struct{})(p.draining)
	if p.drainSignal != nil {
		draining = p.drainSignal(ctx)
	}
	interval := followInterval
	if ms := req.GetIntervalMs(); ms > 0 {
		interval = time.Duration(ms) * time.Millisecond
	}
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for n := int64(1); ; n++ {
		select { // also before the first message
		case <-draining:
			return p.drained(stream)
		default:
		}
		if err := stream.Send(&probev1.FollowResponse{Answerer: p.answerer(), Number: n}); err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-draining:
			return p.drained(stream)
		case <-ctx.Done():
			if p.stopping.Load() {
				return p.drained(stream)
			}
			return status.FromContextError(ctx.Err()).Err()
		}
	}
}

// drained ends a stream in good order.
func (p *probe) drained(stream grpc.ServerStream) error {
	stream.SetTrailer(metadata.Pairs(drainKey, p.service))
	return status.Error(codes.Unavailable, "this server drains; open the stream anew, others take it")
}
