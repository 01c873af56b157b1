package client

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc"
	grpcbalancer "google.golang.org/grpc/balancer"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/newsvc/newsvc/framework/client/internal/balancer"
)

// askTimeout is how long an instance may take to say how it is, and askTimes how often it is asked until it is quick
// enough: who is slow is slow each time.
const (
	askTimeout = time.Second
	askTimes   = 3
)

// well asks an ejected instance how it is, and another one right before it: what that takes is what is usual at present,
// for this caller and on this way. other may be nil. The error says why it is not let in.
func (e *ejector) well(ctx context.Context, i, other *balancer.Instance) error {
	p := e.policy.Load()
	usual := askTimeout
	if other != nil {
		if took, err := ask(ctx, other, p.health); err == nil {
			usual = max(0, took-e.way(other))
		}
	}
	most := e.way(i) + max(time.Duration(float64(usual)*p.SlowFactor), usual+p.SlowMargin)
	var took time.Duration
	for range askTimes {
		var err error
		if took, err = ask(ctx, i, p.health); err != nil || p.SlowFactor == 0 || took <= most {
			return err
		}
	}
	return fmt.Errorf("its health service took %v, and more than %v is too slow beside the others",
		took.Round(time.Microsecond), most.Round(time.Microsecond))
}

var (
	errNotConnected = errors.New("it is not connected")
	errNoSession    = errors.New("its connection takes no calls")
)

// ask calls the health service of an instance over its own connection. Servers that have none, or want to know first who
// is asking, are alive too. Where serving is not demanded any answer does.
func ask(ctx context.Context, i *balancer.Instance, serving bool) (took time.Duration, failure error) {
	conn := i.Conn()
	if conn == nil {
		return 0, errNotConnected
	}
	way, done := conn.GetOrBuildProducer(wayTo{})
	defer done()
	cc, ok := way.(grpc.ClientConnInterface)
	if !ok {
		return 0, errNoSession
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	began := time.Now()
	answer := &healthpb.HealthCheckResponse{}
	err := cc.Invoke(ctx, healthpb.Health_Check_FullMethodName, &healthpb.HealthCheckRequest{}, answer)
	took = time.Since(began)
	switch status.Code(err) { //nolint:exhaustive // the rest are answers
	case codes.OK:
		if s := answer.GetStatus(); serving && s != healthpb.HealthCheckResponse_SERVING {
			return took, fmt.Errorf("its health service says %v", s)
		}
	case codes.DeadlineExceeded:
		return took, fmt.Errorf("its health service did not answer within %v", askTimeout)
	case codes.Unavailable, codes.Canceled, codes.Internal, codes.Unknown:
		return took, fmt.Errorf("its health service fails: %v: %s", status.Code(err), status.Convert(err).Message())
	}
	return took, nil
}

// wayTo is how gRPC hands out a single connection to call on.
type wayTo struct{}

// Build implements [grpcbalancer.ProducerBuilder].
func (wayTo) Build(cc any) (grpcbalancer.Producer, func()) { return cc, func() {} }
