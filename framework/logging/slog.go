package logging

import (
	"context"
	"log/slog"
	"runtime"
	"slices"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// Slog returns a logger of the standard library that writes where log does, in the same form and at the same levels. What is
// logged with a context (InfoContext and the like) carries trace_id and span_id of the call that the context belongs to, so code
// that knows nothing of this framework has them in its lines. An attribute "logger" names the logger, as zap's Named does:
//
//	log = log.With("logger", "store") // has the level of log.levels.store
func Slog(log *zap.Logger) *slog.Logger {
	h := slogHandler{core: log.Core(), name: log.Name()}
	if entry := log.Check(zapcore.ErrorLevel, ""); entry != nil {
		h.caller = entry.Caller.Defined // whether callers are wanted is known to zap alone
	}
	return slog.New(h)
}

// loggerKey is the attribute that becomes the name; entries have it under this very key.
const loggerKey = "logger"

// slogHandler writes records of log/slog to a core of zap.
type slogHandler struct {
	core   zapcore.Core
	name   string
	caller bool
	// open are groups, each with the attributes that were added in it. Attributes outside of groups are in core already.
	open []slogGroup
}

type slogGroup struct {
	name   string
	fields []zap.Field
}

var _ slog.Handler = slogHandler{}

// Enabled implements [slog.Handler].
func (h slogHandler) Enabled(_ context.Context, level slog.Level) bool {
	if c, ok := h.core.(core); ok {
		return zapLevel(level) >= c.levels.Of(h.name)
	}
	return h.core.Enabled(zapLevel(level))
}

// Handle implements [slog.Handler].
func (h slogHandler) Handle(ctx context.Context, r slog.Record) error {
	entry := zapcore.Entry{Level: zapLevel(r.Level), Time: r.Time, Message: r.Message}
	attrs := make([]zap.Field, 0, r.NumAttrs())
	name := h.name
	r.Attrs(func(a slog.Attr) bool {
		if len(h.open) == 0 && named(&name, a) {
			return true
		}
		attrs = appendAttr(attrs, a)
		return true
	})
	entry.LoggerName = name
	if h.caller && r.PC != 0 {
		frame, _ := runtime.CallersFrames([]uintptr{r.PC}).Next()
		entry.Caller = zapcore.NewEntryCaller(frame.PC, frame.File, frame.Line, true)
	}
	checked := h.core.Check(entry, nil)
	if checked == nil {
		return nil
	}
	fields := []zap.Field{Ctx(ctx)} // outside of groups
	open := h.open
	if len(attrs) == 0 { // a group with nothing in it is left out
		for len(open) > 0 && len(open[len(open)-1].fields) == 0 {
			open = open[:len(open)-1]
		}
	}
	for _, g := range open {
		fields = append(append(fields, zap.Namespace(g.name)), g.fields...)
	}
	checked.Write(append(fields, attrs...)...)
	return nil
}

// WithAttrs implements [slog.Handler].
func (h slogHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	var fields []zap.Field
	for _, a := range attrs {
		if len(h.open) > 0 || !named(&h.name, a) {
			fields = appendAttr(fields, a)
		}
	}
	if len(fields) == 0 {
		return h
	}
	if len(h.open) == 0 {
		h.core = h.core.With(fields)
		return h
	}
	h.open = slices.Clone(h.open)
	last := &h.open[len(h.open)-1]
	last.fields = append(slices.Clip(last.fields), fields...)
	return h
}

// WithGroup implements [slog.Handler].
func (h slogHandler) WithGroup(name string) slog.Handler {
	if name == "" {
		return h
	}
	h.open = append(slices.Clip(h.open), slogGroup{name: name})
	return h
}

// named adds the attribute "logger" to the name and reports whether it was that one.
func named(name *string, a slog.Attr) bool {
	if a.Key != loggerKey || a.Value.Kind() != slog.KindString {
		return false
	}
	if *name != "" {
		*name += "."
	}
	*name += a.Value.String()
	return true
}

func zapLevel(l slog.Level) zapcore.Level {
	switch {
	case l < slog.LevelInfo:
		return zapcore.DebugLevel
	case l < slog.LevelWarn:
		return zapcore.InfoLevel
	case l < slog.LevelError:
		return zapcore.WarnLevel
	}
	return zapcore.ErrorLevel
}

func appendAttr(to []zap.Field, a slog.Attr) []zap.Field {
	v := a.Value.Resolve()
	if a.Equal(slog.Attr{}) {
		return to
	}
	switch v.Kind() {
	case slog.KindString:
		return append(to, zap.String(a.Key, v.String()))
	case slog.KindInt64:
		return append(to, zap.Int64(a.Key, v.Int64()))
	case slog.KindUint64:
		return append(to, zap.Uint64(a.Key, v.Uint64()))
	case slog.KindFloat64:
		return append(to, zap.Float64(a.Key, v.Float64()))
	case slog.KindBool:
		return append(to, zap.Bool(a.Key, v.Bool()))
	case slog.KindDuration:
		return append(to, zap.Duration(a.Key, v.Duration()))
	case slog.KindTime:
		return append(to, zap.Time(a.Key, v.Time()))
	case slog.KindGroup:
		var fields []zap.Field
		if a.Key == "" {
			fields = to
		}
		for _, inner := range v.Group() {
			fields = appendAttr(fields, inner)
		}
		switch {
		case a.Key == "":
			return fields
		case len(fields) == 0:
			return to
		}
		return append(to, zap.Dict(a.Key, fields...))
	}
	return append(to, zap.Any(a.Key, v.Any()))
}
