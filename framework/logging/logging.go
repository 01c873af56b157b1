// Package logging makes the *zap.Logger of a process from its configuration, and what belongs to it: a field that
// carries the trace of a call, a handler that changes levels while the process runs, and bridges for gRPC's own log and
// for code that logs with log/slog.
//
// It is no logging API of its own: code logs with zap or with log/slog. Nothing here is global and nothing runs in the background:
// [New] builds a logger over a writer it is given, and the caller passes it on.
package logging

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// Config is the section "log".
type Config struct {
	// Level is the least severe level that is written: debug, info, warn or error. Default info. Debug costs CPU and
	// disk with every call. It can be changed for a while with a [LevelHandler].
	Level string `config:"level" reload:"live" enum:"debug|info|warn|error"`
	// Levels are levels of single loggers by name, for example {discovery: debug}; a name also stands for what is under
	// it ("discovery.etcd"), and the longest one decides. Default none. Each entry of a level that only some loggers
	// write costs the others a comparison of names.
	Levels map[string]string `config:"levels" reload:"live" enum:"debug|info|warn|error"`
	// Format is json (one object per line, for machines), console (for people) or auto: console when the output is a
	// terminal or the process runs under development, else json. Default auto.
	Format string `config:"format" enum:"json|console|auto"`
	// Caller adds the file and line of each entry, for about one microsecond each. Default false.
	Caller bool `config:"caller"`
	// Development makes auto choose console. It is set by the program that starts the process, not by configuration.
	Development bool `config:"-"`
}

// DefaultConfig returns level info in format auto.
func DefaultConfig() Config { return Config{Level: "info", Format: "auto"} }

// Validate refuses unknown levels and formats.
func (c Config) Validate() error {
	if _, err := c.levels(); err != nil {
		return err
	}
	switch c.Format {
	case "json", "console", "auto":
		return nil
	default:
		return fmt.Errorf("format: %q is no format; write json, console or auto", c.Format)
	}
}

// levels are the configured levels by logger; that of all others is under everyLogger.
func (c Config) levels() (map[string]zapcore.Level, error) {
	all, err := parseLevel(c.Level)
	if err != nil {
		return nil, fmt.Errorf("level: %w", err)
	}
	levels := map[string]zapcore.Level{everyLogger: all}
	for _, logger := range slices.Sorted(maps.Keys(c.Levels)) {
		if err := checkLogger(logger); err != nil {
			return nil, fmt.Errorf("levels: %w", err)
		}
		if levels[logger], err = parseLevel(c.Levels[logger]); err != nil {
			return nil, fmt.Errorf("levels.%s: %w", logger, err)
		}
	}
	return levels, nil
}

// checkLogger refuses what can't be the name of a logger.
func checkLogger(name string) error {
	if name == "" || len(name) > 100 || strings.HasPrefix(name, ".") || strings.HasSuffix(name, ".") || strings.ContainsAny(name, " \t\r\n") {
		return fmt.Errorf("%q is no name of a logger; write it as log lines do under \"logger\", for example \"discovery\"", name)
	}
	return nil
}

func parseLevel(s string) (zapcore.Level, error) {
	switch s {
	case "debug", "info", "warn", "error":
		return zapcore.ParseLevel(s)
	default:
		return zapcore.InfoLevel, fmt.Errorf("%q is no level; write debug, info, warn or error", s)
	}
}

// New returns a logger that writes to out with the given fields in every entry, and its levels, which may be changed at
// any time. Entries of concurrent callers never mix. Entries carry the keys time (RFC 3339 with milliseconds, UTC), level,
// logger, msg and, if configured, caller; durations are text ("1.5s"); no entry has a stack trace unless its fields
// do. The caller syncs the logger before the process ends.
func New(cfg Config, out zapcore.WriteSyncer, fields ...zap.Field) (*zap.Logger, *Levels, error) {
	if err := cfg.Validate(); err != nil {
		return nil, nil, fmt.Errorf("build the logger: %w", err)
	}
	levels, err := NewLevels(cfg)
	if err != nil {
		return nil, nil, fmt.Errorf("build the logger: %w", err)
	}
	core := levels.Core(zapcore.NewCore(encoder(cfg, out), zapcore.Lock(out), zapcore.DebugLevel))
	return zap.New(core, zap.WithCaller(cfg.Caller), zap.Fields(fields...)), levels, nil
}

func encoder(cfg Config, out zapcore.WriteSyncer) zapcore.Encoder {
	enc := zapcore.EncoderConfig{
		TimeKey:          "time",
		LevelKey:         "level",
		NameKey:          "logger",
		CallerKey:        "caller",
		MessageKey:       "msg",
		LineEnding:       zapcore.DefaultLineEnding,
		EncodeLevel:      zapcore.LowercaseLevelEncoder,
		EncodeTime:       encodeTime,
		EncodeDuration:   zapcore.StringDurationEncoder,
		EncodeCaller:     zapcore.ShortCallerEncoder,
		ConsoleSeparator: "  ",
	}
	if cfg.Format == "console" || cfg.Format == "auto" && (cfg.Development || isTerminal(out)) {
		enc.EncodeTime = zapcore.TimeEncoderOfLayout("15:04:05.000")
		enc.EncodeLevel = func(l zapcore.Level, a zapcore.PrimitiveArrayEncoder) {
			a.AppendString(fmt.Sprintf("%-5s", strings.ToUpper(l.String())))
		}
		return zapcore.NewConsoleEncoder(enc)
	}
	return zapcore.NewJSONEncoder(enc)
}

func encodeTime(t time.Time, enc zapcore.PrimitiveArrayEncoder) {
	enc.AppendString(t.UTC().Format("2006-01-02T15:04:05.000Z07:00"))
}

// isTerminal says whether out is a terminal. The null device is a character device too, but nobody reads it.
func isTerminal(out zapcore.WriteSyncer) bool {
	f, ok := out.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	if err != nil || info.Mode()&os.ModeCharDevice == 0 {
		return false
	}
	null, err := os.Stat(os.DevNull)
	return err != nil || !os.SameFile(info, null)
}
