package apptest_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/newsvc/newsvc/framework/apptest"
)

// holder keeps calls until the test lets go of them.
type holder struct {
	testpb.UnimplementedTestServiceServer
	held chan struct{} // told of each call
}

func (h *holder) UnaryCall(context.Context, *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
	return &testpb.SimpleResponse{}, nil
}

func (h *holder) FullDuplexCall(stream testpb.TestService_FullDuplexCallServer) error {
	h.held <- struct{}{}
	<-stream.Context().Done()
	return context.Cause(stream.Context())
}

// three starts three instances.
func three(t *testing.T) (*apptest.Apps, chan struct{}) {
	t.Helper()
	held := make(chan struct{}, 3)
	return apptest.Start(t, apptest.Fake("many-service", func(r grpc.ServiceRegistrar) {
		testpb.RegisterTestServiceServer(r, &holder{held: held})
	}).Replicas(3)), held
}

// whoAnswers makes calls and returns the addresses that answered, with how often.
func whoAnswers(t *testing.T, apps *apptest.Apps, calls int) map[string]int {
	t.Helper()
	client, by := testpb.NewTestServiceClient(apps.Conn("many-service")), map[string]int{}
	for range calls {
		var header metadata.MD
		if _, err := client.UnaryCall(t.Context(), &testpb.SimpleRequest{}, grpc.Header(&header)); err != nil {
			t.Fatalf("a call failed: %v", err)
		}
		by[strings.Join(header.Get("newsvc-instance"), "")]++
	}
	return by
}

func TestCallsAreSpreadOverReplicasFromTheFirstOn(t *testing.T) {
	t.Parallel()
	apps, _ := three(t)
	by := whoAnswers(t, apps, 6)
	for _, i := range apps.Instances("many-service") {
		if by[i.Addr()] != 2 {
			t.Errorf("%q answered %d of 6 calls, want 2 (%v)", i.Addr(), by[i.Addr()], by)
		}
	}
	if len(by) != 3 {
		t.Errorf("answered by %v", by)
	}
}

