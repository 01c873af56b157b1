package apptest_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"go.uber.org/fx"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"

	"github.com/newsvc/newsvc/framework/app"
	"github.com/newsvc/newsvc/framework/apptest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// relay is domain code: a service that asks another one.
type relay struct {
	testpb.UnimplementedTestServiceServer
	next testpb.TestServiceClient
}

func newRelay(next testpb.TestServiceClient) *relay { return &relay{next: next} }

func (r *relay) UnaryCall(ctx context.Context, req *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
	return r.next.UnaryCall(ctx, req)
}

// named answers with its name.
type named struct {
	testpb.UnimplementedTestServiceServer
	name string
}

func (n *named) UnaryCall(context.Context, *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
	return &testpb.SimpleResponse{Username: n.name}, nil
}

func fake(service string) apptest.Option {
	return apptest.Fake(service, func(r grpc.ServiceRegistrar) { testpb.RegisterTestServiceServer(r, &named{name: service}) })
}

func relayService(opts ...fx.Option) *apptest.ServiceOption {
	return apptest.Service("relay-service", append(opts,
		app.Client("last-service", testpb.NewTestServiceClient),
		app.Serve(testpb.RegisterTestServiceServer, newRelay))...)
}

func askService(t *testing.T, apps *apptest.Apps, service string) string {
	t.Helper()
	res, err := testpb.NewTestServiceClient(apps.Conn(service)).UnaryCall(t.Context(), &testpb.SimpleRequest{})
	if err != nil {
		t.Fatal(err)
	}
	return res.GetUsername()
}

func TestServicesAndFakesFindEachOtherByName(t *testing.T) {
	t.Parallel()
	apps := apptest.Start(t, fake("last-service"), relayService())
	if got := askService(t, apps, "relay-service"); got != "last-service" {
		t.Errorf("answered by %q", got)
	}
	if got := apps.Registered("relay-service"); len(got) != 1 || !strings.HasPrefix(got[0], "relay-service.memory:") {
		t.Errorf("registered: %q", got)
	}
	apps.Stop("relay-service")
	if got := apps.Registered("relay-service"); len(got) != 0 {
		t.Errorf("registered after the stop: %q", got)
	}
	if log := apps.Log("relay-service"); !strings.Contains(log, `"msg":"started"`) {
		t.Errorf("log: %s", log)
	}
}

func TestStartingAndStoppingTakesMilliseconds(t *testing.T) {
	// Not in parallel: it looks at the time. The limit is ten times what is usual, for machines that are busy.
	best := time.Hour
	for range 5 {
		began := time.Now()
		t.Run("round", func(t *testing.T) {
			apps := apptest.Start(t, fake("last-service"), relayService())
			askService(t, apps, "relay-service")
		})
		best = min(best, time.Since(began))
	}
	t.Logf("two services and a call: %v", best)
	if best > time.Second {
		t.Errorf("two services and a call took %v at best", best)
	}
}

func TestSameOverRealEtcdAndSockets(t *testing.T) {
	t.Parallel()
	apps := apptest.Start(t, apptest.WithEtcd(), fake("last-service"), relayService())
	if got := askService(t, apps, "relay-service"); got != "last-service" {
		t.Errorf("answered by %q", got)
	}
	if got := apps.Registered("relay-service"); len(got) != 1 || !strings.HasPrefix(got[0], "127.0.0.1:") {
		t.Errorf("registered: %q", got)
	}
	apps.Stop("relay-service")
	if got := apps.Registered("relay-service"); len(got) != 0 {
		t.Errorf("registered after the stop: %q", got)
	}
}

// choice takes two clients of one type.
type choice struct {
	testpb.UnimplementedTestServiceServer
	us, eu testpb.TestServiceClient
}

func newChoice(us testpb.TestServiceClient, _ *zap.Logger, eu testpb.TestServiceClient) *choice {
	return &choice{us: us, eu: eu}
}

