package stack

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/newsvc/newsvc/framework/auth"
)

// authKeyMetrics tells of the keys that tokens are verified with, when somebody scrapes. What each metric means is written down in
// docs/metrics.md.
type authKeyMetrics struct {
	stats              func() auth.Stats
	keys, age, failing *prometheus.Desc
}

func newAuthKeyMetrics(stats func() auth.Stats) *authKeyMetrics {
	return &authKeyMetrics{
		stats:   stats,
		keys:    prometheus.NewDesc("newsvc_auth_keys", "Keys that tokens are verified with.", nil, nil),
		age:     prometheus.NewDesc("newsvc_auth_keys_age_seconds", "How long ago the keys of tokens could be read last; 0 before the first time.", nil, nil),
		failing: prometheus.NewDesc("newsvc_auth_keys_failing", "1 while the last reading of the keys of tokens failed.", nil, nil),
	}
}

// Describe implements [prometheus.Collector].
func (m *authKeyMetrics) Describe(out chan<- *prometheus.Desc) {
	out <- m.keys
	out <- m.age
	out <- m.failing
}

// Collect implements [prometheus.Collector].
func (m *authKeyMetrics) Collect(out chan<- prometheus.Metric) {
	st := m.stats()
	out <- prometheus.MustNewConstMetric(m.keys, prometheus.GaugeValue, float64(st.Keys))
	out <- prometheus.MustNewConstMetric(m.age, prometheus.GaugeValue, st.KeysAge.Seconds())
	out <- prometheus.MustNewConstMetric(m.failing, prometheus.GaugeValue, truth(st.KeysError != ""))
}
