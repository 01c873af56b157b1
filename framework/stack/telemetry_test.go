package stack_test

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap/zapcore"
	testpb "google.golang.org/grpc/interop/grpc_testing"

	"github.com/newsvc/newsvc/framework/stack"
)

// logFile is a log that can be read while it is written.
type logFile struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (f *logFile) Write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.buf.Write(p)
}

// lines returns what was written since it was last asked, by the loggers whose names begin so.
func (f *logFile) lines(t *testing.T, logger string) (all []map[string]any) {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	for line := range strings.Lines(f.buf.String()) {
		var m map[string]any
		if err := json.Unmarshal([]byte(line), &m); err != nil {
			t.Fatalf("%v in %s", err, line)
		}
		if name, _ := m["logger"].(string); strings.HasPrefix(name, logger) {
			all = append(all, m)
		}
	}
	f.buf.Reset()
	return all
}

// domain is a service's own code: it knows log/slog and nothing of ours.
type domain struct {
	testpb.UnimplementedTestServiceServer
	log *slog.Logger
}

func (d domain) EmptyCall(ctx context.Context, _ *testpb.Empty) (*testpb.Empty, error) {
	d.log.InfoContext(ctx, "handled", "n", 1)
	return &testpb.Empty{}, nil
}

// logged is a service that calls itself and writes a log as in production.
func logged(t *testing.T, change func(*stack.Config)) (*stack.Stack, *logFile) {
	t.Helper()
	p, _, _ := params(t)
	p.Callees = []string{service}
	p.Config.Log.Format = "json"
	if change != nil {
		change(&p.Config)
	}
	file := &logFile{}
	var err error
	if p.Log, p.Levels, err = stack.NewLog(p.Config, service, false, zapcore.AddSync(file)); err != nil {
		t.Fatal(err)
	}
	s, err := stack.New(p)
	if err != nil {
		t.Fatal(err)
	}
	testpb.RegisterTestServiceServer(s.Server(), domain{log: stack.Slog(p.Log).With("logger", "domain")})
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		_ = s.Close(ctx) // the collector that some name is not there
	})
	up(t, s)
	return s, file
}

func TestEveryLogLineOfASampledCallHasItsTrace(t *testing.T) {
	t.Parallel()
	s, file := logged(t, func(c *stack.Config) {
		c.Telemetry.Traces.Endpoint, c.Telemetry.Traces.Insecure, c.Telemetry.Traces.SampleRatio = "127.0.0.1:1", true, 1
		c.Telemetry.Traces.ExportTimeout = 100 * time.Millisecond
		c.Server.AccessLog.All = true
	})
	file.lines(t, "")
	if err := callTo(t, s, service); err != nil {
		t.Fatal(err)
	}
	traces := map[string]string{}
	for _, line := range file.lines(t, "") {
		name, _ := line["logger"].(string)
		traces[name], _ = line["trace_id"].(string)
		if name == "server.access" && !strings.HasPrefix(line["user_agent"].(string), service+" grpc-go/") {
			t.Errorf("the access log names the caller %q", line["user_agent"])
		}
	}
	if len(traces["domain"]) != 32 || traces["domain"] != traces["server.access"] {
		t.Errorf("traces by logger: %q", traces)
	}
}

func TestLinesOfCallsThatAreNotSampledHaveNoTrace(t *testing.T) {
	t.Parallel()
	s, file := logged(t, nil)
	if err := callTo(t, s, service); err != nil {
		t.Fatal(err)
	}
	if all := file.lines(t, "domain"); len(all) != 1 || all[0]["trace_id"] != nil || all[0]["service"] != service {
		t.Errorf("lines %v", all)
	}
}

// TestOneLoggerIsChangedByRequest asks the admin server as an operator does.
func TestOneLoggerIsChangedByRequest(t *testing.T) {
	t.Parallel()
	s, file := logged(t, func(c *stack.Config) {
		c.Log.Levels = map[string]string{"domain": "error"}
		c.Server.AccessLog.All = true
	})
	put := func(body string) {
		_, _, admin := s.Addresses()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, "http://"+admin+"/log/level", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Close = true
		res, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		if res.StatusCode != http.StatusOK {
			t.Fatalf("%s: %s", body, res.Status)
		}
	}
	call := func() (domain, access int) {
		file.lines(t, "")
		if err := callTo(t, s, service); err != nil {
			t.Fatal(err)
		}
		for _, line := range file.lines(t, "") {
			switch line["logger"] {
			case "domain":
				domain++
			case "server.access":
				access++
			}
		}
		return domain, access
	}
	if d, a := call(); d != 0 || a != 1 {
		t.Errorf("as configured: %d lines of the domain, %d of the access log, want 0 and 1", d, a)
	}
	put(`{"logger":"domain","level":"debug","for":"10m"}`)
	put(`{"logger":"server","level":"warn"}`)
	if d, a := call(); d != 1 || a != 0 {
		t.Errorf("after requests: %d and %d, want 1 and 0", d, a)
	}
	put(`{"logger":"domain","level":"configured"}`)
	put(`{"logger":"server.access","level":"info","for":"1m"}`)
	if d, a := call(); d != 0 || a != 1 {
		t.Errorf("after more requests: %d and %d, want 0 and 1", d, a)
	}
}

func TestCalleesCountTheirCallersWhenAsked(t *testing.T) {
	t.Parallel()
	s, _ := logged(t, func(c *stack.Config) { c.Telemetry.Metrics.Callers = true })
	if err := callTo(t, s, service); err != nil {
		t.Fatal(err)
	}
	const name = "grpc_server_calls_by_caller_total user-service user-service grpc.testing.TestService/EmptyCall OK"
	eventually(t, "a call of user-service", func() bool { return metrics(t, s)[name] == 1 })
}
