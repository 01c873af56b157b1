package apptest_test

import (
	"context"
	"strings"
	"sync"
	"testing"

	"go.opentelemetry.io/otel/trace"
	"go.uber.org/fx"
	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"

	"github.com/newsvc/newsvc/framework/app"
	"github.com/newsvc/newsvc/framework/apptest"
)

// talker logs, measures and traces what it does.
type talker struct {
	testpb.UnimplementedTestServiceServer
	log    *zap.Logger
	traces trace.Tracer
}

func newTalker(log *zap.Logger, traces trace.TracerProvider) *talker {
	return &talker{log: log.Named("talk"), traces: traces.Tracer("test")}
}

func (s *talker) UnaryCall(ctx context.Context, req *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
	_, span := s.traces.Start(ctx, "think")
	span.AddEvent("thought")
	span.End()
	s.log.Warn("asked", zap.Int32("size", req.GetResponseSize()), zap.Bool("traced", span.SpanContext().IsSampled()))
	if req.GetResponseSize() < 0 {
		return nil, status.Error(codes.NotFound, "nothing is that small")
	}
	return &testpb.SimpleResponse{}, nil
}

func talkerService() *apptest.ServiceOption {
	return apptest.Service("talk-service", app.Serve(testpb.RegisterTestServiceServer, newTalker))
}

func talk(t *testing.T, apps *apptest.Apps, sizes ...int32) {
	t.Helper()
	for _, size := range sizes {
		_, err := testpb.NewTestServiceClient(apps.Conn("talk-service")).UnaryCall(t.Context(), &testpb.SimpleRequest{ResponseSize: size})
		if want := size < 0; want != (err != nil) {
			t.Fatalf("a call with size %d answers %v", size, err)
		}
	}
}

func TestLogsAreEntriesToAssertOn(t *testing.T) {
	t.Parallel()
	apps := apptest.Start(t, talkerService())
	talk(t, apps, 1, 2)
	asked := apps.Logs("talk-service").Level("warn").Message("asked")
	if len(asked) != 2 || asked[0].Logger != "talk" || asked[0].Time.IsZero() || asked[0].Fields["size"] != 1.0 {
		t.Errorf("entries: %v", asked)
	}
	if got := asked.Field("size", 2); len(got) != 1 || !strings.Contains(got.String(), `warn talk "asked" map[size:2 traced:false]`) {
		t.Errorf("entry: %q", got)
	}
	if got := asked.Field("absent", "<nil>"); len(got) != 0 {
		t.Errorf("a field that is not there has a value: %v", got)
	}
	if e := apps.WaitLog("talk-service", func(e apptest.Entry) bool { return e.Fields["size"] == 2.0 }); e.Message != "asked" {
		t.Errorf("entry: %v", e)
	}
}

func TestWaitLogWaitsForWhatIsLoggedLater(t *testing.T) {
	t.Parallel()
	var log *zap.Logger
	apps := apptest.Start(t, apptest.Service("work-service", fx.Populate(&log)))
	waits := make(chan struct{})
	var writer sync.WaitGroup
	writer.Go(func() {
		<-waits
		log.Info("done")
	})
	defer writer.Wait()
	var once sync.Once
	done := apps.WaitLog("work-service", func(e apptest.Entry) bool {
		once.Do(func() { close(waits) })
		return e.Message == "done"
	})
	if done.Level != "info" {
		t.Errorf("entry: %v", done)
	}
}

func TestTheLevelOfTheLogIsASetting(t *testing.T) {
	t.Parallel()
	apps := apptest.Start(t, talkerService().Set("log.level", "error"))
	talk(t, apps, 1)
	if got := apps.Logs("talk-service").Message("asked"); len(got) != 0 {
		t.Errorf("logged below the level: %v", got)
	}
}

func TestMetricsAreThoseThatPrometheusWouldRead(t *testing.T) {
	t.Parallel()
	apps := apptest.Start(t, talkerService().Replicas(2))
	talk(t, apps, 1, -1, 2, -1, -1)
	const calls = "grpc_server_call_duration_seconds_count"
	if n := apps.Metric("talk-service", calls, "grpc_status", "NOT_FOUND"); n != 3 {
		t.Errorf("%v calls failed, want 3", n)
	}
	if n := apps.Metric("talk-service", calls, "grpc_method", "grpc.testing.TestService/UnaryCall"); n != 5 {
		t.Errorf("%v calls, want 5", n)
	}
	if n := apps.Metric("talk-service", calls, "grpc_status", "INTERNAL"); n != 0 {
		t.Errorf("%v calls failed with INTERNAL, want 0", n)
	}
	if sum := apps.Metric("talk-service", "grpc_server_call_duration_seconds_sum"); sum <= 0 {
		t.Errorf("the calls took %v s", sum)
	}
	if n := apps.Metric(apptest.Caller, "grpc_client_call_duration_seconds_count", "callee", "talk-service"); n != 5 {
		t.Errorf("the caller made %v calls, want 5", n)
	}
	if n := apps.Instances("talk-service")[0].Metric("newsvc_build_info"); n != 1 {
		t.Errorf("build info %v, want 1", n)
	}
}

func TestSpansOfOneCallFormATrace(t *testing.T) {
	t.Parallel()
	apps := apptest.Start(t, apptest.WithTraces(), talkerService())
	talk(t, apps, -1)
	client, server := apps.Spans(apptest.Caller), apps.Spans("talk-service")
	if len(client) != 1 || len(server) != 2 {
		t.Fatalf("spans: %v and %v; want one of the caller, and two of the service", client, server)
	}
	call, handler, own := client[0], server[0], server[1]
	if call.Kind != "client" || call.Parent != "" || handler.Kind != "server" || own.Kind != "internal" || own.Name != "think" {
		t.Errorf("kinds: %+v, %+v, %+v", call, handler, own)
	}
	if handler.Parent != call.ID || own.Parent != handler.ID || handler.TraceID != call.TraceID || own.TraceID != call.TraceID {
		t.Errorf("not one trace: %+v, %+v, %+v", call, handler, own)
	}
	if handler.Name != "grpc.testing.TestService/UnaryCall" || handler.Attributes["rpc.response.status_code"] != "NOT_FOUND" || call.Status != "Error" {
		t.Errorf("the call: %+v, %+v", call, handler)
	}
	if len(own.Events) != 1 || own.Events[0] != "thought" || own.End.Before(own.Start) {
		t.Errorf("the service's own span: %+v", own)
	}
	if traced := apps.Logs("talk-service").Field("traced", true); len(traced) != 1 {
		t.Errorf("log: %v", apps.Logs("talk-service"))
	}
}
