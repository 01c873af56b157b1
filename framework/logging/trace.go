package logging

import (
	"context"

	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// Ctx returns a field that writes trace_id and span_id of the OpenTelemetry span in ctx beside the other fields of the
// entry, and nothing when there is no span. It is cheap enough for every entry of a call:
//
//	log.Info("user created", logging.Ctx(ctx), zap.String("user", id))
func Ctx(ctx context.Context) zap.Field {
	if !trace.SpanContextFromContext(ctx).IsValid() {
		return zap.Skip()
	}
	return zap.Field{Type: zapcore.InlineMarshalerType, Interface: spanField{ctx}}
}

// spanField is a context as well as a marshaler, so that a core which hands entries to OpenTelemetry finds the span in it.
type spanField struct{ context.Context }

// MarshalLogObject writes the two ids.
func (f spanField) MarshalLogObject(enc zapcore.ObjectEncoder) error {
	span := trace.SpanContextFromContext(f.Context)
	enc.AddString("trace_id", span.TraceID().String())
	enc.AddString("span_id", span.SpanID().String())
	return nil
}
