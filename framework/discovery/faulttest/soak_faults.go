package faulttest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Classes of faults: of each class at most one is active at a time.
const (
	classEtcd   = "etcd"   // its processes
	classData   = "data"   // what is in etcd and what it permits; needs a working etcd at its begin and end
	classLink   = "link"   // between etcd and others
	classServer = "server" // of services
	classClient = "client"
	classAlone  = "alone" // nothing else beside it
)

// healRank orders the ends of faults.
func healRank(class string) int {
	if class == classData {
		return 1
	}
	return 0
}

// soakKind is a kind of fault.
type soakKind struct {
	name, class string
	limit       time.Duration // for convergence; 0 means SoakConverge
	usable      func(*soak) bool
	begin       func(ctx context.Context, s *soak, f *injected) error // sets detail and heal
}

// injected is a fault that was injected.
type injected struct {
	round               int
	kind, class, detail string
	began, ended        time.Time
	limit               time.Duration
	heal                func(ctx context.Context) error // nil: it needs none
}

func (f *injected) end(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	var err error
	if f.heal != nil {
		err = f.heal(ctx)
	}
	f.ended = time.Now()
	return err
}

// SoakFaults are the names of the kinds of faults that a soak injects.
func SoakFaults() []string {
	var out []string
	for _, k := range soakKinds() {
		out = append(out, k.name)
	}
	return out
}

func soakKinds() []soakKind {
	return slices.Concat(etcdKinds(), dataKinds(), linkKinds(), processKinds())
}

func etcdKinds() []soakKind {
	three := func(s *soak) bool { return s.cluster.Members() == 3 }
	return []soakKind{
		{name: "etcd frozen", class: classEtcd, begin: func(ctx context.Context, s *soak, f *injected) error {
			who := s.someMembers(f)
			f.heal = func(ctx context.Context) error {
				for _, m := range who {
					if err := m.Thaw(); err != nil {
						return err
					}
				}
				return s.cluster.WaitHealthy(ctx)
			}
			for _, m := range who {
				if err := m.Freeze(ctx); err != nil {
					return err
				}
			}
			return nil
		}},
		{name: "etcd killed", class: classEtcd, begin: func(ctx context.Context, s *soak, f *injected) error {
			return s.killMembers(ctx, f, s.someMembers(f)...)
		}},
		{name: "etcd's leader killed", class: classEtcd, usable: three, begin: func(ctx context.Context, s *soak, f *injected) error {
			i, err := s.cluster.Leader(ctx)
			if err != nil {
				return err
			}
			f.detail = s.cluster.Member(i).Name()
			return s.killMembers(ctx, f, s.cluster.Member(i))
		}},
		{name: "etcd's member isolated", class: classEtcd, usable: three, begin: func(_ context.Context, s *soak, f *injected) error {
			m := s.cluster.Member(s.rng.IntN(3))
			f.detail = m.Name()
			m.Isolate()
			f.heal = func(ctx context.Context) error {
				m.Join()
				return s.cluster.WaitHealthy(ctx)
			}
			return nil
		}},
		{name: "etcd restored", class: classAlone, limit: SoakConvergeRestored, begin: func(ctx context.Context, s *soak, _ *injected) error {
			return s.setBack(ctx, s.cluster.Restore)
		}},
		{name: "etcd wiped", class: classAlone, limit: SoakConvergeRestored, begin: func(ctx context.Context, s *soak, _ *injected) error {
			return s.setBack(ctx, func(ctx context.Context) error {
				if err := s.cluster.Wipe(ctx); err != nil || !s.auth {
					return err
				}
				return s.setUpAuth(ctx)
			})
		}},
	}
}

// someMembers draws one member, or all.
func (s *soak) someMembers(f *injected) []*Member {
	i := s.rng.IntN(s.cluster.Members() + 1)
	if i == s.cluster.Members() {
		f.detail = "all members"
		return s.cluster.members
	}
	f.detail = s.cluster.Member(i).Name()
	return []*Member{s.cluster.Member(i)}
}

func (s *soak) killMembers(ctx context.Context, f *injected, who ...*Member) error {
	f.heal = func(ctx context.Context) error {
		if err := s.cluster.startAll(ctx); err != nil {
			return err
		}
		return s.cluster.WaitHealthy(ctx)
	}
	for _, m := range who {
		if err := m.Kill(ctx); err != nil {
			return err
		}
	}
	return nil
}

// setBack gives etcd other data; what was written since never was.
func (s *soak) setBack(ctx context.Context, do func(context.Context) error) error {
	s.registry.pause()
	defer s.registry.again()
	return do(ctx)
}

func linkKinds() []soakKind {
	return []soakKind{
		linkKind("link cut", func(*soak, *injected) func(*Proxy) { return (*Proxy).Cut }),
		linkKind("link reset", func(*soak, *injected) func(*Proxy) { return (*Proxy).Reset }),
		linkKind("link silent", func(s *soak, f *injected) func(*Proxy) {
			way := 1 + s.rng.IntN(3)
			up, down := way&1 != 0, way&2 != 0
			f.detail += fmt.Sprintf(", to etcd %v, from etcd %v", up, down)
			if s.rng.IntN(2) == 0 {
				f.detail += givenUp
			}
			return func(p *Proxy) { p.Blackhole(up, down) }
		}),
		linkKind("link slow", func(s *soak, f *injected) func(*Proxy) {
			d := s.between(20*time.Millisecond, 400*time.Millisecond)
			f.detail += fmt.Sprintf(", %s each way", d.Round(time.Millisecond))
			return func(p *Proxy) { p.Delay(d) }
		}),
	}
}

