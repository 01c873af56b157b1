package stack_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/newsvc/newsvc/framework/config"
	"github.com/newsvc/newsvc/framework/logging"
	"github.com/newsvc/newsvc/framework/stack"
)

func writeFile(t *testing.T, dir, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// live is a stack that follows a config.yaml; write exchanges that.
func live(t *testing.T, text string, change ...func(*stack.Params)) (s *stack.Stack, levels *logging.Levels, write func(string)) {
	t.Helper()
	p, _, _ := params(t)
	dir := t.TempDir()
	writeFile(t, dir, "config.yaml", text)
	opened, cfg, err := stack.OpenConfig(t.Context(), config.Sources{Service: service, Dir: dir, Args: []string{
		"--set", "app.config_poll=10ms", "--set", "server.listen=127.0.0.1:0", "--set", "admin.listen=127.0.0.1:0", "--set", "server.drain.min_window=0s",
	}}, []string{service})
	if err != nil {
		t.Fatal(err)
	}
	if levels, err = logging.NewLevels(cfg.Log); err != nil {
		t.Fatal(err)
	}
	p.Config, p.Live, p.Levels, p.Log, p.Callees = cfg, opened, levels, zap.NewNop(), []string{service}
	for _, f := range change {
		f(&p)
	}
	s = build(t, p)
	up(t, s)
	return s, levels, func(text string) {
		writeFile(t, dir, "new", text)
		if err := os.Rename(filepath.Join(dir, "new"), filepath.Join(dir, "config.yaml")); err != nil {
			t.Fatal(err)
		}
	}
}

func TestLogLevelIsReloaded(t *testing.T) {
	t.Parallel()
	for _, admin := range []string{"true", "false"} {
		_, levels, write := live(t, "admin: {enabled: "+admin+"}\n")
		write("admin: {enabled: " + admin + "}\nlog: {level: warn}\n")
		eventually(t, "level warn", func() bool { return levels.Of("") == zapcore.WarnLevel })
	}
}

func TestReloadsAreCounted(t *testing.T) {
	t.Parallel()
	s, _, write := live(t, "log: {level: info}\n")
	count := func(name string) func() float64 { return func() float64 { return metrics(t, s)[name] } }
	refused, pending := count("newsvc_config_refused"), count("newsvc_config_pending_keys")
	if refused() != 0 || pending() != 0 {
		t.Error("something is refused or pending from the start")
	}
	write("log: {level: loud}\n")
	eventually(t, "the refusal", func() bool { return refused() == 1 && count("newsvc_config_reloads_total refused")() == 1 })
	write("log: {level: warn, format: json}\n")
	eventually(t, "the repair", func() bool {
		return refused() == 0 && pending() == 1 && count("newsvc_config_reloads_total applied")() == 1
	})
	s.Reload()
	eventually(t, "another look", func() bool { return count("newsvc_config_reloads_total unchanged")() == 1 })
}

func TestSampleRatioAndAccessLogAreReloaded(t *testing.T) {
	t.Parallel()
	spans := tracetest.NewSpanRecorder()
	core, logs := observer.New(zapcore.InfoLevel)
	s, _, write := live(t, "telemetry: {traces: {sample_ratio: 0}}\n", func(p *stack.Params) {
		p.Replace.Spans, p.Log = spans, zap.New(core)
	})
	call := func() {
		t.Helper()
		if err := callTo(t, s, service); err != nil {
			t.Fatal(err)
		}
	}
	told := func() bool {
		return logs.FilterLoggerName("server.access").Len() > 0
	}
	for range 20 {
		call()
	}
	if n := len(spans.Ended()); n != 0 || told() {
		t.Fatalf("%d spans, told of calls: %v", n, told())
	}
	write("telemetry: {traces: {sample_ratio: 1}}\n")
	eventually(t, "a span", func() bool { call(); return len(spans.Ended()) > 0 })
	write("telemetry: {traces: {sample_ratio: 1}}\nserver: {access_log: {all: true}}\n")
	eventually(t, "a call in the log", func() bool { call(); return told() })
}

// A tag in a section that is taken over promises that this key is, too: buildReload has to see to a new one.
func TestTaggedKeysAreThoseThatAreTakenOver(t *testing.T) {
	t.Parallel()
	settings, _, err := stack.LoadConfig(config.Sources{NoFile: true}, nil)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, v := range settings.Values() {
		if v.Reload != "restart" && !strings.HasPrefix(v.Key, "clients.") { // of those the factory takes the whole policy
			got = append(got, v.Key)
		}
	}
	want := []string{
		"log.level", "log.levels", "server.access_log.all", "server.access_log.errors", "server.access_log.max_per_second",
		"server.access_log.slow", "telemetry.traces.sample_ratio",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("keys with a reload tag (-want +got):\n%s", diff)
	}
}
