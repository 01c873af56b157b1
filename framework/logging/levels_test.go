package logging_test

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/newsvc/newsvc/framework/logging"
)

// messages writes one entry of each level with each of the loggers and returns what came out, as "logger level".
func messages(t *testing.T, log *zap.Logger, logs *observer.ObservedLogs, loggers ...string) []string {
	t.Helper()
	logs.TakeAll()
	for _, name := range loggers {
		l := log.Named(name).With(zap.Int("n", 1))
		for _, level := range []zapcore.Level{zapcore.DebugLevel, zapcore.InfoLevel, zapcore.WarnLevel} {
			l.Log(level, "x")
		}
	}
	var got []string
	for _, e := range logs.TakeAll() {
		got = append(got, e.LoggerName+" "+e.Level.String())
	}
	return got
}

func observed(l *logging.Levels) (*zap.Logger, *observer.ObservedLogs) {
	core, logs := observer.New(zapcore.DebugLevel)
	return zap.New(l.Core(core)), logs
}

func TestTheLongestNameOfALoggerDecides(t *testing.T) {
	t.Parallel()
	log, logs := observed(levels(t, logging.Config{
		Level: "warn", Format: "json", Levels: map[string]string{"discovery": "info", "discovery.etcd": "debug", "server": "error"},
	}))
	got := messages(t, log, logs, "", "discovery", "discovery.etcd", "discovery.etcd.watch", "discovery.cache", "discoveryx", "server")
	want := []string{
		" warn", "discovery info", "discovery warn", "discovery.etcd debug", "discovery.etcd info", "discovery.etcd warn",
		"discovery.etcd.watch debug", "discovery.etcd.watch info", "discovery.etcd.watch warn",
		"discovery.cache info", "discovery.cache warn", "discoveryx warn",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("entries (-want +got):\n%s", diff)
	}
}

func TestALoggerChangesAloneAndComesBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := levels(t, logging.Config{Level: "info", Format: "json", Levels: map[string]string{"client": "error"}})
		log, logs := observed(l)
		h := logging.NewLevelHandler(l, zap.NewNop())
		defer h.Close()
		at := func(d time.Duration) string {
			return time.Now().Add(d).UTC().Truncate(time.Second).Format(time.RFC3339)
		}
		const client = `"client":{"level":"error","configured":"error"}`
		wantAnswer(t, h, http.MethodGet, "", 200, `{"level":"info","configured":"info","loggers":{`+client+`}}`)
		wantAnswer(t, h, http.MethodPut, `{"logger":"discovery","level":"debug","for":"10m"}`, 200,
			`{"level":"info","configured":"info","loggers":{`+client+`,"discovery":{"level":"debug","configured":"info","until":"`+at(10*time.Minute)+`"}}}`)
		request(h, http.MethodPut, `{"logger":"client","level":"warn","for":"20m"}`)
		want := []string{"client warn", "discovery.etcd debug", "discovery.etcd info", "discovery.etcd warn", "server info", "server warn"}
		if diff := cmp.Diff(want, messages(t, log, logs, "client", "discovery.etcd", "server")); diff != "" {
			t.Errorf("entries (-want +got):\n%s", diff)
		}
		advance(t, 11*time.Minute)
		want = []string{"client warn", "discovery.etcd info", "discovery.etcd warn"}
		if diff := cmp.Diff(want, messages(t, log, logs, "client", "discovery.etcd")); diff != "" {
			t.Errorf("entries after the first has ended (-want +got):\n%s", diff)
		}
		advance(t, 10*time.Minute)
		wantAnswer(t, h, http.MethodGet, "", 200, `{"level":"info","configured":"info","loggers":{`+client+`}}`)
	})
}

