package apptest

import (
	"fmt"
	"slices"
	"strings"

	dto "github.com/prometheus/client_model/go"
)

// Metric returns the value of a metric of a service, from what it would answer Prometheus: the sum of all series, of all
// its instances, that have these labels, given as names and values in turn; 0 when no series has these values. Of a histogram
// ask for its name with _count or _sum. A name or a label that does not exist ends the test: most metrics of calls exist
// from the first call on.
//
//	apps.Metric("user-service", "grpc_server_call_duration_seconds_count", "grpc_status", "NOT_FOUND")
func (a *Apps) Metric(service, name string, labels ...string) float64 {
	a.t.Helper()
	sum, with := 0.0, 0
	instances := a.Instances(service)
	for n, i := range instances {
		if with == 0 && n == len(instances)-1 || i.has(name) { // one that had no call yet has no metrics of calls
			sum += i.Metric(name, labels...)
			with++
		}
	}
	return sum
}

func (i *Instance) has(name string) bool {
	i.apps.t.Helper()
	families, err := i.stack.Telemetry().Gatherer().Gather()
	if err != nil {
		i.apps.t.Fatalf("apptest: read the metrics of service %q: %v", i.service, err)
	}
	family, _ := find(families, name)
	return family != nil
}

// Metric is [Apps.Metric] of one instance.
func (i *Instance) Metric(name string, labels ...string) float64 {
	i.apps.t.Helper()
	if len(labels)%2 != 0 {
		i.apps.t.Fatalf("apptest: the labels %q of metric %q have a name without a value; write names and values in turn", labels, name)
	}
	families, err := i.stack.Telemetry().Gatherer().Gather()
	if err != nil {
		i.apps.t.Fatalf("apptest: read the metrics of service %q: %v", i.service, err)
	}
	family, value := find(families, name)
	if family == nil {
		i.apps.t.Fatalf("apptest: service %q has no metric %q, only %q; one of calls appears with the first call, and none is there with telemetry.metrics.enabled: false",
			i.service, name, names(families))
	}
	if err := checkLabels(family, labels); err != nil {
		i.apps.t.Fatalf("apptest: metric %q of service %q: %v", name, i.service, err)
	}
	sum := 0.0
	for _, m := range family.GetMetric() {
		if matches(m, labels) {
			sum += value(m)
		}
	}
	return sum
}

// find returns the family of a name as Prometheus shows it, and what the name means of each of its series; nil for none.
func find(families []*dto.MetricFamily, name string) (*dto.MetricFamily, func(*dto.Metric) float64) {
	for _, f := range families {
		part, ok := strings.CutPrefix(name, f.GetName())
		if !ok {
			continue
		}
		switch t := f.GetType(); {
		case part == "" && t == dto.MetricType_COUNTER:
			return f, func(m *dto.Metric) float64 { return m.GetCounter().GetValue() }
		case part == "" && t == dto.MetricType_GAUGE:
			return f, func(m *dto.Metric) float64 { return m.GetGauge().GetValue() }
		case part == "" && t == dto.MetricType_UNTYPED:
			return f, func(m *dto.Metric) float64 { return m.GetUntyped().GetValue() }
		case part == "_count": // one of the two is nil, and counts 0
			return f, func(m *dto.Metric) float64 {
				return float64(m.GetHistogram().GetSampleCount() + m.GetSummary().GetSampleCount())
			}
		case part == "_sum":
			return f, func(m *dto.Metric) float64 { return m.GetHistogram().GetSampleSum() + m.GetSummary().GetSampleSum() }
		}
	}
	return nil, nil
}

func names(families []*dto.MetricFamily) []string {
	var all []string
	for _, f := range families {
		name := f.GetName()
		if t := f.GetType(); t == dto.MetricType_HISTOGRAM || t == dto.MetricType_SUMMARY {
			name += "_count"
		}
		if !strings.HasPrefix(name, "go_") && !strings.HasPrefix(name, "process_") { // which are many
			all = append(all, name)
		}
	}
	return all
}

// checkLabels refuses the name of a label that no series has.
func checkLabels(f *dto.MetricFamily, labels []string) error {
	var known []string
	for _, m := range f.GetMetric() {
		for _, l := range m.GetLabel() {
			known = append(known, l.GetName())
		}
	}
	slices.Sort(known)
	known = slices.Compact(known)
	for n := 0; n < len(labels); n += 2 {
		if !slices.Contains(known, labels[n]) {
			return fmt.Errorf("there is no label %q; write one of %q", labels[n], known)
		}
	}
	return nil
}

func matches(m *dto.Metric, labels []string) bool {
	for n := 0; n < len(labels); n += 2 {
		if !slices.ContainsFunc(m.GetLabel(), func(l *dto.LabelPair) bool { return l.GetName() == labels[n] && l.GetValue() == labels[n+1] }) {
			return false
		}
	}
	return true
}
