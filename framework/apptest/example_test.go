package apptest_test

import (
	"context"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/fx"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"

	"github.com/newsvc/newsvc/framework/app"
	"github.com/newsvc/newsvc/framework/apptest"
)

// service is what main hands to app.Run.
func service() []fx.Option {
	return []fx.Option{
		app.Client("mail-service", testpb.NewTestServiceClient),
		app.Serve(testpb.RegisterTestServiceServer, newRelay),
	}
}

// mail is a mail-service made of test code.
type mail struct {
	testpb.UnimplementedTestServiceServer
	err error
}

func (m *mail) UnaryCall(context.Context, *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
	return &testpb.SimpleResponse{}, m.err
}

func mails(m *mail) func(grpc.ServiceRegistrar) {
	return func(r grpc.ServiceRegistrar) { testpb.RegisterTestServiceServer(r, m) }
}

// A service with the fake of what it calls.
func ExampleStart() {
	_ = func(t *testing.T) {
		apps := apptest.Start(t,
			apptest.Fake("mail-service", mails(&mail{err: status.Error(codes.ResourceExhausted, "mailbox full")})),
			apptest.Service("user-service", service()...).Set("clients.mail-service.timeout", "1s"),
		)
		users := testpb.NewTestServiceClient(apps.Conn("user-service"))
		if _, err := users.UnaryCall(t.Context(), &testpb.SimpleRequest{}); status.Code(err) != codes.ResourceExhausted {
			t.Errorf("err = %v", err)
		}
	}
}

// What a service logged, counted and traced.
func ExampleApps_Logs() {
	_ = func(t *testing.T) {
		apps := apptest.Start(t, apptest.WithTraces(),
			apptest.Fake("mail-service", mails(&mail{})), apptest.Service("user-service", service()...))
		if _, err := testpb.NewTestServiceClient(apps.Conn("user-service")).UnaryCall(t.Context(), &testpb.SimpleRequest{}); err != nil {
			t.Fatal(err)
		}
		if trouble := apps.Logs("user-service").Level("error"); len(trouble) > 0 {
			t.Errorf("logged: %v", trouble)
		}
		if n := apps.Metric("mail-service", "grpc_server_call_duration_seconds_count", "grpc_status", "OK"); n != 1 {
			t.Errorf("%v calls, want 1", n)
		}
		handled, called := apps.Spans("user-service"), apps.Spans("mail-service")
		if len(handled) != 2 || len(called) != 1 || called[0].TraceID != handled[0].TraceID {
			t.Errorf("spans %+v, %+v", handled, called)
		}
	}
}

// What happens to instances in production.
func ExampleInstance_Kill() {
	_ = func(t *testing.T) {
		apps := apptest.Start(t,
			apptest.Fake("mail-service", mails(&mail{})).Replicas(3), apptest.Service("user-service", service()...))
		mail := apps.Instances("mail-service")
		mail[0].Kill()   // as kill -9: connections break, the registry still lists it
		mail[0].Expire() // its lease runs out
		mail[1].Hide()   // it lives, and the registry has lost it
		mail[1].Show()
		mail[2].Stop() // as SIGTERM: it drains
		if got := apps.Registered("mail-service"); len(got) != 1 {
			t.Errorf("registered: %v", got)
		}
	}
}

// Time that is virtual: an hour takes some milliseconds.
func Example_clock() {
	_ = func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			apps := apptest.Start(t, apptest.Fake("mail-service", mails(&mail{})), apptest.Service("user-service", service()...))
			users := testpb.NewTestServiceClient(apps.Conn("user-service"))
			<-time.NewTimer(time.Hour).C
			if _, err := users.UnaryCall(t.Context(), &testpb.SimpleRequest{}); err != nil {
				t.Errorf("after an hour: %v", err)
			}
		})
	}
}

// An HTTP edge is called by a real socket.
func ExampleApps_HTTP() {
	_ = func(t *testing.T) {
		apps := apptest.Start(t, apptest.Service("edge", app.HTTP(func() http.Handler { return http.NotFoundHandler() })))
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, apps.HTTP("edge")+"/users/1", http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
	}
}

func TestTheExamplesDoWhatTheySay(t *testing.T) {
	t.Parallel()
	apps := apptest.Start(t, apptest.WithTraces(), apptest.Fake("mail-service", mails(&mail{})).Replicas(3), apptest.Service("user-service", service()...))
	users := testpb.NewTestServiceClient(apps.Conn("user-service"))
	if _, err := users.UnaryCall(t.Context(), &testpb.SimpleRequest{}); err != nil {
		t.Fatal(err)
	}
	handled, called := apps.Spans("user-service"), apps.Spans("mail-service")
	if len(handled) != 2 || len(called) != 1 || called[0].TraceID != handled[0].TraceID {
		t.Errorf("spans %+v, %+v", handled, called)
	}
	mail := apps.Instances("mail-service")
	mail[0].Kill()
	mail[0].Expire()
	mail[1].Hide()
	mail[1].Show()
	mail[2].Stop()
	if got := apps.Registered("mail-service"); len(got) != 1 || got[0] != mail[1].Addr() {
		t.Errorf("registered: %v", got)
	}
	if _, err := users.UnaryCall(t.Context(), &testpb.SimpleRequest{}); err != nil {
		t.Error(err)
	}
}

func TestAnHourPassesInABubble(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		apps := apptest.Start(t, apptest.Fake("mail-service", mails(&mail{})), apptest.Service("user-service", service()...))
		users := testpb.NewTestServiceClient(apps.Conn("user-service"))
		<-time.NewTimer(time.Hour).C
		if _, err := users.UnaryCall(t.Context(), &testpb.SimpleRequest{}); err != nil {
			t.Errorf("after an hour: %v", err)
		}
	})
}
