package server_test

import (
	"context"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/newsvc/newsvc/framework/client"
	"github.com/newsvc/newsvc/framework/server"
)

// caller is a connection as a service of ours has it, to some instances.
func caller(t *testing.T, change func(*client.Policy), instances ...*server.Server) *client.Conn {
	t.Helper()
	r := manual.NewBuilderWithScheme("etcd")
	var state resolver.State
	for _, s := range instances {
		state.Endpoints = append(state.Endpoints, resolver.Endpoint{Addresses: []resolver.Address{{Addr: s.Addr()}}})
	}
	r.InitialState(state)
	policy := client.DefaultPolicy()
	policy.HealthCheck = false
	if change != nil {
		change(&policy)
	}
	f, err := client.NewFactory(client.Params{Caller: "tester", Resolver: r, Default: policy})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := f.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	conn, err := f.Conn("echo-service")
	if err != nil {
		t.Fatal(err)
	}
	conn.Connect()
	return conn
}

func TestWhatOneInstanceRefusesAnotherAnswers(t *testing.T) {
	t.Parallel()
	full := params()
	full.Config.RateLimits = map[string]server.RateLimit{"*": {Rate: slowly, Burst: 1}}
	a, b := start(t, full, &echo{}), start(t, params(), &echo{})
	conn := caller(t, nil, a, b)
	for range 60 { // half of them come to the one that is full
		if err := conn.Invoke(t.Context(), unaryMethod, wrapperspb.String("x"), new(wrapperspb.StringValue)); err != nil {
			t.Fatalf("a call failed although another instance takes them: %v", err)
		}
	}
	for _, r := range a.Refusals() {
		if r.Method == unaryMethod && r.Limited == 0 {
			t.Error("no call was refused: the test shows nothing")
		}
	}
}

func TestWhenEverybodyRefusesCallersDoNotHammer(t *testing.T) {
	t.Parallel()
	full := params()
	full.Config.RateLimits = map[string]server.RateLimit{"*": {Rate: slowly, Burst: 1}}
	s := start(t, full, &echo{})
	conn := caller(t, func(p *client.Policy) {
		p.NotProcessed.BudgetTokens, p.NotProcessed.BudgetRatio = 5, 0.1
		p.Timeout = 20 * time.Second
	}, s)
	const calls = 50
	failed := make(chan error, calls)
	for range calls {
		go func() {
			failed <- conn.Invoke(t.Context(), unaryMethod, wrapperspb.String("x"), new(wrapperspb.StringValue))
		}()
	}
	for range calls {
		if err := <-failed; err != nil && status.Code(err) != codes.Unavailable {
			t.Errorf("a call failed with %v", err)
		}
	}
	for _, r := range s.Refusals() {
		// The budget: five at once, and a tenth of what is called.
		if most := int64(calls + 5 + calls/10); r.Method == unaryMethod && (r.Limited < calls-1 || r.Limited > most) {
			t.Errorf("%d calls came to %d refusals, want at most %d", calls, r.Limited, most)
		}
	}
}

func TestCallsThatAnOverloadedInstanceShedsAreAnsweredByAnother(t *testing.T) {
	if testing.Short() {
		t.Skip("takes several seconds")
	}
	for round := 1; ; round++ { // not in parallel, as the other tests that measure
		small, _ := busyServer(t, nil)
		large := start(t, params(), &echo{})
		conn := caller(t, func(p *client.Policy) { p.NotProcessed.BudgetTokens = 1000 }, small, large)
		l := offer(t, conn, 3.5*capacity, 3*time.Second) // half of it comes to the small one first
		var shed int64
		for _, r := range small.Refusals() {
			shed += r.Shed
		}
		t.Logf("%d calls, %d shed by one instance, %d answered", len(l), shed, l.count(good))
		if shed > 0 && l.count(good) >= len(l)*99/100 {
			return
		}
		if round == rounds {
			t.Fatal("none of the rounds was as it should be")
		}
	}
}
