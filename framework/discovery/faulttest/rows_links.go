package faulttest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// lag is how much a slow link delays each direction.
const lag = 300 * time.Millisecond

// linkRows are faults of the links to the one etcd process.
func linkRows() []Row {
	relink := func(pick func(*stage) []*Proxy) func(*stage, context.Context) error {
		return func(s *stage, _ context.Context) error { return s.relink(pick(s)) }
	}
	ofClients := func(s *stage) []*Proxy { return s.clientLinks }
	ofServers := func(s *stage) []*Proxy { return s.serverLinks }
	return []Row{
		{
			ID: "client-link-cut", Covers: []string{"B9", "D14"}, Members: 1, Limit: limitUsual, orderly: true, links: links{clients: true},
			Fault: "callers cannot reach etcd for 2 TTL (connections reset, new ones refused); a server starts and another one leaves meanwhile",
			inject: func(s *stage, ctx context.Context) error {
				cut(s.clientLinks)
				s.newcomers(ctx)
				s.leavers(ctx)
				return s.wait(ctx, 2*s.opt.TTL)
			},
			proof: func(s *stage, ctx context.Context) (string, error) { return refused(ctx, s.clientLinks) }, heal: relink(ofClients),
		},
		{
			ID: "client-link-blackholed", Covers: []string{"B8"}, Members: 1, Limit: limitSilent, links: links{clients: true},
			Fault: "what callers and etcd send each other is swallowed for 2 TTL, without a reset; a server starts meanwhile",
			inject: func(s *stage, ctx context.Context) error {
				return s.swallowed(ctx, s.clientLinks, true, true)
			},
			proof: func(s *stage, ctx context.Context) (string, error) { return s.silent(ctx, s.clientLinks) }, heal: relink(ofClients),
		},
		{
			ID: "client-link-half-open", Covers: []string{"B8"}, Members: 1, Limit: limitSilent, orderly: true, links: links{clients: true}, From: "the newcomer's key in etcd",
			Fault: "the connections of callers to etcd are dead for good, and nobody is told; new ones would work. A server starts, another one leaves",
			inject: func(s *stage, ctx context.Context) error {
				strand(s.clientLinks)
				return s.announced(ctx)
			},
			proof: func(s *stage, _ context.Context) (string, error) { return stranded(s.clientLinks) },
		},
		{
			ID: "client-link-slow", Covers: []string{"B1"}, Members: 1, Limit: limitUsual, links: links{clients: true}, From: "the start of the newcomer",
			Fault: fmt.Sprintf("the link between callers and etcd is delayed by %v each way, and stays so; a server and another caller start", lag),
			inject: func(s *stage, ctx context.Context) error {
				for _, l := range s.clientLinks {
					l.Delay(lag)
				}
				s.healed = time.Now()
				s.each(func(d *side) error { return s.startClient(ctx, d, "") })
				s.newcomers(ctx)
				return nil
			},
			proof: (*stage).slow,
		},
		{
			ID: "server-links-cut", Covers: []string{"A10", "A24", "B12"}, Members: 1, Limit: limitUsual, links: links{servers: true},
			Fault: "no server can reach etcd for 2 TTL: all leases end at about the same time; a server starts meanwhile",
			inject: func(s *stage, ctx context.Context) error {
				if err := s.noteLeases(ctx); err != nil {
					return err
				}
				cut(s.serverLinks)
				s.newcomers(ctx)
				return s.wait(ctx, 2*s.opt.TTL)
			},
			proof: (*stage).leasesGone, heal: relink(ofServers),
		},
		{
			ID: "server-requests-swallowed", Covers: []string{"A9"}, Members: 1, Limit: limitSilent, links: links{servers: true},
			Fault: "what servers send to etcd is swallowed for 2 TTL, without a reset; a server starts meanwhile",
			inject: func(s *stage, ctx context.Context) error {
				if err := s.noteLeases(ctx); err != nil {
					return err
				}
				return s.swallowed(ctx, s.serverLinks, true, false)
			},
			proof: (*stage).leasesGone, heal: relink(ofServers),
		},
		{
			ID: "server-answers-swallowed", Covers: []string{"A9", "A16"}, Members: 1, Limit: limitSilent, links: links{servers: true},
			Fault: "what etcd answers to servers is swallowed for 2 TTL, without a reset: writes take place, and nobody knows; a server starts meanwhile",
			inject: func(s *stage, ctx context.Context) error {
				return s.swallowed(ctx, s.serverLinks, false, true)
			},
			proof: func(s *stage, ctx context.Context) (string, error) { return s.silent(ctx, s.serverLinks) }, heal: relink(ofServers),
		},
		{
			ID: "server-links-half-open", Covers: []string{"A9"}, Members: 1, Limit: limitSilent, links: links{servers: true}, From: "the end of the old connections",
			Fault: "the connections of servers to etcd are dead for good, and nobody is told; new ones would work. A server starts",
			inject: func(s *stage, ctx context.Context) error {
				if err := s.noteLeases(ctx); err != nil {
					return err
				}
				strand(s.serverLinks)
				s.healed = time.Now()
				s.newcomers(ctx)
				return s.wait(ctx, 2*s.opt.TTL) // until the leases have ended
			},
			proof: func(s *stage, ctx context.Context) (string, error) {
				text, err := stranded(s.serverLinks)
				if err != nil {
					return "", err
				}
				gone, err := s.leasesGone(ctx)
				return join(text, gone), err
			},
		},
	}
}

