package telemetry

import (
	"context"

	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/metadata"
)

// Headers of W3C Trace Context, https://www.w3.org/TR/trace-context/.
const (
	headerParent = "traceparent"
	headerState  = "tracestate"
)

// Layout of a traceparent of version 00: version-traceid-spanid-flags, in hexadecimal digits.
const (
	posTrace  = 3
	posSpan   = posTrace + 32 + 1
	posFlags  = posSpan + 16 + 1
	parentLen = posFlags + 2
)

// incoming reads the caller's span from the header of a call. Without one it allocates nothing.
func incoming(ctx context.Context) (trace.SpanContext, bool) {
	values := metadata.ValueFromIncomingContext(ctx, headerParent)
	if len(values) == 0 {
		return trace.SpanContext{}, false
	}
	// A handler that forwards its own headers sends two; the last one was added by the nearest hop.
	cfg, ok := parseParent(values[len(values)-1])
	if !ok {
		return trace.SpanContext{}, false
	}
	cfg.Remote = true
	if states := metadata.ValueFromIncomingContext(ctx, headerState); len(states) > 0 {
		if ts, err := trace.ParseTraceState(states[len(states)-1]); err == nil {
			cfg.TraceState = ts // a bad state is dropped and the parent kept, as the specification asks
		}
	}
	return trace.NewSpanContext(cfg), true
}

// parseParent reads a traceparent. Versions after 00 may be longer and are read as far as they are known.
func parseParent(s string) (cfg trace.SpanContextConfig, ok bool) {
	if len(s) < parentLen || s[posTrace-1] != '-' || s[posSpan-1] != '-' || s[posFlags-1] != '-' {
		return cfg, false
	}
	var version, flags [1]byte
	if !unhex(version[:], s[:2]) || version[0] == 0xff || !unhex(flags[:], s[posFlags:parentLen]) {
		return cfg, false
	}
	if len(s) > parentLen && (version[0] == 0 || s[parentLen] != '-') {
		return cfg, false
	}
	if !unhex(cfg.TraceID[:], s[posTrace:posSpan-1]) || !unhex(cfg.SpanID[:], s[posSpan:posFlags-1]) {
		return cfg, false
	}
	cfg.TraceFlags = trace.TraceFlags(flags[0]) & trace.FlagsSampled
	return cfg, cfg.TraceID.IsValid() && cfg.SpanID.IsValid()
}

// unhex decodes lower-case digits, the only ones allowed, and does not allocate.
func unhex(dst []byte, s string) bool {
	for i := range dst {
		hi, lo := digit(s[2*i]), digit(s[2*i+1])
		if hi > 15 || lo > 15 {
			return false
		}
		dst[i] = hi<<4 | lo
	}
	return true
}

func digit(c byte) byte {
	switch {
	case '0' <= c && c <= '9':
		return c - '0'
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10
	}
	return 0xff
}

// inject adds the span to the headers of an outgoing call.
func inject(ctx context.Context, sc trace.SpanContext) context.Context {
	if state := sc.TraceState(); state.Len() > 0 {
		return metadata.AppendToOutgoingContext(ctx, headerParent, formatParent(sc), headerState, state.String())
	}
	return metadata.AppendToOutgoingContext(ctx, headerParent, formatParent(sc))
}

func formatParent(sc trace.SpanContext) string {
	traceID, spanID := sc.TraceID(), sc.SpanID()
	b := make([]byte, 0, parentLen)
	b = append(b, "00-"...)
	b = appendHex(b, traceID[:])
	b = append(b, '-')
	b = appendHex(b, spanID[:])
	if sc.IsSampled() {
		return string(append(b, "-01"...))
	}
	return string(append(b, "-00"...))
}

func appendHex(b, src []byte) []byte {
	const digits = "0123456789abcdef"
	for _, c := range src {
		b = append(b, digits[c>>4], digits[c&15])
	}
	return b
}
