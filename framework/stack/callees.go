package stack

import (
	"context"
	"fmt"
	"time"
)

// waitCallee waits until as many instances of a callee take calls as its policy wants, and no longer than it says.
func (s *Stack) waitCallee(ctx context.Context, callee string, began time.Time) error {
	p := s.p.Config.policy(callee)
	if p.MinInstances == 0 {
		return nil
	}
	conn, err := s.clients.Conn(callee)
	if err != nil {
		return err
	}
	if p.StartTimeout > 0 {
		late := fmt.Errorf("start_timeout %v is over", p.StartTimeout)
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadlineCause(ctx, began.Add(p.StartTimeout), late)
		defer cancel()
	}
	if err := conn.WaitInstances(ctx, p.MinInstances); err != nil {
		return fmt.Errorf("clients.%s.min_instances: %w", callee, err)
	}
	return nil
}
