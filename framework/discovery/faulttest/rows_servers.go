package faulttest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"syscall"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// busy is how long handlers take where servers end: so a few calls are always under way in each.
const busy = 30 * time.Millisecond

// serverRows are faults of servers, and what must not be one: a server that leaves.
func serverRows() []Row {
	return []Row{
		{
			ID: "server-killed", Covers: []string{"A31", "C1"}, Members: 1, Limit: limitUsual, writes: 0.5, work: busy, From: "the start of the last newcomer",
			Fault:  "all servers are killed (SIGKILL), one a second, and another one starts each time. Half of the calls must not be repeated",
			inject: (*stage).kill, proof: (*stage).killedServers,
		},
		{
			ID: "server-silent", Covers: []string{"A31", "C2"}, Members: 1, Limit: limitDead, work: busy, From: "the stop",
			Fault: "a server stands still for good (SIGSTOP): its connections stay, its machine takes what is sent, and nothing answers; another one starts. " +
				"What is sent to it is shown apart, and all is well when nothing is any more",
			inject: (*stage).silence, proof: (*stage).silentServers,
			after: func(s *stage, ctx context.Context) (string, error) {
				if err := s.wait(ctx, time.Until(s.healed.Add(s.opt.TTL+leaseEnds))); err != nil {
					return "", err
				}
				return s.leasesGone(ctx)
			},
		},
		{
			ID: "servers-rolled", Covers: []string{"C4", "D1"}, Members: 1, Limit: limitUsual, orderly: true, work: busy,
			Fault:  "all servers are replaced, one after the other: another one starts, the old one gets SIGTERM",
			inject: (*stage).roll, proof: (*stage).allLeft,
		},
		{
			ID: "server-restarted", Covers: []string{"A11", "B19"}, Members: 1, Limit: limitUsual, work: busy, From: "the start of the new process",
			Fault:  "one server is killed and another process starts on its address at once, while the lease of the first one lives",
			inject: (*stage).restart, proof: (*stage).killedServers,
			// The lease of the first process has ended by then.
			after: func(s *stage, ctx context.Context) (string, error) {
				if err := s.wait(ctx, time.Until(s.healed.Add(2*s.opt.TTL))); err != nil {
					return "", err
				}
				return s.leasesGone(ctx)
			},
		},
		{
			ID: "predecessor-hangs", Covers: []string{"A11"}, Members: 1, Limit: limitUsual, work: busy,
			Fault: fmt.Sprintf("a server gets SIGTERM, but its link to etcd delays by %v; it is killed, another process starts on its address, and then etcd gets what the first one had sent", slowLeave),
			ready: (*stage).slowServer, inject: (*stage).leaveSlowly, proof: (*stage).killedServers,
		},
		{
			ID: "leave-while-etcd-frozen", Covers: []string{"D7"}, Members: 1, Limit: limitUsual, work: busy,
			Fault: "etcd stands still (SIGSTOP); a server starts, and all others but one get SIGTERM, one after the other",
			inject: func(s *stage, ctx context.Context) error {
				if err := s.cluster.Member(0).Freeze(ctx); err != nil {
					return err
				}
				s.newcomers(ctx)
				s.each(func(d *side) error {
					var err error
					for range s.opt.Servers - 1 {
						_, lerr := s.leaves(ctx, d)
						err = errors.Join(err, lerr)
					}
					return err
				})
				return nil
			},
			proof: func(s *stage, ctx context.Context) (string, error) {
				text, err := s.standsStill(ctx)
				return join(text, fmt.Sprintf("%d servers have ended", s.ended())), err
			},
			heal: (*stage).thaw,
		},
		{
			ID: "rolled-while-clients-cut", Covers: []string{"C4", "D14"}, Members: 1, Limit: limitUsual, orderly: true, work: busy, links: links{clients: true},
			Fault: "callers cannot reach etcd; all servers are restarted on their addresses, one after the other, by SIGTERM",
			inject: func(s *stage, ctx context.Context) error {
				cut(s.clientLinks)
				s.each(func(d *side) error { return s.rollInPlace(ctx, d) })
				return nil
			},
			proof: func(s *stage, ctx context.Context) (string, error) {
				text, err := refused(ctx, s.clientLinks)
				return join(text, fmt.Sprintf("%d servers have ended", s.ended())), err
			},
			heal: func(s *stage, _ context.Context) error { return s.relink(s.clientLinks) },
		},
		{
			ID: "all-restarted", Covers: []string{"C6", "D13"}, Members: 1, Limit: limitUsual, orderly: true, work: busy, From: "the start of the new servers",
			Fault:  "all servers get SIGTERM at once; as many others start 1 s later",
			inject: (*stage).replaceAll, proof: (*stage).allLeft,
		},
	}
}