func strand(links []*Proxy) {
	for _, l := range links {
		l.Strand()
	}
}

// stranded shows that there are dead connections.
func stranded(links []*Proxy) (string, error) {
	n := 0
	for _, l := range links {
		n += l.Stranded()
	}
	if n == 0 {
		return "", errors.New("no connection was there to be left dead")
	}
	return fmt.Sprintf("%d connections are dead on the way and open at both ends", n), nil
}

func cut(links []*Proxy) {
	for _, l := range links {
		l.Cut()
	}
}

// relink lets links work again and notes that the fault has ended.
func (s *stage) relink(links []*Proxy) error {
	for _, l := range links {
		l.Heal()
	}
	return s.back(nil)
}

func (s *stage) swallowed(ctx context.Context, links []*Proxy, up, down bool) error {
	for _, l := range links {
		l.Blackhole(up, down)
	}
	s.newcomers(ctx)
	return s.wait(ctx, 2*s.opt.TTL)
}

func dial(ctx context.Context, addr string) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, "tcp", addr)
}

// refused shows that nobody gets through links.
func refused(ctx context.Context, links []*Proxy) (string, error) {
	for _, l := range links {
		conn, err := dial(ctx, l.Addr())
		if err == nil {
			_ = conn.SetDeadline(time.Now().Add(time.Second))
			_, err = conn.Read(make([]byte, 1)) // etcd would send its settings
			_ = conn.Close()
		}
		if err == nil {
			return "", fmt.Errorf("the link to etcd works")
		}
	}
	return "new connections are refused", nil
}

// silent shows that nothing comes back over links.
func (s *stage) silent(ctx context.Context, links []*Proxy) (string, error) {
	took, err := s.ask(ctx, links[0], 2*time.Second)
	if err == nil {
		return "", fmt.Errorf("etcd answered over the link in %v", took)
	}
	return "a read over the link got no answer in 2 s", nil
}

// slow shows how long a question over the link takes.
func (s *stage) slow(ctx context.Context) (string, error) {
	took, err := s.ask(ctx, s.clientLinks[0], stepTimeout)
	if err == nil && took < 2*lag {
		err = fmt.Errorf("etcd answered over the link in %v", took)
	}
	return fmt.Sprintf("a read over the link took %v", took.Round(time.Millisecond)), err
}

// ask reads over a link.
func (s *stage) ask(ctx context.Context, link *Proxy, limit time.Duration) (time.Duration, error) {
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{link.Addr()}, Logger: zap.NewNop()})
	if err != nil {
		return 0, err
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	began := time.Now()
	_, err = c.Get(ctx, "x")
	return time.Since(began), err
}
