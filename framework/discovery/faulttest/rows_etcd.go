package faulttest

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strings"
	"time"
)

// etcdRows are faults of the one etcd process, from outside.
func etcdRows() []Row {
	return []Row{
		{
			ID: "etcd-away-at-server-start", Covers: []string{"A1"}, Members: 1, Limit: limitUsual,
			Fault:  "etcd is killed; a server starts while it is away; etcd starts again on the same data",
			inject: func(s *stage, ctx context.Context) error { return s.killed(ctx, 3*time.Second) },
			proof:  (*stage).away, heal: (*stage).startAgain,
		},
		{
			ID: "etcd-away-at-client-start", Covers: []string{"B1"}, Members: 1, Limit: limitUsual, settled: true,
			Fault:  "etcd is killed; another caller, which knows nothing yet, starts while it is away; etcd starts again. Its calls count once etcd is back, those of the first caller all the time",
			inject: func(s *stage, ctx context.Context) error { return s.callersWithout(ctx, 3*time.Second) },
			proof:  (*stage).away, heal: (*stage).startAgain,
		},
		{
			ID: "etcd-away-at-client-start-cache", Covers: []string{"B1"}, Members: 1, Limit: limitUsual,
			Fault: "etcd is killed; a caller that ran before, and may keep on disk what it knows, starts again while etcd is away, and a server starts; then etcd starts again. All calls count",
			ready: (*stage).callersBefore, inject: (*stage).callersAgain,
			proof: (*stage).away, heal: (*stage).startAgain,
		},
		{
			ID: "etcd-frozen", Covers: []string{"A2", "A10", "B9"}, Members: 1, Limit: limitUsual,
			Fault:  "etcd stands still for 3 TTL (SIGSTOP); a server starts and another one leaves meanwhile",
			inject: (*stage).frozen, proof: (*stage).standsStill, heal: (*stage).thaw,
		},
		{
			ID: "etcd-killed", Covers: []string{"A3", "A20"}, Members: 1, Limit: limitUsual,
			Fault:  "etcd is killed and starts again on the same data after 2 TTL; a server starts meanwhile",
			inject: func(s *stage, ctx context.Context) error { return s.killed(ctx, 2*s.opt.TTL) },
			proof:  (*stage).away, heal: (*stage).startAgain,
		},
		{
			ID: "etcd-wiped", Covers: []string{"B11"}, Members: 1, Limit: limitReset,
			Fault: "etcd is killed and starts again with nothing; a server starts meanwhile",
			ready: (*stage).age, inject: func(s *stage, ctx context.Context) error { return s.killed(ctx, time.Second) },
			heal: func(s *stage, ctx context.Context) error { return s.back(s.cluster.Wipe(ctx)) }, after: (*stage).younger,
		},
		{
			ID: "etcd-restored", Covers: []string{"B10"}, Members: 1, Limit: limitReset,
			Fault: "etcd is killed and starts again with an older copy of its data; one server is younger than the copy, one starts meanwhile, one that is in the copy has left",
			ready: (*stage).backUp, inject: func(s *stage, ctx context.Context) error { return s.killed(ctx, time.Second) },
			heal: func(s *stage, ctx context.Context) error { return s.back(s.cluster.Restore(ctx)) }, after: (*stage).younger,
		},
	}
}

// killed kills etcd, starts a server of each adapter and lets time pass.
func (s *stage) killed(ctx context.Context, d time.Duration) error {
	if err := s.cluster.Member(0).Kill(ctx); err != nil {
		return err
	}
	s.newcomers(ctx)
	return s.wait(ctx, d)
}

func (s *stage) back(err error) error {
	s.healed = time.Now()
	return err
}

func (s *stage) startAgain(ctx context.Context) error {
	if err := s.cluster.Member(0).Start(ctx); err != nil {
		return err
	}
	return s.back(s.cluster.WaitHealthy(ctx))
}

