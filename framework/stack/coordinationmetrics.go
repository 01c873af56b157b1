package stack

import (
	"slices"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/newsvc/newsvc/framework/coordination"
)

// coordinationMetrics tells of the leaderships and locks of this process, when somebody scrapes. What each metric means is written
// down in docs/metrics.md. The zero value tells of none.
type coordinationMetrics struct {
	mu                                sync.Mutex
	from                              []*coordination.Coordinator
	held, waiting, terms, lost, waits *prometheus.Desc
}

// add has the metrics tell of one more; the first one makes them known to the registry.
func (m *coordinationMetrics) add(c *coordination.Coordinator, to prometheus.Registerer) error {
	m.mu.Lock()
	first := len(m.from) == 0
	m.from = append(m.from, c)
	if first {
		desc := func(name, help string) *prometheus.Desc {
			return prometheus.NewDesc("newsvc_coordination_"+name, help, []string{"kind", "name"}, nil)
		}
		m.held = desc("held", "1 while this process leads, or holds the lock.")
		m.waiting = desc("waiting", "How many of this process wait for their turn to lead or to hold the lock.")
		m.terms = desc("terms_total", "How often this process began to lead, or took the lock.")
		m.lost = desc("lost_total", "How often a leadership or a lock ended without having been released.")
		m.waits = desc("wait_seconds_total", "Time for which this process waited for its turn.")
	}
	m.mu.Unlock()
	if !first {
		return nil
	}
	return to.Register(m)
}

// Describe implements [prometheus.Collector].
func (m *coordinationMetrics) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{m.held, m.waiting, m.terms, m.lost, m.waits} {
		out <- d
	}
}

// Collect implements [prometheus.Collector]. Several coordinators may know the same name.
func (m *coordinationMetrics) Collect(out chan<- prometheus.Metric) {
	m.mu.Lock()
	from := slices.Clone(m.from)
	m.mu.Unlock()
	sums := map[[2]string]coordination.Stats{}
	for _, c := range from {
		for _, s := range c.Stats() {
			sum := sums[[2]string{s.Kind, s.Name}]
			sum.Held, sum.Waiting, sum.Terms, sum.Lost, sum.Waited = sum.Held+s.Held, sum.Waiting+s.Waiting, sum.Terms+s.Terms, sum.Lost+s.Lost, sum.Waited+s.Waited
			sums[[2]string{s.Kind, s.Name}] = sum
		}
	}
	for of, s := range sums {
		tell := func(d *prometheus.Desc, as prometheus.ValueType, value float64) {
			out <- prometheus.MustNewConstMetric(d, as, value, of[0], of[1])
		}
		tell(m.held, prometheus.GaugeValue, float64(s.Held))
		tell(m.waiting, prometheus.GaugeValue, float64(s.Waiting))
		tell(m.terms, prometheus.CounterValue, float64(s.Terms))
		tell(m.lost, prometheus.CounterValue, float64(s.Lost))
		tell(m.waits, prometheus.CounterValue, s.Waited.Seconds())
	}
}
