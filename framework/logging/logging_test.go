package logging_test

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/grpc/grpclog"

	"github.com/newsvc/newsvc/framework/logging"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newLogger(t *testing.T, change func(*logging.Config), fields ...zap.Field) (*zap.Logger, *bytes.Buffer) {
	t.Helper()
	cfg := logging.DefaultConfig()
	if change != nil {
		change(&cfg)
	}
	var out bytes.Buffer
	log, _, err := logging.New(cfg, zapcore.AddSync(&out), fields...)
	if err != nil {
		t.Fatal(err)
	}
	return log, &out
}

func TestEntriesAreJSONForMachines(t *testing.T) {
	t.Parallel()
	log, out := newLogger(t, nil, zap.String("service", "blog"))
	log.Named("etcd").Error("lost", zap.Duration("after", 1500*time.Millisecond))
	log.Debug("hidden")
	var got map[string]any
	if err := json.Unmarshal(out.Bytes(), &got); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	at, _ := got["time"].(string)
	if !regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$`).MatchString(at) {
		t.Errorf("time = %q, want RFC 3339 with milliseconds in UTC", at)
	}
	delete(got, "time")
	want := map[string]any{"level": "error", "logger": "etcd", "msg": "lost", "service": "blog", "after": "1.5s"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("entry (-want +got):\n%s", diff)
	}
}

func TestCallerIsAnOption(t *testing.T) {
	t.Parallel()
	log, out := newLogger(t, func(c *logging.Config) { c.Caller = true })
	log.Info("x")
	if !strings.Contains(out.String(), `"caller":"logging/logging_test.go:`) {
		t.Errorf("no caller in %s", out)
	}
}

func TestFormatIsChosenByWhoReads(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		format string
		dev    bool
		json   bool
	}{
		"auto to a pipe":         {"auto", false, true},
		"auto under development": {"auto", true, false},
		"console":                {"console", false, false},
		"json under development": {"json", true, true},
	} {
		log, out := newLogger(t, func(c *logging.Config) { c.Format, c.Development = tc.format, tc.dev })
		log.Warn("hello", zap.Int("n", 1))
		if got := strings.HasPrefix(out.String(), "{"); got != tc.json {
			t.Errorf("%s: JSON is %t: %s", name, got, out)
		}
		if !tc.json && !regexp.MustCompile(`^\d\d:\d\d:\d\d\.\d{3}  WARN   hello  \{"n": 1\}\n$`).MatchString(out.String()) {
			t.Errorf("%s: entry = %q", name, out)
		}
	}
}

func TestAFileIsNoTerminal(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "log")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, out := range []*os.File{f, null} {
		log, _, err := logging.New(logging.DefaultConfig(), out)
		if err != nil {
			t.Fatal(err)
		}
		log.Info("x")
		if err := out.Close(); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil || !bytes.HasPrefix(got, []byte("{")) {
		t.Errorf("file holds %q (%v), want JSON", got, err)
	}
}

func TestUnknownLevelAndFormatAreRefused(t *testing.T) {
	t.Parallel()
	for want, cfg := range map[string]logging.Config{
		`build the logger: level: "loud" is no level; write debug, info, warn or error`:  {Level: "loud", Format: "json"},
		`build the logger: level: "fatal" is no level; write debug, info, warn or error`: {Level: "fatal", Format: "json"},
		`build the logger: format: "xml" is no format; write json, console or auto`:      {Level: "info", Format: "xml"},
	} {
		_, _, err := logging.New(cfg, zapcore.AddSync(&bytes.Buffer{}))
		if err == nil || err.Error() != want {
			t.Errorf("error = %v, want %s", err, want)
		}
	}
	if err := logging.DefaultConfig().Validate(); err != nil {
		t.Errorf("the defaults are refused: %v", err)
	}
}

func TestCtxWritesTheSpan(t *testing.T) {
	t.Parallel()
	span := trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}})
	log, out := newLogger(t, nil)
	log.Info("a", logging.Ctx(trace.ContextWithSpanContext(t.Context(), span)), zap.Int("n", 1))
	if want := `"msg":"a","trace_id":"01000000000000000000000000000000","span_id":"0200000000000000","n":1}`; !strings.Contains(out.String(), want) {
		t.Errorf("entry = %s, want it to hold %s", out, want)
	}
	out.Reset()
	log.Info("b", logging.Ctx(t.Context()), zap.Int("n", 1))
	if want := `"msg":"b","n":1}`; !strings.Contains(out.String(), want) {
		t.Errorf("entry = %s, want nothing of a span", out)
	}
}

