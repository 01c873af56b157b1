package faulttest

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// soakServices are the services of a soak; the name of one begins with that of the other.
func soakServices() []string { return []string{"soak", "soak-two"} }

const (
	soakNobody  = "soak-nobody" // a service without servers
	soakServers = 3             // of each service
	soakUser    = "soak"
	soakSecret  = "secret"
)

// soakLink is the way of one process to etcd: a proxy in front of each member.
type soakLink []*Proxy

func (s *soak) newLink() (soakLink, error) {
	var link soakLink
	for _, endpoint := range s.cluster.Endpoints() {
		p, err := NewProxy(endpoint)
		if err != nil {
			return nil, err
		}
		if err := s.lab.own(p.Close); err != nil {
			return nil, err
		}
		link = append(link, p)
	}
	return link, nil
}

func (l soakLink) each(do func(*Proxy)) {
	for _, p := range l {
		do(p)
	}
}

// etcd is the registry as a process behind the link finds it.
func (s *soak) etcd(l soakLink) Etcd {
	var e Etcd
	l.each(func(p *Proxy) { e.Endpoints = append(e.Endpoints, p.Addr()) })
	if s.auth {
		e.Username, e.Password = soakUser, soakSecret
	}
	return e
}

// soakServer is a place for a server; processes come and go.
type soakServer struct {
	service, addr string
	link          soakLink
	proc          *ServerProc // nil while there is none
}

func (v *soakServer) String() string {
	if v.proc == nil {
		return fmt.Sprintf("%s at %s (stopped)", v.service, v.addr)
	}
	return fmt.Sprintf("%s at %s (pid %d)", v.service, v.addr, v.proc.PID())
}

// soakClient is a place for a client.
type soakClient struct {
	opt  ClientOptions
	link soakLink
	proc *ClientProc
}

func (c *soakClient) String() string {
	if c.proc == nil {
		return fmt.Sprintf("client %s of %s", c.opt.Caller, c.opt.Service)
	}
	return fmt.Sprintf("client %s of %s (pid %d)", c.opt.Caller, c.opt.Service, c.proc.PID())
}

// build starts etcd, servers and clients.
func (s *soak) build(ctx context.Context) error {
	var err error
	cfg := ClusterConfig{Members: s.report.Members, Slow: true, AuthTokenTTL: 3 * time.Second, WatchProgress: time.Minute}
	if s.cluster, err = s.lab.StartCluster(ctx, cfg); err != nil {
		return err
	}
	if s.auth {
		if err := s.setUpAuth(ctx); err != nil {
			return err
		}
	}
	s.pulse = startPulse()
	s.registry = watchRegistry(s.cluster, s.territory())
	for _, service := range soakServices() {
		for range soakServers {
			if _, err := s.addServer(ctx, service); err != nil {
				return err
			}
		}
		for i := range 3 {
			opt := ClientOptions{Service: service, Rate: s.opt.Rate, Writes: 0.3, Deadline: 3 * time.Second, Streams: 1}
			opt.Caller = fmt.Sprintf("caller-%s-%d", service, i)
			if i > 0 { // one has no disk
				opt.CacheDir = filepath.Join(s.lab.Dir(), opt.Caller)
			}
			c, err := s.addClient(ctx, opt)
			if err != nil {
				return err
			}
			s.clients = append(s.clients, c)
		}
	}
	s.lonely, err = s.addClient(ctx, ClientOptions{Caller: "caller-nobody", Service: soakNobody, Rate: 5, Deadline: 500 * time.Millisecond})
	s.log("seed %d: etcd of %d, passwords %v, %d servers, %d clients", s.opt.Seed, s.report.Members, s.auth, len(s.servers), len(s.clients)+1)
	return err
}

// territory is what all keys of all services have in front.
func (s *soak) territory() string {
	prefix := s.adapter.Keys(soakServices()[0])
	return strings.TrimSuffix(prefix, soakServices()[0]+"/")
}

func (s *soak) addServer(ctx context.Context, service string) (*soakServer, error) {
	addr, err := s.lab.freePort(ctx)
	if err != nil {
		return nil, err
	}
	link, err := s.newLink()
	if err != nil {
		return nil, err
	}
	v := &soakServer{service: service, addr: addr, link: link}
	if err := s.startServer(ctx, v); err != nil {
		return nil, err
	}
	s.servers = append(s.servers, v)
	return v, nil
}

func (s *soak) startServer(ctx context.Context, v *soakServer) error {
	s.registry.started(s.keyOf(v))
	proc, err := s.lab.StartServer(ctx, ServerOptions{
		Adapter: s.opt.Adapter, Service: v.service, Listen: v.addr, Etcd: s.etcd(v.link), TTL: s.opt.TTL,
	})
	if err != nil {
		return err
	}
	v.proc = proc
	return nil
}

// stopServer sends SIGTERM and waits. What it says of itself is taken down before.
func (s *soak) stopServer(ctx context.Context, v *soakServer) error {
	if v.proc == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := s.noForeign(ctx, v); err != nil {
		return err
	}
	proc := v.proc
	if err := proc.Stop(ctx); err != nil {
		return violation("clean stop", "%s: %w", v, err)
	}
	v.proc = nil
	// Without etcd it could not take leave: what it had sent may still arrive.
	s.registry.left(v.addr, !proc.Unconfirmed())
	return nil
}

func (s *soak) killServer(ctx context.Context, v *soakServer) error {
	if err := s.noForeign(ctx, v); err != nil { // it cannot be asked afterwards
		return err
	}
	began := time.Now()
	if err := v.proc.Kill(ctx); err != nil {
		return err
	}
	s.kills = append(s.kills, kill{v.addr, began, time.Now()})
	s.lab.forget(v.proc.Process)
	v.proc = nil
	return nil
}

func (s *soak) addClient(ctx context.Context, opt ClientOptions) (*soakClient, error) {
	link, err := s.newLink()
	if err != nil {
		return nil, err
	}
	opt.Adapter, opt.Etcd = s.opt.Adapter, s.etcd(link)
	c := &soakClient{opt: opt, link: link}
	c.proc, err = s.lab.StartClient(ctx, opt)
	return c, err
}

// endClient stops a client and judges its last phase.
func (s *soak) endClient(ctx context.Context, c *soakClient) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	r, err := c.proc.Stop(ctx)
	if err != nil {
		return violation("clean stop", "%s: %w", c, err)
	}
	s.report.Close = max(s.report.Close, r.CloseTook)
	if most := s.allowance(r); most <= SoakBusy && r.CloseTook > SoakClose+most {
		err = violation("I8", "%s: closing its connection took %s, allowed are %s", c, r.CloseTook, SoakClose+most)
	}
	return errors.Join(err, s.judge(c, r))
}

// live are the servers that run.
func (s *soak) live() []*soakServer {
	return slices.DeleteFunc(slices.Clone(s.servers), func(v *soakServer) bool { return v.proc == nil })
}

// keyOf is where the server announces itself.
func (s *soak) keyOf(v *soakServer) string { return s.adapter.Keys(v.service) + v.addr }