func (c *choice) UnaryCall(ctx context.Context, req *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
	us, err := c.us.UnaryCall(ctx, req)
	if err != nil {
		return nil, err
	}
	eu, err := c.eu.UnaryCall(ctx, req)
	return &testpb.SimpleResponse{Username: us.GetUsername() + " " + eu.GetUsername()}, err
}

func TestMainSaysWhoTakesWhichClient(t *testing.T) {
	t.Parallel()
	apps := apptest.Start(t, fake("us-service"), fake("eu-service"), apptest.Service("choice-service",
		app.Client("eu-service", testpb.NewTestServiceClient, app.Named("eu")),
		app.Client("us-service", testpb.NewTestServiceClient),
		app.Serve(testpb.RegisterTestServiceServer, newChoice, app.Arg(2, "eu")),
	))
	if got := askService(t, apps, "choice-service"); got != "us-service eu-service" {
		t.Errorf("answered by %q", got)
	}
}

// params is how constructors take optional values and groups.
type params struct {
	fx.In
	Draining func(context.Context) <-chan struct{}
	Absent   *choice  `optional:"true"`
	Words    []string `group:"words"`
}

func TestConstructorsMayTakeParameterStructsAndTheDrainSignal(t *testing.T) {
	t.Parallel()
	draining := make(chan bool, 2)
	word := fx.Provide(fx.Annotate(func() string { return "hello" }, fx.ResultTags(`group:"words"`)))
	apps := apptest.Start(t, apptest.Service("own-service", word,
		app.Serve(testpb.RegisterTestServiceServer, func(p params, plain func(context.Context) <-chan struct{}) *named {
			draining <- p.Draining != nil && plain != nil && p.Absent == nil
			return &named{name: strings.Join(p.Words, ",")}
		}),
		app.HTTP(func(p params, d app.Draining) http.Handler {
			draining <- p.Draining(context.Background()) != nil && d != nil
			return http.NotFoundHandler()
		}),
	))
	for range cap(draining) {
		if !<-draining {
			t.Error("something was not injected")
		}
	}
	if got := askService(t, apps, "own-service"); got != "hello" {
		t.Errorf("group: %q", got)
	}
}

func TestHTTPIsServedOnARealSocket(t *testing.T) {
	t.Parallel()
	apps := apptest.Start(t, apptest.Service("edge", app.HTTP(func() http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") })
	})))
	req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, apps.HTTP("edge"), http.NoBody)
	req.Close = true
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if body, err := io.ReadAll(res.Body); string(body) != "hello" || err != nil {
		t.Errorf("%q, %v", body, err)
	}
	if apps.Registered("edge") == nil || len(apps.Registered("edge")) != 0 {
		t.Error("a process without gRPC is registered")
	}
}

type settings struct {
	// Word is a word.
	Word string `config:"word"`
}

func (s settings) Validate() error {
	if s.Word == "" {
		return errors.New("word: it is empty; write one")
	}
	return nil
}

func TestSettingsAreThoseOfTheTestAlone(t *testing.T) {
	t.Setenv("OWN_SERVICE__OWN__WORD", "environment")
	apps := apptest.Start(t, apptest.Service("own-service", app.Config("own", settings{}),
		app.Serve(testpb.RegisterTestServiceServer, func(s settings) *named { return &named{name: s.Word} }),
	).Set("own.word", "test"))
	if got := askService(t, apps, "own-service"); got != "test" {
		t.Errorf("word %q", got)
	}
}