func TestCtxIsAContextForOtherCores(t *testing.T) {
	t.Parallel()
	span := trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}})
	f := logging.Ctx(trace.ContextWithSpanContext(t.Context(), span))
	ctx, ok := f.Interface.(context.Context)
	if !ok || !trace.SpanContextFromContext(ctx).Equal(span) {
		t.Errorf("the field holds %T, want the context with the span", f.Interface)
	}
}

func TestGRPCWritesWarningsAndErrors(t *testing.T) {
	t.Parallel()
	core, logs := observer.New(zapcore.DebugLevel)
	g := logging.GRPC(zap.New(core))
	g.Info("a")
	g.Infoln("a")
	g.Infof("%d", 1)
	g.Warning("w", 1)
	g.Warningln("w", 2)
	g.Warningf("w%d", 3)
	g.Error("e", 1)
	g.Errorln("e", 2)
	g.Errorf("e%d\n", 3)
	g.Fatal("f", 1)
	g.Fatalln("f", 2)
	g.Fatalf("f%d", 3)
	depth, ok := g.(grpclog.DepthLoggerV2)
	if !ok {
		t.Fatal("no depth logger: component prefixes would be glued to the text")
	}
	depth.InfoDepth(1, "a")
	depth.WarningDepth(1, "[core]", "w4")
	depth.ErrorDepth(1, "[core]", "e4")
	depth.FatalDepth(1, "[core]", "f4")
	var got []string
	for _, e := range logs.All() {
		got = append(got, e.LoggerName+" "+e.Level.String()+" "+e.Message)
	}
	want := []string{
		"grpc warn w1", "grpc warn w 2", "grpc warn w3", "grpc error e1", "grpc error e 2", "grpc error e3",
		"grpc error f1", "grpc error f 2", "grpc error f3", "grpc warn [core] w4", "grpc error [core] e4", "grpc error [core] f4",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("entries (-want +got):\n%s", diff)
	}
	if g.V(2) || !g.V(0) {
		t.Error("gRPC would format entries that are dropped")
	}
}

func TestGRPCFollowsTheLevel(t *testing.T) {
	t.Parallel()
	log, out := newLogger(t, func(c *logging.Config) { c.Level = "error" })
	logging.GRPC(log).Warning("x")
	if out.Len() != 0 {
		t.Errorf("a warning was written at level error: %s", out)
	}
}

func levels(t *testing.T, cfg logging.Config) *logging.Levels {
	t.Helper()
	l, err := logging.NewLevels(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func request(h http.Handler, method, body string) (int, string) {
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, httptest.NewRequest(method, "/log/level", strings.NewReader(body)))
	return rec.Code, strings.TrimSpace(rec.Body.String())
}

func wantAnswer(t *testing.T, h http.Handler, method, body string, code int, answer string) {
	t.Helper()
	if c, a := request(h, method, body); c != code || a != answer {
		t.Errorf("%s %s gives %d %s, want %d %s", method, body, c, a, code, answer)
	}
}

func TestLevelChangesAndComesBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		core, logs := observer.New(zapcore.DebugLevel)
		level := levels(t, logging.DefaultConfig())
		h := logging.NewLevelHandler(level, zap.New(core))
		defer h.Close()
		wantAnswer(t, h, http.MethodGet, "", 200, `{"level":"info","configured":"info"}`)
		until := time.Now().Add(10 * time.Minute).UTC().Truncate(time.Second).Format(time.RFC3339)
		wantAnswer(t, h, http.MethodPut, `{"level":"debug","for":"10m"}`, 200, `{"level":"debug","configured":"info","until":"`+until+`"}`)
		advance(t, 10*time.Minute-time.Second)
		if level.Of("") != zapcore.DebugLevel {
			t.Error("the level is back too early")
		}
		advance(t, 2*time.Second)
		wantAnswer(t, h, http.MethodGet, "", 200, `{"level":"info","configured":"info"}`)
		var got []string
		for _, e := range logs.All() {
			got = append(got, e.Level.String()+" "+e.Message)
		}
		if diff := cmp.Diff([]string{"warn log level changed by request", "warn log level is back as configured"}, got); diff != "" {
			t.Errorf("log (-want +got):\n%s", diff)
		}
	})
}

