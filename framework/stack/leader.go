package stack

import (
	"context"
	"fmt"

	"github.com/newsvc/newsvc/framework/coordination"
)

// coordinationPrefix is where leaders and locks are kept: beside the instances, which a Source would take them for.
func coordinationPrefix(prefix string) string { return prefix + "-coordination" }

// Coordination leads and locks on the process' etcd client, for all services that share discovery.prefix: its keys lie
// under that prefix with "-coordination" appended. The error says why there is no etcd client.
func (s *Stack) Coordination() (*coordination.Coordinator, error) {
	cli, err := s.NeedEtcd()
	if err != nil {
		return nil, err
	}
	return coordination.New(cli, coordination.Options{
		Prefix: coordinationPrefix(s.p.Config.Discovery.Prefix), CallTimeout: s.p.Config.Etcd.CallTimeout,
		Identity: s.p.Service + " " + s.incarnation, Log: s.log.Named("coordination"),
	})
}

// Leader is a task that one instance of the service does at a time. [Stack.Leader] makes it.
type Leader struct {
	s    *Stack
	name string
	lead func(ctx context.Context, token int64) error
	c    *coordination.Coordinator
}

// Leader makes a task of lead, which one instance of this service runs at a time; it is for [Stack.Work], and for
// app.Worker. The token is the fencing token, see [coordination.Hold.Token].
func (s *Stack) Leader(name string, lead func(ctx context.Context, token int64) error) (*Leader, error) {
	c, err := s.Coordination()
	if err != nil {
		return nil, fmt.Errorf("leader %q: %w", name, err)
	}
	return &Leader{s, name, lead, c}, nil
}

// Run leads whenever it is this instance's turn, until ctx or the service ends, as [coordination.Coordinator.Lead] says.
// It hands over when the stop begins, and not after the drain: another instance goes on while this one still answers.
func (l *Leader) Run(ctx context.Context) error {
	ctx, cancel := l.s.alive(ctx)
	defer cancel()
	return l.c.Lead(ctx, l.s.p.Service+"."+l.name, func(ctx context.Context, h *coordination.Hold) error {
		return l.lead(ctx, h.Token())
	})
}
