package telemetry_test

import (
	"context"
	"io"
	"net"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"github.com/newsvc/newsvc/framework/telemetry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// service answers with the code that the request asks for; onCall sees the context of every call.
type service struct {
	testpb.UnimplementedTestServiceServer
	onCall func(ctx context.Context) error
}

func (s service) UnaryCall(ctx context.Context, req *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
	if s.onCall != nil {
		if err := s.onCall(ctx); err != nil {
			return nil, err
		}
	}
	if st := req.GetResponseStatus(); st != nil {
		return nil, status.Error(codes.Code(st.GetCode()), st.GetMessage())
	}
	return &testpb.SimpleResponse{}, nil
}

func (s service) FullDuplexCall(stream grpc.BidiStreamingServer[testpb.StreamingOutputCallRequest, testpb.StreamingOutputCallResponse]) error {
	if s.onCall != nil {
		if err := s.onCall(stream.Context()); err != nil {
			return err
		}
	}
	for {
		if _, err := stream.Recv(); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		if err := stream.Send(&testpb.StreamingOutputCallResponse{}); err != nil {
			return err
		}
	}
}

func (s service) StreamingInputCall(stream grpc.ClientStreamingServer[testpb.StreamingInputCallRequest, testpb.StreamingInputCallResponse]) error {
	for {
		if _, err := stream.Recv(); err == io.EOF {
			return stream.SendAndClose(&testpb.StreamingInputCallResponse{})
		} else if err != nil {
			return err
		}
	}
}

func newTelemetry(t testing.TB, change func(*telemetry.Config), opts ...telemetry.Option) *telemetry.Telemetry {
	t.Helper()
	cfg := telemetry.DefaultConfig()
	if change != nil {
		change(&cfg)
	}
	tel, err := telemetry.New(context.Background(), cfg, telemetry.Params{Service: "echo", Version: "v1", Incarnation: "i1"}, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := tel.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	return tel
}

// connect serves impl with the interceptors of server and returns a connection with those of client.
func connect(t testing.TB, server, client *telemetry.Telemetry, impl testpb.TestServiceServer, extra ...grpc.ServerOption) *grpc.ClientConn {
	t.Helper()
	su, ss := server.ServerInterceptors()
	cu, cs := client.ClientInterceptors("echo-service")
	return wire(t, impl, append(extra, grpc.ChainUnaryInterceptor(su), grpc.ChainStreamInterceptor(ss)),
		grpc.WithChainUnaryInterceptor(cu), grpc.WithChainStreamInterceptor(cs))
}

func wire(t testing.TB, impl testpb.TestServiceServer, so []grpc.ServerOption, do ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	l := bufconn.Listen(1 << 20)
	gs := grpc.NewServer(so...)
	testpb.RegisterTestServiceServer(gs, impl)
	healthpb.RegisterHealthServer(gs, health.NewServer())
	served := make(chan error, 1)
	go func() { served <- gs.Serve(l) }()
	cc, err := grpc.NewClient("passthrough:///echo-service", append(do,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cc.Close()
		gs.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return cc
}

// family returns the metrics of one name.
func family(t testing.TB, tel *telemetry.Telemetry, name string) []*dto.Metric {
	t.Helper()
	families, err := tel.Gatherer().Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			return f.GetMetric()
		}
	}
	return nil
}

func hasLabels(m *dto.Metric, labels map[string]string) bool {
	got := map[string]string{}
	for _, l := range m.GetLabel() {
		got[l.GetName()] = l.GetValue()
	}
	for k, v := range labels {
		if got[k] != v {
			return false
		}
	}
	return true
}

// count returns how many durations were observed under the labels.
func count(t testing.TB, tel *telemetry.Telemetry, name string, labels map[string]string) uint64 {
	t.Helper()
	var sum uint64
	for _, m := range family(t, tel, name) {
		if hasLabels(m, labels) {
			sum += m.GetHistogram().GetSampleCount()
		}
	}
	return sum
}

func gauge(t testing.TB, tel *telemetry.Telemetry, name string) float64 {
	t.Helper()
	var sum float64
	for _, m := range family(t, tel, name) {
		sum += m.GetGauge().GetValue()
	}
	return sum
}

// eventually waits for what happens shortly after the client has its answer.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("did not happen: %s", what)
		}
	}
}
