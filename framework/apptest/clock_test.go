package apptest_test

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"

	"github.com/newsvc/newsvc/framework/apptest"
)

// silent never answers.
type silent struct {
	testpb.UnimplementedTestServiceServer
	asked atomic.Int64 // the time that its last caller gave it, in nanoseconds
}

func (s *silent) UnaryCall(ctx context.Context, _ *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
	deadline, _ := ctx.Deadline()
	s.asked.Store(int64(time.Until(deadline)))
	<-ctx.Done()
	return nil, context.Cause(ctx)
}

func TestATimeoutOfFiveSecondsFiresAtOnceInABubble(t *testing.T) {
	t.Parallel()
	began := time.Now() // outside, where time is real
	synctest.Test(t, func(t *testing.T) {
		callee := &silent{}
		apps := apptest.Start(t,
			apptest.Fake("last-service", func(r grpc.ServiceRegistrar) { testpb.RegisterTestServiceServer(r, callee) }),
			relayService().Set("clients.last-service.timeout", "2s"))

		for service, limit := range map[string]time.Duration{
			"last-service":  5 * time.Second, // the default, of the test itself
			"relay-service": 2 * time.Second, // what the relay is told to give its callee
		} {
			before := time.Now()
			_, err := testpb.NewTestServiceClient(apps.Conn(service)).UnaryCall(t.Context(), &testpb.SimpleRequest{})
			if took := time.Since(before); took != limit {
				t.Errorf("%s: the call took %v of the bubble's time, want exactly %v", service, took, limit)
			}
			if status.Code(err) != codes.DeadlineExceeded || !strings.Contains(err.Error(), `no answer from "last-service" within `+limit.String()) {
				t.Errorf("%s: err = %v; want the limit that fired", service, err)
			}
			if asked := time.Duration(callee.asked.Load()); asked <= limit-time.Second || asked > limit {
				t.Errorf("%s: the callee was given %v, want %v", service, asked, limit)
			}
		}
	})
	t.Logf("7 s of timeouts took %v", time.Since(began))
}
