package apptest

import (
	"context"
	"slices"
	"sync"
	"time"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

// Span is a part of a trace that has ended.
type Span struct {
	// Name is the method of a call, "user.v1.UserService/GetUser", or what the service's code said.
	Name string
	// Kind is server, client or internal; producer and consumer where code says so.
	Kind string
	// TraceID is that of the whole trace, ID that of this span and Parent that of the one around it; Parent is empty for the
	// first. They are hexadecimal.
	TraceID, ID, Parent string
	// Status is Unset, Ok or Error, and StatusText what was said about an error.
	Status, StatusText string
	// Attributes are what the span says besides, with values of type bool, int64, float64, string or slices of these.
	Attributes map[string]any
	// Events are the names of its events.
	Events []string
	// Start and End are when it began and ended.
	Start, End time.Time
}

// Spans returns the spans of a service that have ended, that of all its instances in the order in which they began. A call's
// spans are there when the call has returned. Calls of the test itself have their spans under [Caller]. [Start] must
// have been given [WithTraces].
func (a *Apps) Spans(service string) []Span {
	a.t.Helper()
	if !a.traces {
		a.t.Fatalf("apptest: the spans of %q were not kept; give Start the option WithTraces()", service)
	}
	var all []Span
	for _, i := range a.Instances(service) {
		all = append(all, i.spans.ended()...)
	}
	slices.SortStableFunc(all, func(a, b Span) int { return a.Start.Compare(b.Start) })
	return all
}

// spanRecorder keeps the spans of an instance.
type spanRecorder struct {
	mu    sync.Mutex
	spans []Span
}

var _ sdktrace.SpanProcessor = (*spanRecorder)(nil)

func (r *spanRecorder) ended() []Span {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.spans)
}

// OnStart does nothing.
func (r *spanRecorder) OnStart(context.Context, sdktrace.ReadWriteSpan) {}

// OnEnd keeps the span.
func (r *spanRecorder) OnEnd(s sdktrace.ReadOnlySpan) {
	span := Span{
		Name: s.Name(), Kind: s.SpanKind().String(),
		TraceID: s.SpanContext().TraceID().String(), ID: s.SpanContext().SpanID().String(),
		Status: s.Status().Code.String(), StatusText: s.Status().Description,
		Attributes: make(map[string]any, len(s.Attributes())), Start: s.StartTime(), End: s.EndTime(),
	}
	if s.Parent().SpanID().IsValid() {
		span.Parent = s.Parent().SpanID().String()
	}
	for _, a := range s.Attributes() {
		span.Attributes[string(a.Key)] = a.Value.AsInterface()
	}
	for _, e := range s.Events() {
		span.Events = append(span.Events, e.Name)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.spans = append(r.spans, span)
}

// Shutdown does nothing: spans can be read after the service was stopped.
func (r *spanRecorder) Shutdown(context.Context) error { return nil }

// ForceFlush does nothing.
func (r *spanRecorder) ForceFlush(context.Context) error { return nil }
