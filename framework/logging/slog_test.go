package logging_test

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"strings"
	"testing"
	"testing/slogtest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/newsvc/newsvc/framework/logging"
)

// TestSlogKeepsTheContractOfHandlers runs the suite of the standard library.
func TestSlogKeepsTheContractOfHandlers(t *testing.T) {
	t.Parallel()
	log, out := newLogger(t, nil)
	err := slogtest.TestHandler(logging.Slog(log).Handler(), func() (all []map[string]any) {
		for line := range strings.Lines(out.String()) {
			var m map[string]any
			if err := json.Unmarshal([]byte(line), &m); err != nil {
				t.Fatalf("%v in %s", err, line)
			}
			all = append(all, m)
		}
		return all
	})
	if err != nil {
		t.Error(err)
	}
}

func TestSlogWritesAsZapDoes(t *testing.T) {
	t.Parallel()
	log, out := newLogger(t, nil, zap.String("service", "blog"))
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	logging.Slog(log).With("logger", "store").Warn("slow", "took", 1500*time.Millisecond, "err", errRefused, "at", at,
		slog.Group("row", "id", 7, "ok", true), slog.Group("empty"), "share", 0.5, "size", uint64(9), "keys", []string{"a"})
	var got map[string]any
	if err := json.Unmarshal(out.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	delete(got, "time")
	want := map[string]any{
		"level": "warn", "logger": "store", "service": "blog", "msg": "slow", "took": "1.5s", "err": "refused", "at": "2026-01-02T03:04:05.000Z",
		"row": map[string]any{"id": 7.0, "ok": true}, "share": 0.5, "size": 9.0, "keys": []any{"a"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("entry (-want +got):\n%s", diff)
	}
}

func TestSlogWritesTheSpanOfTheContext(t *testing.T) {
	t.Parallel()
	log, out := newLogger(t, nil)
	span := trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}})
	ctx := trace.ContextWithSpanContext(t.Context(), span)
	logging.Slog(log).WithGroup("order").With("id", 7).InfoContext(ctx, "made", "rows", 1)
	if want := `"msg":"made","trace_id":"01000000000000000000000000000000","span_id":"0200000000000000","order":{"id":7,"rows":1}}`; !strings.Contains(out.String(), want) {
		t.Errorf("entry = %s, want it to hold %s", out, want)
	}
}

func TestSlogHasTheLevelOfItsName(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	cfg := logging.DefaultConfig()
	cfg.Levels = map[string]string{"store": "debug"}
	zl, _, err := logging.New(cfg, zapcore.AddSync(&out))
	if err != nil {
		t.Fatal(err)
	}
	log := logging.Slog(zl)
	store := log.With("logger", "store")
	if log.Enabled(t.Context(), slog.LevelDebug) || !store.Enabled(t.Context(), slog.LevelDebug) {
		t.Error("debug is enabled for the wrong one")
	}
	log.Debug("hidden")
	store.With("logger", "cache").Debug("shown")
	if got := out.String(); strings.Contains(got, "hidden") || !strings.Contains(got, `"logger":"store.cache","msg":"shown"`) {
		t.Errorf("log = %s", got)
	}
}

func TestSlogTellsItsCallerWhenThatIsConfigured(t *testing.T) {
	t.Parallel()
	log, out := newLogger(t, func(c *logging.Config) { c.Caller = true })
	logging.Slog(log).Info("x")
	if !strings.Contains(out.String(), `"caller":"logging/slog_test.go:`) {
		t.Errorf("no caller in %s", out)
	}
}
