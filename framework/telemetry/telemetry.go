// Package telemetry measures calls: metrics for Prometheus and traces for OpenTelemetry, both as plain gRPC
// interceptors. Nothing of it is global: no default registry, no default tracer, no handler installed by import.
//
// It costs only when it is used. Instruments are bound to each method once; the sampling decision is taken from the
// caller's header, or drawn, before anything is built; a call that is not sampled allocates nothing here. It is not a
// log and not a profiler, and it does not see bytes, attempts or connections: whoever needs those adds a stats handler.
//
// [New] starts nothing unless traces or metrics have an endpoint; then they are exported in the background until
// [Telemetry.Close].
package telemetry

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	"github.com/newsvc/newsvc/framework/internal/loop"
)

// scope names this package in the spans it makes.
const scope = "github.com/newsvc/newsvc/framework/telemetry"

// Params tells who is measured.
type Params struct {
	// Service is the name of the service, Version its version and Incarnation this start of it.
	Service, Version, Incarnation string
	// Log is told when export begins to fail and when it works again. Nil means silence.
	Log *zap.Logger
}

// Telemetry owns a metrics registry and a tracer provider and makes interceptors that feed both. Its methods may be
// called from any goroutine.
type Telemetry struct {
	registry *prometheus.Registry
	metrics  bool
	server   *calls
	client   *clientInstruments
	requests *Requests
	callers  *callers // nil: calls are not counted by who makes them
	pusher   *pusher  // nil: metrics go nowhere by themselves

	provider trace.TracerProvider
	tracer   trace.Tracer
	sdk      *sdktrace.TracerProvider // nil: no spans
	exporter *exporter                // nil: spans go to a processor of the caller, or nowhere
	batches  sdktrace.SpanProcessor   // what feeds exporter
	ratio    atomic.Uint64            // of math.MaxInt64

	closeOnce sync.Once
	closeErr  error
}

// Option changes what only code can change.
type Option interface{ apply(*options) }

type options struct{ processors []sdktrace.SpanProcessor }

type processorOption struct{ p sdktrace.SpanProcessor }

func (o processorOption) apply(opts *options) { opts.processors = append(opts.processors, o.p) }

// WithSpanProcessor hands every sampled span to p as well, and switches traces on without an endpoint. Close shuts p
// down. Tests pass a recorder.
func WithSpanProcessor(p sdktrace.SpanProcessor) Option { return processorOption{p} }

// New makes the instruments. It does not wait for a collector and does not fail when there is none; an error is a
// mistake in cfg.
func New(ctx context.Context, cfg Config, p Params, opts ...Option) (*Telemetry, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if p.Log == nil {
		p.Log = zap.NewNop()
	}
	var o options
	for _, opt := range opts {
		opt.apply(&o)
	}
	t := &Telemetry{registry: prometheus.NewRegistry(), metrics: cfg.Metrics.Enabled}
	t.server, t.client = newInstruments(cfg.Metrics, p.Service)
	t.requests = newRequests(cfg.Metrics, p.Service)
	if cfg.Metrics.Enabled && cfg.Metrics.Callers {
		t.callers = newCallers(p.Service)
	}
	if err := t.register(p); err != nil {
		return nil, err
	}
	if err := t.startTraces(ctx, cfg.Traces, p, o); err != nil {
		return nil, err
	}
	if cfg.Metrics.Endpoint != "" {
		pusher, err := newPusher(cfg.Metrics, p, t.registry)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("start export of metrics to %q: %w", cfg.Metrics.Endpoint, err), t.closeTraces(ctx))
		}
		t.pusher = pusher
		pusher.start(ctx)
	}
	return t, nil
}

func (t *Telemetry) startTraces(ctx context.Context, cfg TracesConfig, p Params, o options) error {
	t.ratio.Store(threshold(cfg.SampleRatio))
	if cfg.Endpoint != "" {
		exp, err := newExporter(ctx, cfg, p.Log, t.registry)
		if err != nil {
			return fmt.Errorf("start export of traces to %q: %w", cfg.Endpoint, err)
		}
		t.exporter = exp
		t.batches = sdktrace.NewBatchSpanProcessor(exp, sdktrace.WithExportTimeout(cfg.ExportTimeout))
		o.processors = append(o.processors, t.batches)
	}
	if len(o.processors) == 0 {
		t.provider = noop.NewTracerProvider()
		t.tracer = t.provider.Tracer(scope)
		return nil
	}
	sdkOpts := []sdktrace.TracerProviderOption{sdktrace.WithSampler(sampler{t}), sdktrace.WithResource(resourceOf(p))}
	for _, sp := range o.processors {
		sdkOpts = append(sdkOpts, sdktrace.WithSpanProcessor(sp))
	}
	t.sdk = sdktrace.NewTracerProvider(sdkOpts...)
	t.provider = t.sdk
	t.tracer = t.provider.Tracer(scope)
	return nil
}

