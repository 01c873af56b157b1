package main

import (
	"context"
	"net/http"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/newsvc/newsvc/framework/apptest"
	userv1 "github.com/newsvc/newsvc/proto/user/v1"
)

// moody is a user-service that does what the test says.
type moody struct {
	userv1.UnimplementedUserServiceServer
	get func(ctx context.Context) error
}

func (m *moody) GetUser(ctx context.Context, req *userv1.GetUserRequest) (*userv1.GetUserResponse, error) {
	if err := m.get(ctx); err != nil {
		return nil, err
	}
	return &userv1.GetUserResponse{User: &userv1.User{Id: req.GetId()}}, nil
}

// startWith runs the gateway before a user-service of so many instances that does what get says.
func startWith(t *testing.T, instances int, get func(context.Context) error) *apptest.Apps {
	t.Helper()
	return apptest.Start(t, apptest.WithTraces(),
		apptest.Fake("user-service", func(r grpc.ServiceRegistrar) {
			userv1.RegisterUserServiceServer(r, &moody{get: get})
		}).Replicas(instances),
		apptest.Service("gateway", edge()...).Set("clients.user-service.timeout", "2s"),
	)
}

func well(context.Context) error { return nil }

func TestAUserThatIsNotThereIsNoFaultOfTheGateway(t *testing.T) {
	t.Parallel()
	apps := startWith(t, 1, func(context.Context) error { return status.Error(codes.NotFound, "no such user") })
	if code, body := send(t, "GET", apps.HTTP("gateway")+"/v1/users/1", ""); code != http.StatusNotFound {
		t.Errorf("status %d, %s; want 404", code, body)
	}
	if n := apps.Metric("gateway", "grpc_client_call_duration_seconds_count", "callee", "user-service", "grpc_status", "NOT_FOUND"); n != 1 {
		t.Errorf("%v calls answered NOT_FOUND, want 1", n)
	}
	if trouble := apps.Logs("gateway").Level("error"); len(trouble) > 0 {
		t.Errorf("logged as an error: %v", trouble)
	}
}

func TestASlowUserServiceIsATimeoutWithinItsLimit(t *testing.T) {
	t.Parallel()
	apps := startWith(t, 1, func(ctx context.Context) error {
		<-ctx.Done()
		return context.Cause(ctx)
	})
	apps.Set("gateway", "clients.user-service.timeout", "20ms")
	if code, body := send(t, "GET", apps.HTTP("gateway")+"/v1/users/1", ""); code != http.StatusGatewayTimeout {
		t.Errorf("status %d, %s; want 504", code, body)
	}
}

func TestARequestIsOneTrace(t *testing.T) {
	t.Parallel()
	apps := startWith(t, 1, well)
	send(t, "GET", apps.HTTP("gateway")+"/v1/users/1", "")
	calls, handled := apps.Spans("gateway"), apps.Spans("user-service")
	if len(calls) != 1 || len(handled) != 1 || handled[0].TraceID != calls[0].TraceID || handled[0].Parent != calls[0].ID {
		t.Errorf("spans %+v and %+v; want a call and its handling", calls, handled)
	}
}

func TestNoRequestFailsWhenAnInstanceIsKilled(t *testing.T) {
	t.Parallel()
	apps := startWith(t, 3, well)
	for n := range 20 {
		if n == 5 {
			apps.Instances("user-service")[0].Kill()
		}
		if code, body := send(t, "GET", apps.HTTP("gateway")+"/v1/users/1", ""); code != http.StatusOK {
			t.Errorf("request %d: status %d, %s; want 200", n, code, body)
		}
	}
}

func TestALateAnswerIsAskedForElsewhereAndCountsAsOneCall(t *testing.T) {
	t.Parallel()
	instances := 0
	apps := apptest.Start(t, apptest.WithTraces(),
		apptest.Fake("user-service", func(r grpc.ServiceRegistrar) {
			get := well
			if instances++; instances == 1 {
				get = func(ctx context.Context) error {
					<-ctx.Done()
					return context.Cause(ctx)
				}
			}
			userv1.RegisterUserServiceServer(r, &moody{get: get})
		}).Replicas(2),
		apptest.Service("gateway", edge()...).Set("clients.user-service.hedging.delay", "10ms").Set("clients.user-service.min_instances", "2"),
	)
	const requests = 6
	for range requests {
		if code, body := send(t, "GET", apps.HTTP("gateway")+"/v1/users/1", ""); code != http.StatusOK {
			t.Errorf("status %d, %s; want 200", code, body)
		}
	}
	if n := apps.Metric("gateway", "grpc_client_call_duration_seconds_count", "callee", "user-service"); n != requests {
		t.Errorf("the gateway counts %v calls, want %d", n, requests)
	}
	if n := apps.Metric("gateway", "newsvc_client_hedges_total", "outcome", "won"); n == 0 {
		t.Error("no hedge has won")
	}
	if calls := apps.Spans("gateway"); len(calls) != requests {
		t.Errorf("%d spans, want %d: %+v", len(calls), requests, calls)
	}
}

// bound is what a test of a service with its fakes may take.
const bound = 100 * time.Millisecond

func TestAServiceWithItsFakesIsStartedCalledAndStoppedInMilliseconds(t *testing.T) {
	// Not in parallel: it looks at the time. On a machine that has much else to do one round of many is quick enough.
	var took []time.Duration
	for range 50 {
		began := time.Now()
		t.Run("round", func(t *testing.T) {
			apps := startWith(t, 1, well)
			if _, err := userv1.NewUserServiceClient(apps.Conn("user-service")).GetUser(t.Context(), &userv1.GetUserRequest{Id: "1"}); err != nil {
				t.Error(err)
			}
			if code, body := send(t, "GET", apps.HTTP("gateway")+"/v1/users/1", ""); code != http.StatusOK {
				t.Errorf("status %d, %s; want 200", code, body)
			}
		})
		took = append(took, time.Since(began).Round(100*time.Microsecond))
		if took[len(took)-1] < bound && len(took) >= 3 {
			t.Logf("two services and two calls: %v", took)
			return
		}
	}
	t.Errorf("two services and two calls took %v, never less than %v", took, bound)
}
