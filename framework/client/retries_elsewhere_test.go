package client_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/newsvc/newsvc/framework/client"
	"github.com/newsvc/newsvc/framework/internal/loop"
)

// Three of four fail, and many call: without a memory of who failed it a call would often meet none but those in four attempts.
func TestGRPCsOwnRetriesGoToInstancesThatHaveNotFailedTheCallYet(t *testing.T) {
	t.Parallel()
	for _, name := range []string{client.RoundRobin, client.LeastRequest, client.RingHash} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFleet(t)
			f.start(t, 1, "", nil)
			f.start(t, 3, "", func(*server, string, string, grpc.ServerStream) error {
				return status.Error(codes.Unavailable, "lost its database")
			})
			_, c := f.connect(t, 4, func(p *client.Policy) {
				p.Balancer = name
				p.Retry = client.RetryPolicy{
					MaxAttempts: 4, InitialBackoff: time.Millisecond, MaxBackoff: time.Millisecond, Multiplier: 1, BudgetTokens: 1000, BudgetRatio: 1,
				}
				p.Ejection.Consecutive, p.Ejection.ErrorShare = 10_000, 0 // nobody is ejected
			})
			var callers loop.Group
			defer callers.Stop()
			failed := make(chan error, 80)
			for range 8 {
				callers.Start(t.Context(), func(ctx context.Context) {
					for n := range cap(failed) / 8 {
						_, err := call(client.WithHashKey(ctx, fmt.Sprint(n)), c, methodGet)
						failed <- err
					}
				})
			}
			for range cap(failed) {
				if err := <-failed; err != nil {
					t.Errorf("a call that another instance could have answered: %v", err)
				}
			}
		})
	}
}