// ServerInterceptors returns the interceptors of a server's outermost slot.
func (t *Telemetry) ServerInterceptors() (grpc.UnaryServerInterceptor, grpc.StreamServerInterceptor) {
	return t.unaryServer, t.streamServer
}

// ClientInterceptors returns the interceptors of connections to callee, to be placed outermost, so that a call and its
// retries are one.
func (t *Telemetry) ClientInterceptors(callee string) (grpc.UnaryClientInterceptor, grpc.StreamClientInterceptor) {
	c := &client{t: t, callee: callee, calls: t.client.of(callee)}
	return c.unary, c.stream
}

// Registerer is where other packages register metrics of their own. A second metric of the same name is refused.
func (t *Telemetry) Registerer() prometheus.Registerer { return t.registry }

// Gatherer reads all metrics, for tests and for pushing.
func (t *Telemetry) Gatherer() prometheus.Gatherer { return t.registry }

// MetricsHandler serves all metrics in the formats of Prometheus. It is nil when metrics are not enabled.
func (t *Telemetry) MetricsHandler() http.Handler {
	if !t.metrics {
		return nil
	}
	return promhttp.HandlerFor(t.registry, promhttp.HandlerOpts{
		EnableOpenMetrics: true, // carries the trace ids of sampled calls
		ErrorHandling:     promhttp.ContinueOnError,
	})
}

// TracerProvider makes tracers for spans of the user's own. Inside a call they follow the call's sampling decision;
// elsewhere the sample ratio decides. It is never nil; without traces its spans do nothing.
func (t *Telemetry) TracerProvider() trace.TracerProvider { return t.provider }

// SetSampleRatio changes the share of calls that start a trace, from 0 to 1, for calls that begin later.
func (t *Telemetry) SetSampleRatio(ratio float64) error {
	if err := checkRatio(ratio); err != nil {
		return fmt.Errorf("set the sample ratio of traces: %w", err)
	}
	t.ratio.Store(threshold(ratio))
	return nil
}

// Close exports the spans that are waiting and the metrics as they are then, no longer than until ctx ends, and joins what New
// started. Interceptors may still be called and then build no spans that anybody sees. Later calls return the same.
func (t *Telemetry) Close(ctx context.Context) error {
	t.closeOnce.Do(func() {
		var pushErr error
		pushed := loop.Start(ctx, func(ctx context.Context) {
			if t.pusher != nil {
				pushErr = t.pusher.close(ctx)
			}
		})
		err := t.closeTraces(ctx)
		<-pushed.Done()
		t.closeErr = errors.Join(err, pushErr)
	})
	return t.closeErr
}

func (t *Telemetry) closeTraces(ctx context.Context) error {
	if t.sdk == nil {
		return nil
	}
	err := t.sdk.Shutdown(ctx)
	if t.exporter != nil {
		// Without time left the provider passes its processors over, and nobody would let go of the exporter.
		_ = t.batches.Shutdown(ctx) // does nothing the second time
		t.exporter.abort()
	}
	if err != nil {
		return fmt.Errorf("export the last spans: %w", err)
	}
	return nil
}

func threshold(ratio float64) uint64 {
	if ratio >= 1 {
		return math.MaxInt64
	}
	return uint64(ratio * math.MaxInt64)
}

// draw decides about a call that nobody decided about before.
func (t *Telemetry) draw() bool {
	limit := t.ratio.Load()
	return limit == math.MaxInt64 || limit > 0 && rand.Uint64()>>1 < limit
}

type decidedKey struct{}

// sampler repeats the decision of the interceptors and decides for spans that begin outside of a call.
type sampler struct{ t *Telemetry }

// ShouldSample follows the parent. Without one, it follows the interceptor: inside of a server call that was not
// sampled, a span of the handler must not become a trace without a beginning.
func (s sampler) ShouldSample(p sdktrace.SamplingParameters) sdktrace.SamplingResult {
	parent := trace.SpanContextFromContext(p.ParentContext)
	var yes bool
	switch {
	case parent.IsValid():
		yes = parent.IsSampled()
	case p.ParentContext.Value(decidedKey{}) != nil:
		yes = true
	default:
		yes = grpc.ServerTransportStreamFromContext(p.ParentContext) == nil && s.t.draw()
	}
	result := sdktrace.SamplingResult{Decision: sdktrace.Drop, Tracestate: parent.TraceState()}
	if yes {
		result.Decision = sdktrace.RecordAndSample
	}
	return result
}

// Description is shown by tools of OpenTelemetry.
func (sampler) Description() string { return "decided at the head of the call" }
