package stack

import "github.com/prometheus/client_golang/prometheus"

// configMetrics tells how reloading goes, when somebody scrapes. What each metric means is written down in docs/metrics.md.
type configMetrics struct {
	live                            *Live
	reloads, refused, pending, held *prometheus.Desc
}

func newConfigMetrics(live *Live) *configMetrics {
	return &configMetrics{
		live:    live,
		reloads: prometheus.NewDesc("newsvc_config_reloads_total", "How often the configuration was read again, by result: applied, unchanged or refused.", []string{"result"}, nil),
		refused: prometheus.NewDesc("newsvc_config_refused", "1 while the configuration as it is written can't be used and an older one is in force.", nil, nil),
		pending: prometheus.NewDesc("newsvc_config_pending_keys", "Keys that were changed and take effect with a restart.", nil, nil),
		held:    prometheus.NewDesc("newsvc_config_held_keys", "Settings that etcd has lost and that stay in force.", nil, nil),
	}
}

// Describe implements [prometheus.Collector].
func (m *configMetrics) Describe(out chan<- *prometheus.Desc) {
	out <- m.reloads
	out <- m.refused
	out <- m.pending
	out <- m.held
}

// Collect implements [prometheus.Collector].
func (m *configMetrics) Collect(out chan<- prometheus.Metric) {
	st := m.live.State()
	for result, n := range map[string]int{"applied": st.Applied, "unchanged": st.Unchanged, "refused": st.Rejected} {
		out <- prometheus.MustNewConstMetric(m.reloads, prometheus.CounterValue, float64(n), result)
	}
	out <- prometheus.MustNewConstMetric(m.refused, prometheus.GaugeValue, truth(st.Refused != nil || len(st.Failed) > 0))
	out <- prometheus.MustNewConstMetric(m.pending, prometheus.GaugeValue, float64(len(st.Pending)))
	held := 0
	if m.live.etcd != nil {
		held = len(m.live.etcd.State().Held)
	}
	out <- prometheus.MustNewConstMetric(m.held, prometheus.GaugeValue, float64(held))
}