func TestASettingChangesWhileTheServiceRuns(t *testing.T) {
	t.Parallel()
	apps := apptest.Start(t,
		apptest.Fake("last-service", func(r grpc.ServiceRegistrar) { testpb.RegisterTestServiceServer(r, &silent{}) }),
		relayService().Replicas(2).Set("clients.last-service.timeout", "1h"))
	for _, limit := range []string{"20ms", "30ms"} {
		apps.Set("relay-service", "clients.last-service.timeout", limit)
		for range 2 {
			_, err := testpb.NewTestServiceClient(apps.Conn("relay-service")).UnaryCall(t.Context(), &testpb.SimpleRequest{})
			if status.Code(err) != codes.DeadlineExceeded || !strings.Contains(err.Error(), "within "+limit) {
				t.Errorf("err = %v; want the limit of %s", err, limit)
			}
		}
	}
	for want, setting := range map[string][2]string{
		"it needs a restart":            {"server.listen", ":1"},
		`"soon" is not a duration`:      {"clients.last-service.timeout", "soon"},
		`clients.last-service.timeouts`: {"clients.last-service.timeouts", "1s"},
	} {
		if got := recorded(t, func(tb testing.TB) { apps.With(tb).Set("relay-service", setting[0], setting[1]) }); !strings.Contains(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	apps.Set("relay-service", "clients.last-service.timeout", "10ms") // what was refused has left nothing behind
}

func TestCallWithoutInstancesSaysWhy(t *testing.T) {
	t.Parallel()
	apps := apptest.Start(t, relayService().Set("clients.last-service.timeout", "100ms"))
	_, err := testpb.NewTestServiceClient(apps.Conn("relay-service")).UnaryCall(t.Context(), &testpb.SimpleRequest{})
	if code := status.Code(err); code != codes.DeadlineExceeded && code != codes.Unavailable || !strings.Contains(err.Error(), "last-service") {
		t.Errorf("err = %v", err)
	}
}

func TestReadyChecksDelayTheRegistration(t *testing.T) {
	t.Parallel()
	asked := make(chan struct{}, 8)
	apps := apptest.Start(t, apptest.Service("own-service",
		app.Ready("disk", func(context.Context) error { asked <- struct{}{}; return nil }),
		app.Ready("queue", func(*zap.Logger) func(context.Context) error {
			return func(context.Context) error { asked <- struct{}{}; return nil }
		}),
		app.Serve(testpb.RegisterTestServiceServer, func() *named { return &named{name: "x"} }),
	))
	<-asked
	<-asked
	if len(apps.Registered("own-service")) != 1 {
		t.Error("not registered")
	}
}

// recorder is a test that must fail.
type recorder struct {
	testing.TB
	text string
	over []func()
}

type failed struct{}

func (r *recorder) Helper()          {}
func (r *recorder) Cleanup(f func()) { r.over = append(r.over, f) }
func (r *recorder) Fatalf(format string, args ...any) {
	r.text = fmt.Sprintf(format, args...)
	panic(failed{})
}

// fails returns what Start ends a test with.
func fails(t *testing.T, opts ...apptest.Option) string {
	t.Helper()
	return recorded(t, func(tb testing.TB) { apptest.Start(tb, opts...) })
}

// recorded returns what run ends its test with.
func recorded(t *testing.T, run func(testing.TB)) string {
	t.Helper()
	r := &recorder{TB: t}
	func() {
		defer func() {
			if p := recover(); p != nil && p != (failed{}) {
				panic(p)
			}
		}()
		run(r)
	}()
	for i := range r.over {
		r.over[len(r.over)-1-i]()
	}
	return r.text
}

func TestWhatDoesNotStartEndsTheTestAndLeavesNothing(t *testing.T) {
	t.Parallel()
	trouble := errors.New("no disk")
	for want, opts := range map[string][]apptest.Option{
		"no disk":                   {apptest.Service("own-service", app.HTTP(func() (http.Handler, error) { return nil, trouble }))},
		"is started twice":          {fake("own-service"), fake("own-service")},
		"a client of the same type": {apptest.Service("own-service", app.Client("a", testpb.NewTestServiceClient), app.Client("b", testpb.NewTestServiceClient))},
		"word: it is empty":         {apptest.Service("own-service", app.Config("own", settings{}))},
		"hook trouble": {apptest.Service("own-service", fx.Invoke(func(lc fx.Lifecycle) {
			lc.Append(fx.StartHook(func() error { return errors.New("hook trouble") }))
		}))},
	} {
		if got := fails(t, opts...); !strings.Contains(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
