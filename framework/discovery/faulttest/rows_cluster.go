package faulttest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// reconnected is how long callers that were kept from the other members get to connect to them.
const reconnected = 4 * time.Second

// clusterRows are faults of one of three members.
func clusterRows() []Row {
	return []Row{
		{
			ID: "member-down-at-start", Covers: []string{"A1", "B1"}, Members: 3, Limit: limitUsual, From: "the start of the newcomer",
			Fault: "one of three members is down; a server and another caller start",
			inject: func(s *stage, ctx context.Context) error {
				if err := s.cluster.Member(0).Kill(ctx); err != nil {
					return err
				}
				if err := s.wait(ctx, 3*time.Second); err != nil { // an election, perhaps
					return err
				}
				s.healed = time.Now()
				s.each(func(d *side) error { return s.startClient(ctx, d, "") })
				s.newcomers(ctx)
				return nil
			},
			proof: (*stage).away,
		},
		{
			ID: "leader-killed", Covers: []string{"A4", "A7"}, Members: 3, Limit: limitUsual, orderly: true, From: "the election of another leader",
			Fault: "the leader of three members is killed; a server starts, another one leaves",
			inject: func(s *stage, ctx context.Context) error {
				return s.behead(ctx, (*Member).Kill)
			},
			proof: (*stage).beheaded,
		},
		{
			ID: "leader-frozen", Covers: []string{"A7", "A8"}, Members: 3, Limit: limitUsual,
			Fault: "the leader of three members stands still for 2 TTL (SIGSTOP); a server starts, another one leaves",
			inject: func(s *stage, ctx context.Context) error {
				if err := s.behead(ctx, (*Member).Freeze); err != nil {
					return err
				}
				return s.wait(ctx, 2*s.opt.TTL)
			},
			proof: (*stage).beheaded,
			heal: func(s *stage, _ context.Context) error {
				return s.back(s.cluster.Member(int(s.notes["leader"])).Thaw())
			},
		},
		{
			ID: "member-isolated", Covers: []string{"B7"}, Members: 3, Limit: 6 * time.Second, From: "the newcomer's key in etcd",
			links: links{clients: true, pinned: true},
			Fault: "the member that callers are connected to loses touch with the other two, and stays so; a server starts, another one leaves",
			inject: func(s *stage, ctx context.Context) error {
				s.cluster.Member(0).Isolate()
				return s.announced(ctx)
			},
			proof: (*stage).leaderless,
		},
		{
			ID: "member-blackholed", Covers: []string{"A9", "B8"}, Members: 3, Limit: limitSilent, From: "the newcomer's key in etcd",
			links: links{clients: true, servers: true, pinned: true},
			Fault: "the links to the member that callers and servers are connected to swallow everything, without a reset, and stay so; a server starts, another one leaves",
			inject: func(s *stage, ctx context.Context) error {
				s.clientLinks[0].Blackhole(true, true)
				s.serverLinks[0].Blackhole(true, true)
				return s.announced(ctx)
			},
			proof: func(s *stage, ctx context.Context) (string, error) { return s.silent(ctx, s.clientLinks[:1]) },
		},
	}
}

// behead takes the leader away, changes the set, and waits for another leader.
func (s *stage) behead(ctx context.Context, away func(*Member, context.Context) error) error {
	old, err := s.cluster.Leader(ctx)
	if err != nil {
		return err
	}
	s.notes["leader"] = int64(old)
	if err := away(s.cluster.Member(old), ctx); err != nil {
		return err
	}
	err = s.soon(ctx, func() bool {
		now, err := s.leader(ctx)
		s.notes["next"] = int64(now)
		return err == nil && now != old
	})
	s.healed = time.Now()
	s.newcomers(ctx)
	s.leavers(ctx)
	return err
}

// leader asks with little patience: a member that is away does not answer.
func (s *stage) leader(ctx context.Context) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	return s.cluster.Leader(ctx)
}

func (s *stage) beheaded(context.Context) (string, error) {
	old, next := s.notes["leader"], s.notes["next"]
	if old == next {
		return "", errors.New("there is no other leader")
	}
	if m := s.cluster.Member(int(old)); m.Running() {
		state, err := stopped(m.PID())
		return fmt.Sprintf("etcd's process is in state %s; member %d leads in place of %d", state, next, old), err
	}
	return fmt.Sprintf("member %d leads in place of %d, whose process is gone", next, old), nil
}

// announced starts a server of each adapter and waits until it is in etcd; then another one leaves.
func (s *stage) announced(ctx context.Context) error {
	s.newcomers(ctx)
	s.each(func(d *side) error {
		_ = s.soon(ctx, func() bool { return s.announcedBy(ctx, d) }) // the verdict says what is missing
		d.healed = time.Now()
		return nil
	})
	s.healed = time.Now()
	s.leavers(ctx)
	return nil
}

// announcedBy tells whether a side's newcomers are in etcd.
func (s *stage) announcedBy(ctx context.Context, d *side) bool {
	prefix := d.adapter.Keys(d.service)
	keys, err := s.keys(ctx, prefix)
	return err == nil && !slices.ContainsFunc(d.fresh, func(p *ServerProc) bool { return !keys[prefix+p.Addr()] })
}

// leaderless shows that a member knows of no leader.
func (s *stage) leaderless(ctx context.Context) (string, error) {
	err := s.soon(ctx, func() bool {
		none, err := s.cluster.Member(0).Leaderless(ctx)
		return err == nil && none
	})
	return "the member says that it has no leader", err
}