func TestARequestedLevelIsEndedByRequest(t *testing.T) {
	t.Parallel()
	core, logs := observer.New(zapcore.DebugLevel)
	l := levels(t, logging.DefaultConfig())
	h := logging.NewLevelHandler(l, zap.New(core))
	defer h.Close()
	request(h, http.MethodPut, `{"logger":"etcd","level":"debug"}`)
	request(h, http.MethodPut, `{"level":"error"}`)
	request(h, http.MethodPut, `{"logger":"etcd","level":"configured"}`)
	if l.Of("etcd") != zapcore.ErrorLevel {
		t.Errorf("etcd has %s, want that of all loggers", l.Of("etcd"))
	}
	wantAnswer(t, h, http.MethodPut, `{"level":"configured"}`, 200, `{"level":"info","configured":"info"}`)
	var got []string
	for _, e := range logs.All() {
		m := e.ContextMap()
		of, _ := m["of"].(string)
		got = append(got, strings.TrimSpace(of+" "+m["from"].(string)+" "+m["to"].(string)))
	}
	if diff := cmp.Diff([]string{"etcd info debug", "info error", "etcd debug error", "error info"}, got); diff != "" {
		t.Errorf("what was told (-want +got):\n%s", diff)
	}
}

func TestReloadedLevelsOfLoggersApplyUnlessRequestedOtherwise(t *testing.T) {
	t.Parallel()
	l := levels(t, logging.DefaultConfig())
	h := logging.NewLevelHandler(l, zap.NewNop())
	defer h.Close()
	request(h, http.MethodPut, `{"logger":"etcd","level":"error"}`)
	err := h.Configure(logging.Config{Level: "info", Levels: map[string]string{"etcd": "debug", "client": "debug"}})
	if err != nil || l.Of("etcd") != zapcore.ErrorLevel || l.Of("client") != zapcore.DebugLevel || l.Of("server") != zapcore.InfoLevel {
		t.Errorf("etcd %s, client %s, server %s (%v)", l.Of("etcd"), l.Of("client"), l.Of("server"), err)
	}
	request(h, http.MethodPut, `{"logger":"etcd","level":"configured"}`)
	if l.Of("etcd") != zapcore.DebugLevel {
		t.Errorf("etcd has %s, want the level that was configured meanwhile", l.Of("etcd"))
	}
}

func TestLevelsOfLoggersThatMakeNoSenseAreRefused(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"etcd": `levels.etcd: "loud" is no level; write debug, info, warn or error`,
		"":     `levels: "" is no name of a logger; write it as log lines do under "logger", for example "discovery"`,
		"a b":  `levels: "a b" is no name of a logger; write it as log lines do under "logger", for example "discovery"`,
		"a.":   `levels: "a." is no name of a logger; write it as log lines do under "logger", for example "discovery"`,
	} {
		cfg := logging.DefaultConfig()
		cfg.Levels = map[string]string{name: "loud"}
		if err := cfg.Validate(); err == nil || err.Error() != want {
			t.Errorf("%q: error = %v, want %s", name, err, want)
		}
	}
	h := logging.NewLevelHandler(levels(t, logging.DefaultConfig()), zap.NewNop())
	defer h.Close()
	wantAnswer(t, h, http.MethodPut, `{"logger":".x","level":"debug"}`, 400,
		`set the log level: logger: ".x" is no name of a logger; write it as log lines do under "logger", for example "discovery"`)
	for i := range 65 {
		code, answer := request(h, http.MethodPut, `{"logger":"l`+strings.Repeat("l", i)+`","level":"debug"}`)
		if (code == 200) != (i < 64) {
			t.Errorf("logger %d of its own level: %d %s", i, code, answer)
		}
	}
}

func TestEntriesThatAreNotWrittenCostNothing(t *testing.T) {
	for name, cfg := range map[string]logging.Config{
		"one level":         {Level: "info", Format: "json"},
		"levels of loggers": {Level: "info", Format: "json", Levels: map[string]string{"discovery": "debug", "client": "debug"}},
	} {
		log, _, err := logging.New(cfg, zapcore.AddSync(io.Discard))
		if err != nil {
			t.Fatal(err)
		}
		log = log.Named("server")
		if n := testing.AllocsPerRun(100, func() { log.Debug("x") }); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

func BenchmarkEntryThatIsNotWritten(b *testing.B) {
	for name, levels := range map[string]map[string]string{"one level": nil, "another logger at debug": {"discovery": "debug"}} {
		b.Run(name, func(b *testing.B) {
			log, _, err := logging.New(logging.Config{Level: "info", Format: "json", Levels: levels}, zapcore.AddSync(io.Discard))
			if err != nil {
				b.Fatal(err)
			}
			log = log.Named("server")
			b.ReportAllocs()
			for b.Loop() {
				log.Debug("x")
			}
		})
	}
}

var errRefused = errors.New("refused")