// away shows that etcd is not there.
func (s *stage) away(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	conn, err := dial(ctx, s.cluster.Endpoints()[0])
	if err != nil {
		return "connection refused at etcd's address", nil
	}
	return "", fmt.Errorf("somebody listens at etcd's address: %w", conn.Close())
}

// callersWithout starts a caller of each adapter while etcd is away.
func (s *stage) callersWithout(ctx context.Context, d time.Duration) error {
	if err := s.cluster.Member(0).Kill(ctx); err != nil {
		return err
	}
	s.each(func(d *side) error { return s.startClient(ctx, d, "") })
	return s.wait(ctx, d)
}

// callersBefore replaces the caller of each adapter by one that may write to disk.
func (s *stage) callersBefore(ctx context.Context) error {
	s.each(func(d *side) error {
		dir, err := s.lab.subdir("cache-" + d.adapter.Name)
		if err != nil {
			return err
		}
		d.victim = dir
		if err := s.startClient(ctx, d, dir); err != nil {
			return err
		}
		return s.soon(ctx, func() bool {
			idle, _ := d.unused(ctx, time.Time{})
			return idle == ""
		})
	})
	return s.wait(ctx, time.Second)
}

// callersAgain ends that caller and starts it anew while etcd is away.
func (s *stage) callersAgain(ctx context.Context) error {
	s.each(func(d *side) error {
		_, err := d.clients[1].Stop(ctx)
		d.clients = d.clients[:1]
		return err
	})
	if err := s.cluster.Member(0).Kill(ctx); err != nil {
		return err
	}
	s.each(func(d *side) error { return s.startClient(ctx, d, d.victim) })
	s.newcomers(ctx)
	return s.wait(ctx, 3*time.Second)
}

// frozen stops etcd where it is for 3 TTL.
func (s *stage) frozen(ctx context.Context) error {
	if err := s.cluster.Member(0).Freeze(ctx); err != nil {
		return err
	}
	s.newcomers(ctx)
	s.leavers(ctx)
	return s.wait(ctx, 3*s.opt.TTL)
}

// standsStill shows that etcd's process is stopped.
func (s *stage) standsStill(context.Context) (string, error) {
	state, err := stopped(s.cluster.Member(0).PID())
	return "etcd's process is in state " + state, err
}

func (s *stage) thaw(context.Context) error { return s.back(s.cluster.Member(0).Thaw()) }

// age lets etcd's revision grow, so that a new etcd is behind it for long.
func (s *stage) age(ctx context.Context) error {
	rev, err := s.fill(ctx, "/age/", 300)
	s.notes["revision"] = rev
	return err
}

// backUp copies etcd's data, then changes the set.
func (s *stage) backUp(ctx context.Context) error {
	if err := s.cluster.Backup(ctx); err != nil {
		return err
	}
	s.newcomers(ctx)
	s.leavers(ctx)
	s.each(func(d *side) error {
		return s.soon(ctx, func() bool {
			idle, _ := d.unused(ctx, time.Time{})
			return idle == "" && s.listed(ctx, d) == ""
		})
	})
	return s.age(ctx)
}

// younger shows that etcd's revision went back.
func (s *stage) younger(ctx context.Context) (string, error) {
	rev, err := s.cluster.Revision(ctx)
	if err != nil {
		return "", err
	}
	if before := s.notes["revision"]; rev >= before {
		return "", fmt.Errorf("the revision was %d and is %d", before, rev)
	}
	return fmt.Sprintf("the revision was %d before and is %d after", s.notes["revision"], rev), nil
}

// stopped returns the state of a process that is stopped, as the system says.
func stopped(pid int) (string, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", err
	}
	// The name stands in parentheses and may hold anything.
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	if len(fields) == 0 || fields[0] != "T" {
		return "", fmt.Errorf("process %d is in state %q, not T", pid, fields)
	}
	return fields[0], nil
}
