package telemetry

import (
	"context"
	"errors"
	"maps"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"go.opentelemetry.io/otel/attribute"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

// other stands for every method that is not known beforehand, so that whoever sends random method names cannot make
// the number of series grow.
const other = "other"

// Names of metrics and labels are those of grpc-go's own OpenTelemetry plugin, where it has them.
const (
	labelMethod = "grpc_method"
	labelStatus = "grpc_status"
	labelCallee = "callee"
	labelCaller = "caller"
)

// Labels of exemplars, as OpenTelemetry's own exporter names them.
const (
	exemplarTrace = "trace_id"
	exemplarSpan  = "span_id"
)

// buckets returns the bounds of durations in seconds. They reach from a call on loopback to one that hangs; each bound
// is a series per method and status, so there are 16 and not the 40 of grpc-go.
func buckets() []float64 {
	return []float64{0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10}
}

// statusName is the value of grpc_status.
func statusName(c codes.Code) string {
	names := [...]string{
		"OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
		"PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED",
		"INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
	}
	if int(c) >= len(names) {
		c = codes.Unknown
	}
	return names[c]
}

// calls holds the instruments of one side, for the client of one callee, by method.
type calls struct {
	durations *prometheus.HistogramVec // nil: metrics are off
	inFlight  *prometheus.GaugeVec
	extra     prometheus.Labels // labels that are the same for all methods

	known atomic.Pointer[map[string]*method] // copied on write: reading takes no lock
	mu    sync.Mutex                         // held by writers
	rest  *method
}

// method is one method with its instruments bound.
type method struct {
	name     string // without the leading slash; also the name of spans
	quiet    bool   // health checks and reflection: counted but never traced
	spanOpts []trace.SpanStartOption

	durations *prometheus.HistogramVec
	inFlight  prometheus.Gauge
	labels    prometheus.Labels
	byCode    [codes.Unauthenticated + 1]atomic.Pointer[observer]
}

// observer is a histogram that can remember a trace. Prometheus has two interfaces for it, both met by one value.
type observer struct {
	prometheus.Observer
	exemplar prometheus.ExemplarObserver
}

type clientInstruments struct {
	durations *prometheus.HistogramVec
	inFlight  *prometheus.GaugeVec

	mu      sync.Mutex
	callees map[string]*calls
}

// newInstruments labels all calls with both sides, as far as they are known: a server is the callee of its calls, and a client
// their caller. That one label never changes within a process, so it costs calls nothing.
func newInstruments(cfg MetricsConfig, service string) (*calls, *clientInstruments) {
	if !cfg.Enabled {
		return newCalls(nil, nil, nil), &clientInstruments{callees: map[string]*calls{}}
	}
	histogram := func(name, help, side string, labels ...string) *prometheus.HistogramVec {
		return newHistogram(cfg, name, help, prometheus.Labels{side: service}, labels...)
	}
	gauge := func(name, help, side string, labels ...string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help, ConstLabels: prometheus.Labels{side: service}}, labels)
	}
	server := newCalls(
		histogram("grpc_server_call_duration_seconds", "Time from the first interceptor to the end of the call.", labelCallee, labelMethod, labelStatus),
		gauge("grpc_server_calls_in_flight", "Calls that are being handled.", labelCallee, labelMethod), nil)
	return server, &clientInstruments{
		durations: histogram("grpc_client_call_duration_seconds", "Time of the call as its caller sees it, retries included.", labelCaller, labelCallee, labelMethod, labelStatus),
		inFlight:  gauge("grpc_client_calls_in_flight", "Calls that wait for their end.", labelCaller, labelCallee, labelMethod),
		callees:   map[string]*calls{},
	}
}

func newHistogram(cfg MetricsConfig, name, help string, fixed prometheus.Labels, labels ...string) *prometheus.HistogramVec {
	opts := prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets(), ConstLabels: fixed}
	if cfg.NativeHistograms {
		opts.NativeHistogramBucketFactor = 1.1
		opts.NativeHistogramMaxBucketNumber = 160
		opts.NativeHistogramMinResetDuration = time.Hour
	}
	return prometheus.NewHistogramVec(opts, labels)
}

func newCalls(durations *prometheus.HistogramVec, inFlight *prometheus.GaugeVec, extra prometheus.Labels) *calls {
	c := &calls{durations: durations, inFlight: inFlight, extra: extra}
	c.known.Store(&map[string]*method{})
	c.rest = c.bind(other)
	return c
}

// of returns the instruments of one callee, always the same ones.
func (c *clientInstruments) of(callee string) *calls {
	c.mu.Lock()
	defer c.mu.Unlock()
	if found := c.callees[callee]; found != nil {
		return found
	}
	made := newCalls(c.durations, c.inFlight, prometheus.Labels{labelCallee: callee})
	c.callees[callee] = made
	return made
}

