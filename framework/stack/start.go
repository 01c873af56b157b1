package stack

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/newsvc/newsvc/framework/discovery"
	"github.com/newsvc/newsvc/framework/httpserver"
	"github.com/newsvc/newsvc/framework/readiness"
)

var errStopping = errors.New("the service is being stopped")

// Connect starts the admin server, opens the connections to all callees and waits for those whose policy names
// min_instances. The error says which callee has too few, and why; Close is to be called then, too.
func (s *Stack) Connect(ctx context.Context) error {
	s.steps.Lock()
	defer s.steps.Unlock()
	ctx, cancel := s.alive(ctx)
	defer cancel()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if path := s.p.Process.ReadyFile; path != "" { // whoever was killed under this name has left his behind
		if err := removeReady(path); err != nil {
			return err
		}
	}
	if s.admin != nil {
		if err := s.admin.Listen(ctx); err != nil {
			return fmt.Errorf("admin: %w", err)
		}
		if err := s.admin.Start(); err != nil {
			return fmt.Errorf("admin: %w", err)
		}
		s.watchListener("admin", s.admin)
	}
	s.watch.Start(context.WithoutCancel(ctx), s.near.run) // ends with Drain or Close
	s.startReload(context.WithoutCancel(ctx))             // the same
	s.readiness.Subscribe(s.tellReadiness())
	s.readiness.Start(context.WithoutCancel(ctx)) // ends with Close, not with the start
	return s.connectCallees(ctx)
}

// alive is ctx, ended also by the begin of a stop.
func (s *Stack) alive(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	unhook := context.AfterFunc(s.life, func() { cancel(errStopping) })
	if s.life.Err() != nil {
		cancel(errStopping)
	}
	return ctx, func() { unhook(); cancel(nil) }
}

func (s *Stack) connectCallees(ctx context.Context) error {
	for _, callee := range s.p.Callees {
		conn, err := s.clients.Conn(callee)
		if err != nil {
			return err
		}
		conn.Connect()
	}
	began := time.Now()
	for _, callee := range s.p.Callees {
		if err := s.waitCallee(ctx, callee, began); err != nil {
			return err
		}
	}
	return nil
}

// tellReadiness returns a subscriber that logs when readiness is lost and when it has returned.
func (s *Stack) tellReadiness() func(readiness.Report) {
	was := true // that nothing is ready yet goes without saying
	return func(r readiness.Report) {
		if r.Ready == was || r.Draining || !slices.ContainsFunc(r.Checks, func(c readiness.Status) bool { return c.Name == startCondition && c.OK }) {
			return
		}
		was = r.Ready
		if r.Ready {
			s.log.Info("ready again")
			return
		}
		s.log.Warn("not ready", zap.Strings("reasons", r.Reasons()))
	}
}

// Start listens, serves, and begins to register in the background once the instance is ready; it does not wait for
// that, so a service starts while etcd is away. When it fails it has drained.
func (s *Stack) Start(ctx context.Context) error {
	s.steps.Lock()
	err := s.start(ctx)
	s.steps.Unlock()
	if err != nil {
		return errors.Join(err, s.Drain(context.WithoutCancel(ctx)))
	}
	return nil
}

func (s *Stack) start(ctx context.Context) error {
	ctx, cancel := s.alive(ctx)
	defer cancel()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	s.startWork()
	if err := s.serve(ctx); err != nil {
		return err
	}
	if err := s.joinRegistry(ctx); err != nil {
		return err
	}
	s.serves = true
	s.serving.Set(nil)
	s.report()
	return nil
}

func (s *Stack) serve(ctx context.Context) error {
	if s.server != nil {
		if err := s.bindAuth(); err != nil {
			return err
		}
		if err := s.server.Listen(ctx); err != nil {
			return fmt.Errorf("server: %w", err)
		}
		if err := s.server.Start(); err != nil {
			return fmt.Errorf("server: %w", err)
		}
		s.watchListener("server", s.server)
	}
	if s.handler == nil {
		return nil
	}
	cfg := s.p.Config.HTTP
	var opts []httpserver.Option
	if s.p.Process.Dev { // a developer's machine: nobody else is to reach it, and the port may be taken
		if host, port, err := net.SplitHostPort(cfg.Listen); err == nil && host == "" {
			cfg.Listen = net.JoinHostPort("127.0.0.1", port)
		}
		opts = append(opts, httpserver.FallbackPort())
		if f := s.p.Process.HTTPSocket; f != nil {
			opts = append(opts, httpserver.Inherited(f))
		}
	}
	if requests, err := s.telemetry.Requests(); err != nil {
		return fmt.Errorf("http: %w", err)
	} else if requests != nil {
		opts = append(opts, httpserver.Observe(requests))
	}
	h, err := httpserver.New(cfg, s.noted(s.handler), s.log.Named("http"), opts...)
	if err != nil {
		return fmt.Errorf("http: %w", err)
	}
	s.mu.Lock()
	s.http = h // closed by Drain, whatever happens next
	s.mu.Unlock()
	if err := h.Listen(ctx); err != nil {
		return fmt.Errorf("http: %w", err)
	}
	if err := h.Start(); err != nil {
		return fmt.Errorf("http: %w", err)
	}
	s.watchListener("http", h)
	return nil
}

// noted remembers when the last request came.
func (s *Stack) noted(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.lastHTTP.Store(time.Now().UnixNano())
		h.ServeHTTP(w, r)
	})
}

// watchListener reports a listener that ends by itself.
func (s *Stack) watchListener(name string, l interface {
	Done() <-chan struct{}
	Err() error
}) {
	s.watch.Start(context.Background(), func(ctx context.Context) {
		select {
		case <-ctx.Done():
			return
		case <-l.Done():
		}
		if err := l.Err(); err != nil {
			s.fail(fmt.Errorf("%s stopped serving: %w", name, err))
		}
	})
}

// joinRegistry starts what keeps this instance registered while it is ready; without a server, or with registration
// switched off, only the ready file is written.
func (s *Stack) joinRegistry(ctx context.Context) error {
	c := s.p.Config.Registration
	if !s.registers() {
		s.watch.Start(context.Background(), func(ctx context.Context) {
			if s.readiness.Wait(ctx) == nil {
				s.announceReady()
			}
		})
		return nil
	}
	addr, err := advertise(ctx, advertiseQuery{
		explicit: c.Advertise, listen: s.server.Addr(), podIP: s.p.Process.PodIP,
		etcd: s.p.Config.Etcd.Endpoints, loopback: s.p.Process.Dev,
	})
	if err != nil {
		return fmt.Errorf("registration: %w", err)
	}
	inst := discovery.Instance{
		Service: s.p.Service, Addr: addr, Incarnation: s.incarnation, State: discovery.StateUp,
		Version: s.p.Version, Weight: c.Weight, Zone: c.Zone, Metadata: sinceNow(),
	}
	if s.admin != nil {
		inst.Admin = reachable(s.admin.Addr(), addr)
	}
	m := &membership{
		registrar: s.registrar, instance: inst, gate: s.readiness, leaveAfter: c.LeaveAfter,
		log: s.log.Named("registration"), onUp: s.announced,
	}
	m.start()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.member = m
	return nil
}

// announced is called when this instance is registered for the first time.
func (s *Stack) announced() {
	s.server.SetReadiness(true)
	s.announceReady()
}

// announceReady writes the ready file, if one is asked for.
func (s *Stack) announceReady() {
	path := s.p.Process.ReadyFile
	if path == "" {
		return
	}
	if err := writeReady(path, s.ready()); err != nil {
		s.log.Error("whoever started this process can't see that it is ready", zap.Error(err))
	}
}
