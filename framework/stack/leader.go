package stack

import (
	"context"
	"fmt"

	"github.com/newsvc/newsvc/framework/coordination"
)

// coordinationPrefix is where leaders and locks are kept: beside the instances, which a Source would take them for.
func coordinationPrefix(prefix string) string { return prefix + "-coordination" }

// Coordination leads and locks on the process' etcd client, for all services that share discovery.prefix: its keys lie
// under that prefix with "-coordination" appended. change may set other options, for example a TTL that is not
// [coordination.DefaultTTL]; those who take the same lock may have different ones. The error says why there is no etcd client, or
// which option is wrong. What it holds is counted in the metrics of this process.
func (s *Stack) Coordination(change ...func(*coordination.Options)) (*coordination.Coordinator, error) {
	cli, err := s.NeedEtcd()
	if err != nil {
		return nil, err
	}
	opt := coordination.Options{
		Prefix: coordinationPrefix(s.p.Config.Discovery.Prefix), CallTimeout: s.p.Config.Etcd.CallTimeout,
		Identity: s.p.Service + " " + s.incarnation, Log: s.log.Named("coordination"),
	}
	for _, f := range change {
		f(&opt)
	}
	c, err := coordination.New(cli, opt)
	if err != nil {
		return nil, err
	}
	return c, s.coordination.add(c, s.telemetry.Registerer())
}

// Leader is a task that one instance of the service does at a time. [Stack.Leader] makes it.
type Leader struct {
	s    *Stack
	name string
	lead func(ctx context.Context, token int64) error
	c    *coordination.Coordinator
}

// Leader makes a task of lead, which one instance of this service runs at a time; it is for [Stack.Work], and for
// app.Worker. The token is the fencing token, see [coordination.Hold.Token]. change is as for [Stack.Coordination]. In etcd the
// leadership is called after the service and the name, with a dot in between: another service has others of the same name.
func (s *Stack) Leader(name string, lead func(ctx context.Context, token int64) error, change ...func(*coordination.Options)) (*Leader, error) {
	c, err := s.Coordination(change...)
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