// leaves sends the first server SIGTERM and waits for the end.
func (s *stage) leaves(ctx context.Context, d *side) (*ServerProc, error) {
	p, err := s.retire(ctx, d)
	if err == nil {
		err = p.Signal(syscall.SIGTERM)
	}
	if err != nil {
		return p, err
	}
	return p, s.gone(ctx, p)
}

// ended counts the servers that were asked to leave and have.
func (s *stage) ended() (n int) {
	for _, d := range s.sides {
		for _, p := range d.left {
			if !p.Running() {
				n++
			}
		}
	}
	return n
}

func (s *stage) kill(ctx context.Context) error {
	for range s.opt.Servers {
		s.each(func(d *side) error {
			p, err := s.retire(ctx, d)
			if err != nil {
				return err
			}
			return p.Kill(ctx)
		})
		s.newcomers(ctx)
		s.healed = time.Now()
		if err := s.wait(ctx, time.Second); err != nil {
			return err
		}
	}
	return nil
}

// silence stops a server of each adapter where it is.
func (s *stage) silence(ctx context.Context) error {
	for _, d := range s.sides {
		if d.err != nil {
			continue
		}
		if err := s.noteLease(ctx, d, d.live[0]); err != nil {
			return err
		}
	}
	s.each(func(d *side) error {
		p, err := s.retire(ctx, d)
		if err != nil {
			return err
		}
		d.silent = append(d.silent, p)
		return p.Freeze(ctx)
	})
	s.healed = time.Now()
	s.newcomers(ctx)
	return nil
}

// silentServers shows that a server of each adapter is stopped.
func (s *stage) silentServers(context.Context) (string, error) {
	n, states := 0, ""
	for _, d := range s.sides {
		for _, p := range d.silent {
			state, err := stopped(p.PID())
			if err != nil {
				return "", err
			}
			n, states = n+1, state
		}
	}
	if n < s.working() {
		return "", fmt.Errorf("only %d servers stand still", n)
	}
	return fmt.Sprintf("%d servers are in state %s", n, states), nil
}

// killedServers shows that a server of each adapter was killed.
func (s *stage) killedServers(ctx context.Context) (string, error) {
	n := 0
	for _, d := range s.sides {
		for _, p := range d.left {
			status, err := p.Wait(ctx)
			if err != nil {
				return "", err
			}
			if status != 128+int(syscall.SIGKILL) {
				return "", fmt.Errorf("a server ended with status %d", status)
			}
			n++
		}
	}
	if n < s.working() {
		return "", fmt.Errorf("only %d servers were killed", n)
	}
	return fmt.Sprintf("%d servers ended with status %d", n, 128+int(syscall.SIGKILL)), nil
}

func (s *stage) roll(ctx context.Context) error {
	s.each(func(d *side) error {
		for range s.opt.Servers {
			if err := s.newcomer(ctx, d, ""); err != nil {
				return err
			}
			if _, err := s.leaves(ctx, d); err != nil {
				return err
			}
		}
		return nil
	})
	s.healed = time.Now()
	return nil
}