// register adds everything that is measured without being asked.
func (t *Telemetry) register(p Params) error {
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "newsvc_build_info", Help: "Always 1; the labels say what runs.",
		ConstLabels: prometheus.Labels{
			"service": p.Service, "version": p.Version, "incarnation": p.Incarnation, "go_version": runtime.Version(),
		},
	})
	build.Set(1)
	cs := []prometheus.Collector{
		build,
		collectors.NewGoCollector(collectors.WithGoCollectorRuntimeMetrics(collectors.MetricsScheduler)),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	}
	if t.metrics {
		cs = append(cs, t.server.durations, t.server.inFlight, t.client.durations, t.client.inFlight)
	}
	if t.callers != nil {
		cs = append(cs, t.callers.total)
	}
	var errs []error
	for _, c := range cs {
		errs = append(errs, t.registry.Register(c))
	}
	return errors.Join(errs...)
}

// find returns the method, or nil when it was not seen before.
func (c *calls) find(fullMethod string) *method { return (*c.known.Load())[fullMethod] }

// add binds instruments to a method that was not seen before. One that is not vouched for gets those of "other".
func (c *calls) add(fullMethod string, vouched bool) *method {
	if !vouched && !inRegistry(fullMethod) {
		return c.rest
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	old := *c.known.Load()
	if m := old[fullMethod]; m != nil {
		return m
	}
	next := make(map[string]*method, len(old)+1)
	maps.Copy(next, old)
	m := c.bind(strings.TrimPrefix(fullMethod, "/"))
	next[fullMethod] = m
	c.known.Store(&next)
	return m
}

// inRegistry reports whether a linked .proto file declares the method.
func inRegistry(fullMethod string) bool {
	name := strings.Replace(strings.TrimPrefix(fullMethod, "/"), "/", ".", 1)
	d, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(name))
	if err != nil {
		return false
	}
	_, ok := d.(protoreflect.MethodDescriptor)
	return ok
}

func (c *calls) bind(name string) *method {
	attrs := []attribute.KeyValue{semconv.RPCSystemNameGRPC, semconv.RPCMethod(name)}
	if callee := c.extra[labelCallee]; callee != "" {
		attrs = append(attrs, semconv.ServicePeerName(callee), semconv.ServerAddress(callee))
	}
	m := &method{
		name:      name,
		quiet:     strings.HasPrefix(name, "grpc.health.") || strings.HasPrefix(name, "grpc.reflection."),
		spanOpts:  []trace.SpanStartOption{trace.WithAttributes(attrs...)},
		durations: c.durations,
	}
	if c.durations == nil {
		return m
	}
	m.labels = prometheus.Labels{labelMethod: name}
	maps.Copy(m.labels, c.extra)
	m.inFlight = c.inFlight.With(m.labels)
	return m
}

func (m *method) begin() time.Time {
	if m.inFlight == nil {
		return time.Time{}
	}
	m.inFlight.Inc()
	return time.Now()
}

// end counts a call that began at begin. A sampled call leaves its trace in the histogram.
func (m *method) end(begin time.Time, code codes.Code, span trace.Span) {
	if m.inFlight == nil {
		return
	}
	seconds := time.Since(begin).Seconds()
	m.inFlight.Dec()
	o := m.observer(code)
	if span == nil {
		o.Observe(seconds)
		return
	}
	sc := span.SpanContext()
	o.exemplar.ObserveWithExemplar(seconds, prometheus.Labels{exemplarTrace: sc.TraceID().String(), exemplarSpan: sc.SpanID().String()})
}

func (m *method) observer(code codes.Code) *observer {
	if int(code) >= len(m.byCode) {
		code = codes.Unknown
	}
	if o := m.byCode[code].Load(); o != nil {
		return o
	}
	labels := prometheus.Labels{labelStatus: statusName(code)}
	maps.Copy(labels, m.labels)
	h := m.durations.With(labels)
	o := &observer{Observer: h}
	o.exemplar, _ = h.(prometheus.ExemplarObserver)
	m.byCode[code].Store(o) // whoever else stores at the same time stores the same histogram
	return o
}

// codeOf returns what gRPC makes of an error of a handler or of a call. completed is false when it ended by a panic.
func codeOf(err error, completed bool) codes.Code {
	switch {
	case !completed:
		return codes.Internal
	case err == nil:
		return codes.OK
	}
	if s, ok := status.FromError(err); ok {
		return s.Code()
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return codes.DeadlineExceeded
	}
	if errors.Is(err, context.Canceled) {
		return codes.Canceled
	}
	return codes.Unknown
}
