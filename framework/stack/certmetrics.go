package stack

import (
	"maps"
	"slices"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/newsvc/newsvc/framework/certs"
)

// certificateMetrics tells when the files of the configuration expire; they are read when somebody scrapes.
type certificateMetrics struct {
	config Config
	desc   *prometheus.Desc
}

func newCertificateMetrics(c Config) *certificateMetrics {
	return &certificateMetrics{c, prometheus.NewDesc("newsvc_certificate_expiry_timestamp_seconds",
		"When a certificate file expires, in Unix time; 0 when it can't be read.", []string{"use", "file"}, nil)}
}

// Describe implements [prometheus.Collector].
func (m *certificateMetrics) Describe(out chan<- *prometheus.Desc) { out <- m.desc }

// Collect implements [prometheus.Collector].
func (m *certificateMetrics) Collect(out chan<- prometheus.Metric) {
	add := func(use string, expiries []certs.Expiry) {
		first := map[string]float64{} // one file may hold a certificate and be its own authority
		for _, e := range expiries {
			at := 0.0
			if e.Err == nil {
				at = float64(e.At.Unix())
			}
			if before, twice := first[e.File]; !twice || at < before {
				first[e.File] = at
			}
		}
		for file, at := range first {
			out <- prometheus.MustNewConstMetric(m.desc, prometheus.GaugeValue, at, use, file)
		}
	}
	c := m.config
	add("server", c.Server.TLS.Expiry())
	add("admin", c.Admin.TLS.Expiry())
	add("http", c.HTTP.TLS.Expiry())
	add("etcd", c.Etcd.TLS.Expiry())
	for _, callee := range slices.Sorted(maps.Keys(c.Clients)) {
		add("clients."+callee, c.Clients[callee].TLS.Expiry())
	}
}