// allLeft shows that all servers that there were at first have ended.
func (s *stage) allLeft(context.Context) (string, error) {
	n := s.ended()
	if want := s.working() * s.opt.Servers; n < want {
		return "", fmt.Errorf("%d of %d servers have ended", n, want)
	}
	return fmt.Sprintf("%d servers have ended", n), nil
}

func (s *stage) rollInPlace(ctx context.Context, d *side) error {
	for range s.opt.Servers {
		p, err := s.leaves(ctx, d)
		if err != nil {
			return err
		}
		if err := s.newcomer(ctx, d, p.Addr()); err != nil {
			return err
		}
	}
	return nil
}

func (s *stage) restart(ctx context.Context) error {
	for _, d := range s.sides {
		if d.err != nil {
			continue
		}
		if err := s.noteLease(ctx, d, d.live[0]); err != nil {
			return err
		}
	}
	s.each(func(d *side) error {
		p, err := s.retire(ctx, d)
		if err == nil {
			err = p.Kill(ctx)
		}
		if err != nil {
			return err
		}
		return s.newcomer(ctx, d, p.Addr())
	})
	s.healed = time.Now()
	return nil
}

// noteLease notes the lease of one server.
func (s *stage) noteLease(ctx context.Context, d *side, p *ServerProc) error {
	resp, err := s.etcd().Get(ctx, d.adapter.Keys(d.service)+p.Addr())
	if err != nil {
		return err
	}
	for _, kv := range resp.Kvs {
		s.leases = append(s.leases, clientv3.LeaseID(kv.Lease))
	}
	return nil
}

// slowLeave is how long etcd gets nothing from the server that leaves.
const slowLeave = 4 * time.Second

// slowServer starts a server of each adapter that reaches etcd through a link of its own.
func (s *stage) slowServer(ctx context.Context) (err error) {
	if s.serverLinks, err = s.proxies(); err != nil {
		return err
	}
	s.each(func(d *side) error { return s.newcomer(ctx, d, "") })
	s.each(func(d *side) error {
		d.fresh = nil
		return s.soon(ctx, func() bool {
			idle, _ := d.unused(ctx, time.Time{})
			return idle == "" && s.listed(ctx, d) == ""
		})
	})
	return nil
}

func (s *stage) leaveSlowly(ctx context.Context) error {
	slow := s.serverLinks
	for _, l := range slow {
		l.Delay(slowLeave)
	}
	began := time.Now()
	s.each(func(d *side) error {
		p := d.live[len(d.live)-1]
		d.live = d.live[:len(d.live)-1]
		if err := s.leaving(ctx, d, p); err != nil {
			return err
		}
		return p.Signal(syscall.SIGTERM)
	})
	if err := s.wait(ctx, time.Second); err != nil {
		return err
	}
	var direct sync.Mutex
	s.each(func(d *side) error {
		p := d.left[0]
		if err := p.Kill(ctx); err != nil {
			return err
		}
		direct.Lock() // the new process has a link that works
		defer direct.Unlock()
		s.serverLinks = nil
		err := s.newcomer(ctx, d, p.Addr())
		s.serverLinks = slow
		return err
	})
	return s.wait(ctx, time.Until(began.Add(slowLeave+time.Second)))
}

func (s *stage) replaceAll(ctx context.Context) error {
	var leaving sync.WaitGroup
	s.each(func(d *side) error {
		var err error
		for range s.opt.Servers {
			_, rerr := s.retire(ctx, d)
			err = errors.Join(err, rerr)
		}
		return err
	})
	s.each(func(d *side) error {
		for _, p := range d.left {
			if err := p.Signal(syscall.SIGTERM); err != nil {
				return err
			}
			leaving.Go(func() { _ = s.gone(ctx, p) })
		}
		return nil
	})
	if err := s.wait(ctx, time.Second); err != nil {
		return err
	}
	s.healed = time.Now()
	for range s.opt.Servers {
		s.newcomers(ctx)
	}
	leaving.Wait()
	return nil
}
