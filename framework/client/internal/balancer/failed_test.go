package balancer_test

import (
	"context"
	"testing"

	grpcbalancer "google.golang.org/grpc/balancer"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/newsvc/newsvc/framework/client/internal/balancer"
)

func TestAttemptsOfOneCallGoToOneInstanceEach(t *testing.T) {
	t.Parallel()
	lost := grpcbalancer.DoneInfo{Err: status.Error(codes.Unavailable, "lost"), BytesSent: true}
	for _, name := range balancer.Rules() {
		w := newWorld(balancer.Config{Rule: name}, &quiet{active: true})
		w.set(addrs(5)...)
		for range 50 {
			ctx, cancel := context.WithCancel(t.Context())
			by := map[string]int{}
			for range 5 {
				// gRPC makes a context for each attempt, below that of the call.
				addr, done, err := w.pick(context.WithValue(ctx, w, "attempt"))
				if err != nil {
					t.Fatal(err)
				}
				done(lost)
				by[addr]++
			}
			cancel()
			if len(by) != 5 {
				t.Fatalf("%s: five attempts of a call went to %v, want one to each", name, by)
			}
		}
		w.policy.Close()
	}
}

func TestFailuresAreForgottenAfterTheEndOfTheirCalls(t *testing.T) {
	t.Parallel()
	w := newWorld(balancer.Config{Rule: balancer.RoundRobin}, &quiet{active: true})
	defer w.policy.Close()
	w.set(addrs(5)...)
	most := int64(0)
	for range 10_000 {
		ctx, cancel := context.WithCancel(t.Context())
		_, done, _ := w.pick(ctx)
		done(grpcbalancer.DoneInfo{Err: status.Error(codes.Unavailable, "lost"), BytesSent: true})
		cancel()
		most = max(most, balancer.Remembered(w.policy))
	}
	if most > 200 {
		t.Errorf("%d calls that had ended were remembered", most)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	w.picks(ctx, 500) // go well
	if n := balancer.Remembered(w.policy); n != 0 {
		t.Errorf("%d calls are remembered though none runs that has failed", n)
	}
}
