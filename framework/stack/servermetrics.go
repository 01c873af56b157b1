package stack

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/newsvc/newsvc/framework/server"
)

// serverMetrics reads what the server refused, and what bounds it, when somebody scrapes. See docs/metrics.md.
type serverMetrics struct {
	refusals func() []server.Refusals

	refused, bound, inFlight *prometheus.Desc
}

// registerServerMetrics adds what the server tells of refused calls to the process' metrics; a process without a server
// has none.
func (s *Stack) registerServerMetrics() error {
	if s.server == nil {
		return nil
	}
	return s.telemetry.Registerer().Register(&serverMetrics{
		refusals: s.server.Refusals,
		refused: prometheus.NewDesc("newsvc_server_refused_total",
			"Calls that were refused before their handler ran, by reason: overload or rate_limit.", []string{"method", "reason"}, nil),
		bound: prometheus.NewDesc("newsvc_server_shedding_bound",
			"Calls of a method that load shedding admits at once; 0 while there is no overload.", []string{"method"}, nil),
		inFlight: prometheus.NewDesc("newsvc_server_shedding_in_flight",
			"Calls of a method that load shedding has admitted and that have not ended.", []string{"method"}, nil),
	})
}

// Describe implements [prometheus.Collector].
func (m *serverMetrics) Describe(out chan<- *prometheus.Desc) {
	out <- m.refused
	out <- m.bound
	out <- m.inFlight
}

// Collect implements [prometheus.Collector].
func (m *serverMetrics) Collect(out chan<- prometheus.Metric) {
	for _, r := range m.refusals() {
		out <- prometheus.MustNewConstMetric(m.refused, prometheus.CounterValue, float64(r.Shed), r.Method, "overload")
		out <- prometheus.MustNewConstMetric(m.refused, prometheus.CounterValue, float64(r.Limited), r.Method, "rate_limit")
		out <- prometheus.MustNewConstMetric(m.bound, prometheus.GaugeValue, float64(r.Bound), r.Method)
		out <- prometheus.MustNewConstMetric(m.inFlight, prometheus.GaugeValue, float64(r.InFlight), r.Method)
	}
}
