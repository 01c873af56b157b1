package stack

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/connectivity"

	"github.com/newsvc/newsvc/framework/client"
	"github.com/newsvc/newsvc/framework/discovery"
	"github.com/newsvc/newsvc/framework/discovery/cache"
	"github.com/newsvc/newsvc/framework/discovery/etcd"
)

// buildMetrics adds what is known of refused calls, registration and discovery to the process' metrics.
func (s *Stack) buildMetrics() error {
	if err := s.registerServerMetrics(); err != nil {
		return err
	}
	return s.telemetry.Registerer().Register(newDiscoveryMetrics(s))
}

// discoveryMetrics reads what the rooms know when somebody scrapes; between scrapes it costs nothing. What each metric
// means is written down in docs/metrics.md.
type discoveryMetrics struct {
	s *Stack

	registered, leaseLeft, registrations  *prometheus.Desc
	instances, held, guarding, staleness  *prometheus.Desc
	watchLag, resyncs, missed, unreadable *prometheus.Desc
	connections, ejected, ejections       *prometheus.Desc
	hedges                                *prometheus.Desc
}

func newDiscoveryMetrics(s *Stack) *discoveryMetrics {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("newsvc_"+name, help, labels, nil)
	}
	return &discoveryMetrics{
		s:             s,
		registered:    desc("registration_registered", "1 while this instance is known to be registered, 0 while it is not or that can't be told."),
		leaseLeft:     desc("registration_lease_remaining_seconds", "Time until the lease runs out if it is not renewed, by the last acknowledged renewal."),
		registrations: desc("registrations_total", "How often this instance was announced; each one after the first means that it had been lost or had left."),
		instances:     desc("discovery_instances", "Instances of a callee by what etcd says of them: up or draining.", "callee", "state"),
		held:          desc("discovery_held_instances", "Instances of a callee that vanished without draining and are not given up yet.", "callee"),
		guarding:      desc("discovery_guarding", "1 while so many instances of a callee vanished at once that the held ones stay in use.", "callee"),
		staleness:     desc("discovery_staleness_seconds", "Age of what is known of a callee; 0 while etcd is being followed.", "callee"),
		watchLag:      desc("discovery_watch_lag_seconds", "Time since etcd's last sign of life on the watch of a callee: no change older than that can be unknown.", "callee"),
		resyncs:       desc("discovery_resyncs_total", "How often a callee was listed, by reason.", "callee", "reason"),
		missed:        desc("discovery_missed_events_total", "Changes that a list found and the watch should have told before.", "callee"),
		unreadable:    desc("discovery_unreadable_values", "Keys of a callee whose value can't be read.", "callee"),
		connections:   desc("client_endpoints", "Instances that a callee's connection uses, by the state of their own connection.", "callee", "connectivity"),
		ejected:       desc("client_ejected_instances", "Connected instances of a callee that get no calls because they were sick.", "callee"),
		ejections:     desc("client_ejections_total", "How often an instance of a callee was ejected; anew when the connection is replaced.", "callee"),
		hedges:        desc("client_hedges_total", "Attempts that were made because an answer was late, by whether their answer came first: won or lost.", "callee", "outcome"),
	}
}

// Describe implements [prometheus.Collector].
func (m *discoveryMetrics) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		m.registered, m.leaseLeft, m.registrations, m.instances, m.held, m.guarding, m.staleness, m.watchLag, m.resyncs,
		m.missed, m.unreadable, m.connections, m.ejected, m.ejections, m.hedges,
	} {
		out <- d
	}
}

// sample is one value of a metric.
type sample func(d *prometheus.Desc, kind prometheus.ValueType, value float64, labels ...string)

// Collect implements [prometheus.Collector].
func (m *discoveryMetrics) Collect(out chan<- prometheus.Metric) {
	add := func(d *prometheus.Desc, kind prometheus.ValueType, value float64, labels ...string) {
		metric, err := prometheus.NewConstMetric(d, kind, value, labels...)
		if err != nil {
			metric = prometheus.NewInvalidMetric(d, err)
		}
		out <- metric
	}
	m.registration(add)
	for _, st := range m.s.cache.State() {
		m.service(add, st)
	}
	for _, w := range m.s.watches() {
		m.watch(add, w)
	}
	for _, st := range m.s.clients.State() {
		m.endpoints(add, st)
	}
}

// endpoints adds how many READY instances a callee has even when it has none, or nobody could watch for that.
func (m *discoveryMetrics) endpoints(add sample, st client.State) {
	states := map[string]int{}
	if st.Policy.Balancer == client.RoundRobin {
		states[connectivity.Ready.String()] = 0
	}
	ejected := 0
	for _, e := range m.s.endpoints(st.Callee) {
		states[e.Connectivity]++
		if e.Ejected != "" {
			ejected++
		}
	}
	add(m.ejected, prometheus.GaugeValue, float64(ejected), st.Callee)
	add(m.ejections, prometheus.CounterValue, float64(st.Ejections), st.Callee)
	add(m.hedges, prometheus.CounterValue, float64(st.HedgesWon), st.Callee, "won")
	add(m.hedges, prometheus.CounterValue, float64(st.Hedges-st.HedgesWon), st.Callee, "lost")
	for state, n := range states {
		add(m.connections, prometheus.GaugeValue, float64(n), st.Callee, state)
	}
}

// registration adds nothing for a process that does not register.
func (m *discoveryMetrics) registration(add sample) {
	member := m.s.membership()
	if member == nil {
		return
	}
	v := m.s.registrationNow()
	up := v != nil && v.State == discovery.RegistrationUp
	add(m.registered, prometheus.GaugeValue, truth(up))
	add(m.registrations, prometheus.CounterValue, float64(member.announced()))
	if v != nil && v.Lease != "" {
		add(m.leaseLeft, prometheus.GaugeValue, v.LeaseRemain)
	}
}

func (m *discoveryMetrics) service(add sample, st cache.ServiceState) {
	held := make(map[string]bool, len(st.Held))
	for _, h := range st.Held {
		held[h.Instance.Addr] = true
	}
	up := 0
	for _, i := range st.Update.Instances {
		if i.State == discovery.StateUp && !held[i.Addr] { // what is held is not there, as far as etcd knows
			up++
		}
	}
	add(m.instances, prometheus.GaugeValue, float64(up), st.Service, string(discovery.StateUp))
	add(m.instances, prometheus.GaugeValue, float64(st.Draining), st.Service, string(discovery.StateDraining))
	add(m.held, prometheus.GaugeValue, float64(len(st.Held)), st.Service)
	add(m.guarding, prometheus.GaugeValue, truth(st.Guarding), st.Service)
	add(m.staleness, prometheus.GaugeValue, staleness(st).Seconds(), st.Service)
}

func (m *discoveryMetrics) watch(add sample, w etcd.WatchState) {
	if !w.LastSeen.IsZero() {
		add(m.watchLag, prometheus.GaugeValue, time.Since(w.LastSeen).Seconds(), w.Service)
	}
	for reason, n := range w.Lists {
		add(m.resyncs, prometheus.CounterValue, float64(n), w.Service, reason)
	}
	add(m.missed, prometheus.CounterValue, float64(w.Missed), w.Service)
	add(m.unreadable, prometheus.GaugeValue, float64(w.Unreadable), w.Service)
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
