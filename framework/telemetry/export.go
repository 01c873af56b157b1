package telemetry

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.uber.org/zap"
)

// exporter stands before the OTLP exporter. It counts, logs when export begins to fail and when it works again (the
// SDK would tell a global handler), and can be told to give up at once.
type exporter struct {
	next     sdktrace.SpanExporter
	log      *zap.Logger
	endpoint string
	exported prometheus.Counter
	lost     prometheus.Counter

	stop  context.CancelCauseFunc
	stopC context.Context
	done  chan struct{} // closed when the SDK has let go of the exporter
	once  sync.Once

	mu      sync.Mutex
	failing bool
}

// newExporter makes an exporter; it connects when it has spans to send.
func newExporter(ctx context.Context, cfg TracesConfig, log *zap.Logger, reg prometheus.Registerer) (*exporter, error) {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	e := &exporter{
		log: log, endpoint: cfg.Endpoint, done: make(chan struct{}),
		exported: counter("newsvc_trace_spans_exported_total", "Spans that the collector took."),
		lost:     counter("newsvc_trace_spans_lost_total", "Spans that could not be exported."),
	}
	for _, c := range []prometheus.Collector{e.exported, e.lost} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	u, err := newUploader(cfg.collector())
	if err != nil {
		return nil, err
	}
	if e.next, err = otlptrace.New(ctx, u); err != nil {
		return nil, err
	}
	e.stopC, e.stop = context.WithCancelCause(context.WithoutCancel(ctx))
	return e, nil
}

// ExportSpans hands a batch over. A failure is counted and logged here and never reaches the SDK.
func (e *exporter) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(e.stopC, func() { cancel(context.Cause(e.stopC)) })()
	var err error
	if err = ctx.Err(); err == nil {
		err = e.next.ExportSpans(ctx, spans)
	}
	e.note(len(spans), err)
	return nil
}

func (e *exporter) note(spans int, err error) {
	e.mu.Lock()
	before := e.failing
	e.failing = err != nil
	e.mu.Unlock()
	lost := 0
	if part := (*rejectedError)(nil); errors.As(err, &part) {
		lost = min(spans, int(part.count))
	} else if err != nil {
		lost = spans
	}
	e.lost.Add(float64(lost))
	e.exported.Add(float64(spans - lost))
	switch {
	case err != nil && !before:
		e.log.Warn("traces cannot be exported and are dropped until the collector takes them again; calls are not affected",
			zap.String("endpoint", e.endpoint), zap.Error(err))
	case err == nil && before:
		e.log.Info("traces are exported again", zap.String("endpoint", e.endpoint))
	}
}

// Shutdown is called by the SDK after the last batch, maybe long after the SDK's own Shutdown gave up.
func (e *exporter) Shutdown(ctx context.Context) error {
	defer e.once.Do(func() { close(e.done) })
	err := e.next.Shutdown(ctx)
	if ctx.Err() != nil {
		return nil // whoever ran out of time has reported it
	}
	return err
}

// abort ends exports that are still under way and waits until the SDK has let go; after an orderly end that is at once.
func (e *exporter) abort() {
	e.stop(fmt.Errorf("export to %q: out of time; spans were lost", e.endpoint))
	<-e.done
}

// resourceOf has no schema, so that what the environment adds to it cannot contradict.
func resourceOf(p Params) *resource.Resource {
	attrs := []attribute.KeyValue{semconv.ServiceName(p.Service)}
	if p.Version != "" {
		attrs = append(attrs, semconv.ServiceVersion(p.Version))
	}
	if p.Incarnation != "" {
		attrs = append(attrs, semconv.ServiceInstanceID(p.Incarnation))
	}
	return resource.NewSchemaless(attrs...)
}
