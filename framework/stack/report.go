package stack

import (
	"fmt"
	"os"

	"go.uber.org/zap"

	"github.com/newsvc/newsvc/framework/client"
)

// ready is what the ready file says.
func (s *Stack) ready() Ready {
	r := Ready{Service: s.p.Service, PID: os.Getpid(), Incarnation: s.incarnation}
	if s.server != nil {
		r.GRPC = s.server.Addr()
	}
	s.mu.Lock()
	h := s.http
	s.mu.Unlock()
	if h != nil {
		r.HTTP = h.Addr()
	}
	if s.admin != nil {
		r.Admin = s.admin.Addr()
	}
	return r
}

// Addresses says where the process listens; empty strings are listeners it does not have.
func (s *Stack) Addresses() (grpc, http, admin string) {
	r := s.ready()
	return r.GRPC, r.HTTP, r.Admin
}

// report logs, once, what an operator wants to know of a process that has started.
func (s *Stack) report() {
	r := s.ready()
	fields := []zap.Field{zap.String("version", s.p.Version), zap.String("incarnation", s.incarnation)}
	for _, l := range []struct{ key, addr string }{{"grpc", r.GRPC}, {"http", r.HTTP}, {"admin", r.Admin}} {
		if l.addr != "" {
			fields = append(fields, zap.String(l.key, l.addr))
		}
	}
	if s.server != nil {
		fields = append(fields, zap.Strings("chain", s.server.Chain()))
	}
	if m := s.membership(); m != nil {
		fields = append(fields, zap.String("advertised", m.instance.Addr), zap.String("prefix", s.p.Config.Discovery.Prefix))
	}
	if s.etcd != nil {
		fields = append(fields, zap.Strings("etcd", s.p.Config.Etcd.Endpoints))
	}
	for _, callee := range s.p.Callees {
		fields = append(fields, zap.String("callee."+callee, summary(s.p.Config.policy(callee))))
	}
	if settings := s.Settings(); settings != nil {
		fields = append(fields, zap.Strings("config", settings.Sources()))
	}
	s.log.Info("started", fields...)
}

// policy is the one in force for a callee.
func (c Config) policy(callee string) client.Policy {
	if p, ok := c.Clients[callee]; ok {
		return p
	}
	return c.ClientDefaults
}

// summary is a policy in a line.
func summary(p client.Policy) string {
	target := p.Target
	if target == "" {
		target = "by name"
	}
	return fmt.Sprintf("%s, %s, timeout %v", target, p.Balancer, p.Timeout)
}
