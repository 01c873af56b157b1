package coordination_test

import (
	"context"
	"testing"
	"time"

	"google.golang.org/grpc/interop"
	testpb "google.golang.org/grpc/interop/grpc_testing"

	"github.com/newsvc/newsvc/framework/app"
	"github.com/newsvc/newsvc/framework/apptest"
	"github.com/newsvc/newsvc/framework/stack"
)

// The main of the guide, in several instances: one of them leads, and another one when that one stops.
func TestOneInstanceOfAServiceLeads(t *testing.T) {
	t.Parallel()
	type term struct {
		by    string // the incarnation
		token int64
	}
	terms, ends := make(chan term, 10), make(chan string, 10)
	apps := apptest.Start(t, apptest.WithEtcd(), apptest.Service("report-service",
		app.Serve(testpb.RegisterTestServiceServer, func() testpb.TestServiceServer { return interop.NewTestServer() }),
		app.Worker("nightly", func(s *stack.Stack) (*stack.Leader, error) {
			return s.Leader("nightly", func(ctx context.Context, token int64) error {
				terms <- term{s.Incarnation(), token}
				<-ctx.Done()
				ends <- s.Incarnation()
				return nil
			})
		}),
	).Replicas(3))
	first := until(t, "a term", terms)
	select {
	case second := <-terms:
		t.Fatalf("%v and %v lead", first, second)
	case <-time.NewTimer(200 * time.Millisecond).C:
	}
	instances := apps.Instances("report-service")
	apps.Add("report-service") // one is left also when the leader is stopped last
	for _, i := range instances {
		i.Stop()
		if len(ends) > 0 {
			break // it was the leader
		}
	}
	if by := until(t, "its end", ends); by != first.by {
		t.Errorf("%s stopped leading, want %s", by, first.by)
	}
	if next := until(t, "the next term", terms); next.by == first.by || next.token <= first.token {
		t.Errorf("%v leads after %v", next, first)
	}
}