// givenUp is said of connections that do not survive their silence.
const givenUp = ", connections given up"

// linkKind is a fault of links; draw decides what is done to each proxy.
func linkKind(name string, draw func(s *soak, f *injected) func(*Proxy)) soakKind {
	return soakKind{name: name, class: classLink, begin: func(_ context.Context, s *soak, f *injected) error {
		links := s.someLinks(f)
		do := draw(s, f)
		f.heal = func(context.Context) error {
			for _, l := range links {
				if strings.HasSuffix(f.detail, givenUp) {
					l.each((*Proxy).Reset)
				}
				l.each((*Proxy).Heal)
			}
			return nil
		}
		for _, l := range links {
			l.each(do)
		}
		return nil
	}}
}

// someLinks draws the links of a client, of a server, or of one of both.
func (s *soak) someLinks(f *injected) []soakLink {
	c, v := s.clients[s.rng.IntN(len(s.clients))], s.anyServer()
	switch s.rng.IntN(3) {
	case 0:
		f.detail = c.String()
		return []soakLink{c.link}
	case 1:
		f.detail = v.String()
		return []soakLink{v.link}
	}
	f.detail = c.String() + " and " + v.String()
	return []soakLink{c.link, v.link}
}

func (s *soak) anyServer() *soakServer {
	live := s.live()
	return live[s.rng.IntN(len(live))]
}

func processKinds() []soakKind {
	return []soakKind{
		{name: "server restarted", class: classServer, begin: func(ctx context.Context, s *soak, f *injected) error {
			v := s.anyServer()
			f.detail = v.String()
			if err := s.stopServer(ctx, v); err != nil {
				return err
			}
			if s.rng.IntN(2) == 0 {
				addr, err := s.lab.freePort(ctx)
				if err != nil {
					return err
				}
				v.addr = addr
				f.detail += " moves to " + addr
			}
			return s.startServer(ctx, v)
		}},
		{name: "server killed", class: classServer, begin: func(ctx context.Context, s *soak, f *injected) error {
			v := s.anyServer()
			f.detail = v.String()
			f.heal = func(ctx context.Context) error { return s.startServer(ctx, v) }
			if err := s.killServer(ctx, v); err != nil || s.rng.IntN(2) == 0 {
				return err
			}
			f.heal = nil
			f.detail += ", started at once"
			return s.startServer(ctx, v)
		}},
		{name: "server frozen", class: classServer, begin: func(ctx context.Context, s *soak, f *injected) error {
			v, d := s.anyServer(), s.between(100*time.Millisecond, time.Second)
			f.detail = fmt.Sprintf("%s for %s", v, d.Round(time.Millisecond))
			if err := v.proc.Freeze(ctx); err != nil {
				return err
			}
			err := s.pause(ctx, d, d+1)
			return errors.Join(err, v.proc.Thaw())
		}},
		{name: "scaled up", class: classServer, begin: func(ctx context.Context, s *soak, f *injected) error {
			service := soakServices()[s.rng.IntN(len(soakServices()))]
			v, err := s.addServer(ctx, service)
			if err != nil {
				return err
			}
			f.detail = v.String()
			f.heal = func(ctx context.Context) error { return s.removeServer(ctx, v) }
			return nil
		}},
		{name: "scaled down", class: classServer, begin: func(ctx context.Context, s *soak, f *injected) error {
			v := s.anyServer()
			f.detail = v.String()
			f.heal = func(ctx context.Context) error { return s.startServer(ctx, v) }
			return s.stopServer(ctx, v)
		}},
		{name: "address reused", class: classServer, begin: func(ctx context.Context, s *soak, f *injected) error {
			v := s.anyServer()
			other := soakServices()[0]
			if v.service == other {
				other = soakServices()[1]
			}
			f.detail = fmt.Sprintf("%s by %s", v, other)
			if err := s.killServer(ctx, v); err != nil {
				return err
			}
			guest := &soakServer{service: other, addr: v.addr, link: v.link}
			f.heal = func(ctx context.Context) error {
				if err := s.removeServer(ctx, guest); err != nil {
					return err
				}
				return s.startServer(ctx, v)
			}
			if err := s.startServer(ctx, guest); err != nil {
				return err
			}
			s.servers = append(s.servers, guest)
			return nil
		}},
		{name: "client restarted", class: classClient, begin: func(ctx context.Context, s *soak, f *injected) error {
			var durable []*soakClient
			for _, c := range s.clients {
				if c.opt.CacheDir != "" {
					durable = append(durable, c)
				}
			}
			c := durable[s.rng.IntN(len(durable))]
			f.detail = c.String()
			if err := s.endClient(ctx, c); err != nil {
				return err
			}
			var err error
			c.proc, err = s.lab.StartClient(ctx, c.opt)
			return err
		}},
	}
}

func (s *soak) removeServer(ctx context.Context, v *soakServer) error {
	if err := s.stopServer(ctx, v); err != nil {
		return err
	}
	s.servers = slices.DeleteFunc(s.servers, func(o *soakServer) bool { return o == v })
	return nil
}
