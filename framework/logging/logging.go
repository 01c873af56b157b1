// Package logging makes the *zap.Logger of a process from its configuration, and what belongs to it: a field that
// carries the trace of a call, a handler that changes the level while the process runs, and a bridge for gRPC's own log.
//
// It is no logging API of its own: code logs with zap. Nothing here is global and nothing runs in the background:
// [New] builds a logger over a writer it is given, and the caller passes it on.
package logging

import (
	"fmt"
	"os"
	"strings"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// Config is the section "log".
type Config struct {
	// Level is the least severe level that is written: debug, info, warn or error. Default info. Debug costs CPU and
	// disk with every call. It can be changed for a while with a [LevelHandler].
	Level string `config:"level" reload:"live"`
	// Format is json (one object per line, for machines), console (for people) or auto: console when the output is a
	// terminal or the process runs under development, else json. Default auto.
	Format string `config:"format"`
	// Caller adds the file and line of each entry, for about one microsecond each. Default false.
	Caller bool `config:"caller"`
	// Development makes auto choose console. It is set by the program that starts the process, not by configuration.
	Development bool `config:"-"`
}

// DefaultConfig returns level info in format auto.
func DefaultConfig() Config { return Config{Level: "info", Format: "auto"} }

// Validate refuses unknown levels and formats.
func (c Config) Validate() error {
	if _, err := parseLevel(c.Level); err != nil {
		return fmt.Errorf("level: %w", err)
	}
	switch c.Format {
	case "json", "console", "auto":
		return nil
	default:
		return fmt.Errorf("format: %q is no format; write json, console or auto", c.Format)
	}
}

func parseLevel(s string) (zapcore.Level, error) {
	switch s {
	case "debug", "info", "warn", "error":
		return zapcore.ParseLevel(s)
	default:
		return zapcore.InfoLevel, fmt.Errorf("%q is no level; write debug, info, warn or error", s)
	}
}

// New returns a logger that writes to out with the given fields in every entry, and its level, which may be changed at
// any time. Entries of concurrent callers never mix. Entries carry the keys time (RFC 3339 with milliseconds, UTC), level,
// logger, msg and, if configured, caller; durations are text ("1.5s"); no entry has a stack trace unless its fields
// do. The caller syncs the logger before the process ends.
func New(cfg Config, out zapcore.WriteSyncer, fields ...zap.Field) (*zap.Logger, zap.AtomicLevel, error) {
	if err := cfg.Validate(); err != nil {
		return nil, zap.AtomicLevel{}, fmt.Errorf("build the logger: %w", err)
	}
	parsed, _ := parseLevel(cfg.Level) // validated above
	level := zap.NewAtomicLevelAt(parsed)
	core := zapcore.NewCore(encoder(cfg, out), zapcore.Lock(out), level)
	return zap.New(core, zap.WithCaller(cfg.Caller), zap.Fields(fields...)), level, nil
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
