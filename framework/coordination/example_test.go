package coordination_test

import (
	"context"
	"database/sql"
	"errors"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/newsvc/newsvc/framework/app"
	"github.com/newsvc/newsvc/framework/coordination"
	"github.com/newsvc/newsvc/framework/internal/backoff"
	"github.com/newsvc/newsvc/framework/stack"
)

// Nightly is domain code: it knows neither the framework nor etcd.
type Nightly struct{ db *sql.DB }

func NewNightly() *Nightly { return &Nightly{} }

var errStale = errors.New("another instance does this by now")

// Lead writes reports for as long as this instance is the one that does.
func (n *Nightly) Lead(ctx context.Context, token int64) error {
	for ctx.Err() == nil {
		if err := n.report(ctx, token); err != nil && !errors.Is(err, errStale) {
			return err
		}
		_ = backoff.Sleep(ctx, time.Hour)
	}
	return nil
}

// report writes under its token: the database refuses a token that is lower than one that it has seen.
func (n *Nightly) report(ctx context.Context, token int64) error {
	r, err := n.db.ExecContext(ctx, `UPDATE reports SET total = (SELECT sum(amount) FROM orders), token = $1 WHERE token <= $1`, token)
	if err != nil {
		return err
	}
	if changed, err := r.RowsAffected(); err != nil || changed == 0 {
		return errors.Join(err, errStale)
	}
	return nil
}

func nightlyLeader(s *stack.Stack, n *Nightly) (*stack.Leader, error) {
	return s.Leader("nightly", n.Lead)
}

// slowLeader lets the work lie idle for a minute rather than give it up in a long outage of etcd.
func slowLeader(s *stack.Stack, n *Nightly) (*stack.Leader, error) {
	return s.Leader("nightly", n.Lead, func(o *coordination.Options) { o.TTL = time.Minute })
}

// Example is a service of which one instance at a time writes reports. It is compiled and not run.
func Example() {
	app.Run("report-service",
		app.Provide(NewNightly),
		app.Worker("nightly", nightlyLeader),
	)
	_ = slowLeader
}

// ExampleCoordinator_Lock imports something once, without the rest of the framework. It is compiled and not run.
func ExampleCoordinator_Lock() {
	importOnce := func(ctx context.Context, cli *clientv3.Client) error {
		c, err := coordination.New(cli, coordination.Options{})
		if err != nil {
			return err
		}
		hold, err := c.Lock(ctx, "import")
		if err != nil {
			return err
		}
		defer hold.Release()
		return importAll(hold.Context(), hold)
	}
	_ = importOnce
}

func importAll(ctx context.Context, hold *coordination.Hold) error {
	_, err := hold.Commit(ctx, clientv3.OpPut("/imports/last", time.Now().Format(time.RFC3339)))
	return err // coordination.ErrLost: somebody else holds the lock by now, and nothing was written
}
