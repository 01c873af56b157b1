package telemetry

import (
	"math"
	"strings"
	"time"

	dto "github.com/prometheus/client_model/go"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	metricpb "go.opentelemetry.io/proto/otlp/metrics/v1"
	resourcepb "go.opentelemetry.io/proto/otlp/resource/v1"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// toOTLP turns what Prometheus would see into what OTLP sends: cumulative, and under the same names and labels, so that
// dashboards and alerts fit whichever way the metrics took. Native histograms are sent by their classic buckets.
func toOTLP(families []*dto.MetricFamily, res *resourcepb.Resource, began, now time.Time) *metricpb.ResourceMetrics {
	c := converter{began: uint64(began.UnixNano()), now: uint64(now.UnixNano())}
	scoped := &metricpb.ScopeMetrics{Scope: &commonpb.InstrumentationScope{Name: scope}}
	for _, f := range families {
		m := &metricpb.Metric{Name: f.GetName(), Description: f.GetHelp(), Unit: unitOf(f.GetName())}
		if c.fill(m, f) {
			scoped.Metrics = append(scoped.Metrics, m)
		}
	}
	return &metricpb.ResourceMetrics{Resource: res, ScopeMetrics: []*metricpb.ScopeMetrics{scoped}}
}

// unitOf is the unit that a name ends with; the names of Prometheus say it.
func unitOf(name string) string {
	switch name = strings.TrimSuffix(name, "_total"); {
	case strings.HasSuffix(name, "_seconds"):
		return "s"
	case strings.HasSuffix(name, "_bytes"):
		return "By"
	}
	return ""
}

// converter holds the times of one push, in nanoseconds.
type converter struct{ began, now uint64 }

const cumulative = metricpb.AggregationTemporality_AGGREGATION_TEMPORALITY_CUMULATIVE

// fill adds the points of a family; it returns false for a kind that is not known.
func (c converter) fill(m *metricpb.Metric, f *dto.MetricFamily) bool {
	switch f.GetType() {
	case dto.MetricType_COUNTER:
		sum := &metricpb.Sum{AggregationTemporality: cumulative, IsMonotonic: true}
		for _, p := range f.GetMetric() {
			sum.DataPoints = append(sum.DataPoints, c.number(p, p.GetCounter().GetValue(), c.since(p.GetCounter().GetCreatedTimestamp())))
		}
		m.Data = &metricpb.Metric_Sum{Sum: sum}
	case dto.MetricType_GAUGE, dto.MetricType_UNTYPED:
		gauge := &metricpb.Gauge{}
		for _, p := range f.GetMetric() {
			gauge.DataPoints = append(gauge.DataPoints, c.number(p, p.GetGauge().GetValue()+p.GetUntyped().GetValue(), 0)) // one is nil
		}
		m.Data = &metricpb.Metric_Gauge{Gauge: gauge}
	case dto.MetricType_HISTOGRAM:
		histogram := &metricpb.Histogram{AggregationTemporality: cumulative}
		for _, p := range f.GetMetric() {
			histogram.DataPoints = append(histogram.DataPoints, c.histogram(p))
		}
		m.Data = &metricpb.Metric_Histogram{Histogram: histogram}
	case dto.MetricType_SUMMARY:
		summary := &metricpb.Summary{}
		for _, p := range f.GetMetric() {
			summary.DataPoints = append(summary.DataPoints, c.summary(p))
		}
		m.Data = &metricpb.Metric_Summary{Summary: summary}
	default:
		return false
	}
	return true
}

func (c converter) since(created *timestamppb.Timestamp) uint64 {
	if created == nil {
		return c.began
	}
	return uint64(created.AsTime().UnixNano())
}

func (c converter) number(m *dto.Metric, value float64, since uint64) *metricpb.NumberDataPoint {
	return &metricpb.NumberDataPoint{
		Attributes: attributes(m), StartTimeUnixNano: since, TimeUnixNano: c.now,
		Value: &metricpb.NumberDataPoint_AsDouble{AsDouble: value},
	}
}

func (c converter) histogram(m *dto.Metric) *metricpb.HistogramDataPoint {
	h := m.GetHistogram()
	sum := h.GetSampleSum()
	point := &metricpb.HistogramDataPoint{
		Attributes: attributes(m), StartTimeUnixNano: c.since(h.GetCreatedTimestamp()), TimeUnixNano: c.now,
		Count: h.GetSampleCount(), Sum: &sum,
	}
	below := uint64(0)
	for _, b := range h.GetBucket() {
		if e := b.GetExemplar(); e != nil {
			point.Exemplars = append(point.Exemplars, exemplar(e))
		}
		if math.IsInf(b.GetUpperBound(), 1) {
			continue
		}
		point.ExplicitBounds = append(point.ExplicitBounds, b.GetUpperBound())
		point.BucketCounts = append(point.BucketCounts, b.GetCumulativeCount()-below)
		below = b.GetCumulativeCount()
	}
	point.BucketCounts = append(point.BucketCounts, h.GetSampleCount()-below)
	return point
}

func (c converter) summary(m *dto.Metric) *metricpb.SummaryDataPoint {
	s := m.GetSummary()
	point := &metricpb.SummaryDataPoint{
		Attributes: attributes(m), StartTimeUnixNano: c.since(s.GetCreatedTimestamp()), TimeUnixNano: c.now,
		Count: s.GetSampleCount(), Sum: s.GetSampleSum(),
	}
	for _, q := range s.GetQuantile() {
		point.QuantileValues = append(point.QuantileValues, &metricpb.SummaryDataPoint_ValueAtQuantile{Quantile: q.GetQuantile(), Value: q.GetValue()})
	}
	return point
}

// exemplar carries the trace as ids and not as labels.
func exemplar(e *dto.Exemplar) *metricpb.Exemplar {
	out := &metricpb.Exemplar{
		TimeUnixNano: uint64(e.GetTimestamp().AsTime().UnixNano()),
		Value:        &metricpb.Exemplar_AsDouble{AsDouble: e.GetValue()},
	}
	for _, l := range e.GetLabel() {
		var trace [16]byte
		var span [8]byte
		switch v := l.GetValue(); {
		case l.GetName() == exemplarTrace && len(v) == 2*len(trace) && unhex(trace[:], v):
			out.TraceId = trace[:]
		case l.GetName() == exemplarSpan && len(v) == 2*len(span) && unhex(span[:], v):
			out.SpanId = span[:]
		default:
			out.FilteredAttributes = append(out.FilteredAttributes, text(l.GetName(), v))
		}
	}
	return out
}

func attributes(m *dto.Metric) []*commonpb.KeyValue {
	out := make([]*commonpb.KeyValue, 0, len(m.GetLabel()))
	for _, l := range m.GetLabel() {
		out = append(out, text(l.GetName(), l.GetValue()))
	}
	return out
}

func text(key, value string) *commonpb.KeyValue {
	return &commonpb.KeyValue{Key: key, Value: &commonpb.AnyValue{Value: &commonpb.AnyValue_StringValue{StringValue: value}}}
}