func TestAKilledInstanceBreaksItsCallsAndStaysInTheRegistry(t *testing.T) {
	t.Parallel()
	apps, held := three(t)
	client := testpb.NewTestServiceClient(apps.Conn("many-service"))
	var streams []testpb.TestService_FullDuplexCallClient
	for range 3 {
		s, err := client.FullDuplexCall(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		streams = append(streams, s)
		<-held
	}
	victim := apps.Instances("many-service")[1]
	victim.Kill()
	victim.Kill() // the dead stay dead
	ended := make(chan error, 3)
	var receivers sync.WaitGroup
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for _, s := range streams {
		receivers.Go(func() {
			_, err := s.Recv()
			select {
			case ended <- err:
			case <-ctx.Done():
			}
		})
	}
	if err := <-ended; status.Code(err) != codes.Unavailable {
		t.Errorf("a call to the killed instance ended with %v, want UNAVAILABLE", err)
	}
	if n := len(apps.Registered("many-service")); n != 3 {
		t.Errorf("%d instances are registered, want 3: the lease still runs", n)
	}
	if by := whoAnswers(t, apps, 6); len(by) != 2 || by[victim.Addr()] != 0 {
		t.Errorf("answered by %v, want the two that live", by)
	}
	victim.Expire()
	if n := len(apps.Registered("many-service")); n != 2 {
		t.Errorf("%d instances are registered after the lease, want 2", n)
	}
	for _, i := range apps.Instances("many-service") {
		i.Kill()
	}
	receivers.Wait()
}

func TestAHiddenInstanceIsGoneFromTheRegistryAndNoCallFails(t *testing.T) {
	t.Parallel()
	apps, _ := three(t)
	hidden := apps.Instances("many-service")[0]
	hidden.Hide()
	hidden.Hide()
	if got := apps.Registered("many-service"); len(got) != 2 {
		t.Errorf("registered: %v", got)
	}
	whoAnswers(t, apps, 10)
	hidden.Show()
	hidden.Show()
	if got := apps.Registered("many-service"); len(got) != 3 {
		t.Errorf("registered after Show: %v", got)
	}
	whoAnswers(t, apps, 10)
	hidden.Stop()
	if got := apps.Registered("many-service"); len(got) != 2 {
		t.Errorf("registered after Stop: %v", got)
	}
}

func TestAStoppedInstanceLeavesAndNoCallFails(t *testing.T) {
	t.Parallel()
	apps, _ := three(t)
	whoAnswers(t, apps, 3)
	gone := apps.Instances("many-service")[2]
	gone.Stop()
	if by := whoAnswers(t, apps, 6); by[gone.Addr()] != 0 {
		t.Errorf("answered by %v", by)
	}
	apps.Instances("many-service")[1].Stop()
	whoAnswers(t, apps, 6)
	if lost := apps.Logs(apptest.Caller).Message("vanished"); len(lost) > 0 {
		t.Errorf("leaves were taken for losses: %v", lost)
	}
	if got := apps.Registered("many-service"); len(got) != 1 {
		t.Errorf("registered: %v", got)
	}
}

func TestARollingUpdateLosesNoCall(t *testing.T) {
	t.Parallel()
	apps, _ := three(t)
	client := testpb.NewTestServiceClient(apps.Conn("many-service"))
	ctx, stop := context.WithCancel(t.Context())
	calls := 0
	var caller sync.WaitGroup
	caller.Go(func() {
		for ctx.Err() == nil {
			if _, err := client.UnaryCall(context.WithoutCancel(ctx), &testpb.SimpleRequest{}); err != nil {
				t.Errorf("a call failed: %v", err)
			}
			calls++
		}
	})
	for _, old := range apps.Instances("many-service") {
		if young := apps.Add("many-service"); young.Addr() == old.Addr() {
			t.Errorf("two instances have the address %q", old.Addr())
		}
		old.Stop()
	}
	stop()
	caller.Wait()
	if got := apps.Registered("many-service"); len(got) != 3 || len(apps.Instances("many-service")) != 6 {
		t.Errorf("registered: %v of %d", got, len(apps.Instances("many-service")))
	}
	t.Logf("%d calls", calls)
}

func TestAKilledServiceIsReportedAsGone(t *testing.T) {
	t.Parallel()
	apps := apptest.Start(t, fake("last-service"), relayService().Set("clients.last-service.wait_for_ready", "false"))
	askService(t, apps, "relay-service")
	apps.Instances("last-service")[0].Kill()
	_, err := testpb.NewTestServiceClient(apps.Conn("relay-service")).UnaryCall(t.Context(), &testpb.SimpleRequest{})
	if status.Code(err) != codes.Unavailable {
		t.Errorf("err = %v, want UNAVAILABLE", err)
	}
	if errors.Is(err, io.EOF) {
		t.Errorf("err = %v", err)
	}
}

func TestMistakesInTestsNameTheRemedy(t *testing.T) {
	t.Parallel()
	apps := apptest.Start(t, fake("last-service"), apptest.Service("worker"))
	etcd := apptest.Start(t, apptest.WithEtcd(), fake("last-service"))
	for want, mistake := range map[string]func(a, e *apptest.Apps){
		`service "lost-service" was not started, only ["apptest" "last-service" "worker"]; start it with Service or Fake`: func(a, _ *apptest.Apps) { a.Stop("lost-service") },
		"give it an app.HTTP":                         func(a, _ *apptest.Apps) { a.HTTP("last-service") },
		"give Start the option WithTraces()":          func(a, _ *apptest.Apps) { a.Spans("last-service") },
		"give it an app.Serve":                        func(a, _ *apptest.Apps) { a.Instances("worker")[0].Kill() },
		"use Kill first, or Hide":                     func(a, _ *apptest.Apps) { a.Instances("last-service")[0].Expire() },
		"leave WithEtcd out, or use Stop":             func(_, e *apptest.Apps) { e.Instances("last-service")[0].Kill() },
		`no metric "nonsense", only ["`:               func(a, _ *apptest.Apps) { a.Metric("worker", "nonsense") },
		`there is no label "colour"; write one of ["`: func(a, _ *apptest.Apps) { a.Metric("worker", "newsvc_build_info", "colour", "red") },
		"write names and values in turn":              func(a, _ *apptest.Apps) { a.Metric("worker", "newsvc_build_info", "colour") },
	} {
		if got := recorded(t, func(tb testing.TB) { mistake(apps.With(tb), etcd.With(tb)) }); !strings.Contains(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	for want, opts := range map[string][]apptest.Option{
		"with Replicas(2) for two instances": {fake("last-service"), fake("last-service")},
		"write 1 or more":                    {apptest.Service("worker").Replicas(0)},
		"use another name":                   {apptest.Service(apptest.Caller)},
	} {
		if got := fails(t, opts...); !strings.Contains(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