// advance lets the time of the bubble pass.
func advance(t *testing.T, d time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	<-ctx.Done()
	synctest.Wait()
}

func TestALaterChangeReplacesTheEarlierOne(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		level := levels(t, logging.DefaultConfig())
		h := logging.NewLevelHandler(level, zap.NewNop())
		defer h.Close()
		request(h, http.MethodPut, `{"level":"debug","for":"1m"}`)
		wantAnswer(t, h, http.MethodPut, `{"level":"error"}`, 200, `{"level":"error","configured":"info"}`)
		advance(t, time.Hour)
		if level.Of("") != zapcore.ErrorLevel {
			t.Errorf("level = %s, want the one that was set for good", level.Of(""))
		}
		wantAnswer(t, h, http.MethodPut, `{"level":"info","for":"1m"}`, 200, `{"level":"info","configured":"info"}`)
	})
}

func TestConfigureWaitsForTheEndOfARequestedLevel(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		level := levels(t, logging.DefaultConfig())
		h := logging.NewLevelHandler(level, zap.NewNop())
		defer h.Close()
		if err := h.Configure(logging.Config{Level: "warn"}); err != nil || level.Of("") != zapcore.WarnLevel {
			t.Errorf("level = %s (%v), want the configured one at once", level.Of(""), err)
		}
		request(h, http.MethodPut, `{"level":"debug","for":"1m"}`)
		if err := h.Configure(logging.Config{Level: "error"}); err != nil || level.Of("") != zapcore.DebugLevel {
			t.Errorf("level = %s (%v), want the requested one to stay", level.Of(""), err)
		}
		advance(t, 2*time.Minute)
		if level.Of("") != zapcore.ErrorLevel {
			t.Errorf("level = %s, want the newly configured one", level.Of(""))
		}
		err := h.Configure(logging.Config{Level: "x"})
		if err == nil || err.Error() != `configure the log: level: "x" is no level; write debug, info, warn or error` {
			t.Errorf("error = %v", err)
		}
	})
}

func TestCloseGivesUpTheChangeBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		level := levels(t, logging.DefaultConfig())
		h := logging.NewLevelHandler(level, zap.NewNop())
		request(h, http.MethodPut, `{"level":"debug","for":"1m"}`)
		h.Close()
		h.Close()
		wantAnswer(t, h, http.MethodPut, `{"level":"debug","for":"1m"}`, 200, `{"level":"debug","configured":"info"}`)
		advance(t, time.Hour)
		if level.Of("") != zapcore.DebugLevel {
			t.Errorf("level = %s, want it untouched after Close", level.Of(""))
		}
	})
}

func TestLevelHandlerRefusesWhatItDoesNotUnderstand(t *testing.T) {
	t.Parallel()
	h := logging.NewLevelHandler(levels(t, logging.DefaultConfig()), zap.NewNop())
	defer h.Close()
	const example = `; send for example {"level":"debug","for":"10m"}`
	for body, want := range map[string]string{
		``:                               `set the log level: EOF` + example,
		`debug`:                          `set the log level: invalid character 'd' looking for beginning of value` + example,
		`{"level":"debug"}{}`:            `set the log level: there is more than one object` + example,
		`{"lvl":"debug"}`:                `set the log level: json: unknown field "lvl"` + example,
		`{}`:                             `set the log level: level: "" is no level; write debug, info, warn or error`,
		`{"level":"panic"}`:              `set the log level: level: "panic" is no level; write debug, info, warn or error`,
		`{"level":"debug","for":"10"}`:   `set the log level: for: "10" is no time between 0 and 24h; write for example "10m"`,
		`{"level":"debug","for":"25h"}`:  `set the log level: for: "25h" is no time between 0 and 24h; write for example "10m"`,
		`{"level":"debug","for":"-1s"}`:  `set the log level: for: "-1s" is no time between 0 and 24h; write for example "10m"`,
		strings.Repeat(" ", 5000) + `{}`: `set the log level: http: request body too large` + example,
	} {
		wantAnswer(t, h, http.MethodPut, body, 400, want)
	}
	wantAnswer(t, h, http.MethodDelete, "", 405, `method "DELETE" is not allowed; use GET or PUT`)
	wantAnswer(t, h, http.MethodGet, "", 200, `{"level":"info","configured":"info"}`)
}
