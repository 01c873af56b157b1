package stack

import (
	"context"
	"errors"
	"fmt"
	"net"

	"go.uber.org/zap"

	"github.com/newsvc/newsvc/framework/discovery"
	"github.com/newsvc/newsvc/framework/httpserver"
)

// Connect starts the admin server, opens the connections to all callees and waits for those whose policy names
// min_instances. The error says which callee has too few, and why.
func (s *Stack) Connect(ctx context.Context) error {
	if s.admin != nil {
		if err := s.admin.Listen(ctx); err != nil {
			return fmt.Errorf("admin: %w", err)
		}
		if err := s.admin.Start(); err != nil {
			return fmt.Errorf("admin: %w", err)
		}
		s.watchListener("admin", s.admin)
	}
	s.readiness.Start(context.WithoutCancel(ctx)) // ends with Close, not with the start
	for _, callee := range s.p.Callees {
		conn, err := s.clients.Conn(callee)
		if err != nil {
			return err
		}
		conn.Connect()
		policy, ok := s.p.Config.Clients[callee]
		if !ok || policy.MinInstances == 0 {
			continue
		}
		if err := conn.WaitInstances(ctx, policy.MinInstances); err != nil {
			return fmt.Errorf("clients.%s.min_instances: %w", callee, err)
		}
	}
	return nil
}

// Start listens, serves, and begins to register in the background once the instance is ready; it does not wait for
// that, so a service starts while etcd is away. When it fails it has cleaned up after itself.
func (s *Stack) Start(ctx context.Context) error {
	err := s.serve(ctx)
	if err == nil {
		err = s.joinRegistry(ctx)
	}
	if err != nil {
		return errors.Join(err, s.Drain(context.WithoutCancel(ctx)))
	}
	s.serving.Set(nil)
	s.report()
	return nil
}

func (s *Stack) serve(ctx context.Context) error {
	if s.server != nil {
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
	}
	h, err := httpserver.New(cfg, s.handler, s.log.Named("http"), opts...)
	if err != nil {
		return fmt.Errorf("http: %w", err)
	}
	if err := h.Listen(ctx); err != nil {
		return fmt.Errorf("http: %w", err)
	}
	if err := h.Start(); err != nil {
		return fmt.Errorf("http: %w", err)
	}
	s.http = h
	s.watchListener("http", h)
	return nil
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
			select {
			case s.failed <- fmt.Errorf("%s stopped serving: %w", name, err):
			default: // one failure is enough to end the process
			}
		}
	})
}

// joinRegistry starts what keeps this instance registered while it is ready; without a server, or with registration
// switched off, only the ready file is written.
func (s *Stack) joinRegistry(ctx context.Context) error {
	c := s.p.Config.Registration
	if s.server == nil || !c.Enabled {
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
		Version: s.p.Version, Weight: c.Weight, Zone: c.Zone,
	}
	if s.admin != nil {
		inst.Admin = s.admin.Addr()
	}
	s.member = &membership{
		registrar: s.registrar, instance: inst, gate: s.readiness, leaveAfter: c.LeaveAfter,
		log: s.log.Named("registration"), onUp: s.announceReady,
	}
	s.member.start()
	return nil
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
