package main

import (
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/newsvc/newsvc/bench/internal/stats"
)

// samples are measurements by arm and by what was measured.
type samples map[string]map[string][]float64

func (s samples) of(arm string) map[string][]float64 {
	if s[arm] == nil {
		s[arm] = map[string][]float64{}
	}
	return s[arm]
}

// spread is the median with the least and the greatest.
func spread(list []float64) string {
	if len(list) == 0 {
		return "-"
	}
	low, mid, high := slices.Min(list), stats.Median(list), slices.Max(list)
	if low == high {
		return short(mid)
	}
	return fmt.Sprintf("%s (%s-%s)", short(mid), short(low), short(high))
}

func short(v float64) string {
	switch {
	case v == float64(int64(v)):
		return fmt.Sprintf("%.0f", v)
	case v < 1:
		return fmt.Sprintf("%.3f", v)
	case v < 100:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.0f", v)
}

func millis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
func mega(bytes uint64) float64      { return float64(bytes) / (1 << 20) }

// table prints columns.
type table struct{ w *tabwriter.Writer }

func (s *settings) table(head ...string) table {
	t := table{tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)}
	fmt.Fprintln(t.w, strings.Join(head, "\t"))
	return t
}

func (t table) row(cells ...any) {
	text := make([]string, len(cells))
	for n, c := range cells {
		switch c := c.(type) {
		case float64:
			text[n] = short(c)
		case []float64:
			text[n] = spread(c)
		default:
			text[n] = fmt.Sprint(c)
		}
	}
	fmt.Fprintln(t.w, strings.Join(text, "\t"))
}

func (t table) flush() { _ = t.w.Flush() }

// report prints the tables of one size and keeps the numbers that count.
func (s *settings) report(w *world, arms []string, stubs, reals samples) {
	fmt.Fprintf(s.out, "\n%d instances, against a stub; %d rounds, medians (least-greatest)\n", w.size, s.rounds)
	t := s.table("a new client", "all known ms", "CPU ms", "allocated MB", "live heap MB", "peak RSS MB", "reads at etcd", "watch streams")
	for _, arm := range arms {
		m := stubs.of(arm)
		t.row(arm, m["known"], m["CPU"], m["alloc"], m["live"], m["RSS"], m["reads"], m["streams"])
	}
	t.flush()
	fmt.Fprintf(s.out, "\n%d instances, against a stub: %d joins, then leaves, one at a time; %d changes within a second\n", w.size, s.changes, s.storm)
	s.changesTable(arms, stubs, false)
	fmt.Fprintf(s.out, "\n%d instances, real connections\n", w.size)
	t = s.table("a new client", "all known ms", "CPU ms until connected", "peak RSS MB when known")
	connected := slices.DeleteFunc(slices.Clone(arms), func(arm string) bool { return reals[arm] == nil })
	for _, arm := range connected {
		m := reals.of(arm)
		t.row(arm, m["known"], m["CPU"], m["RSS"])
	}
	t.flush()
	fmt.Fprintln(s.out)
	s.changesTable(connected, reals, true)
	s.keep(w, stubs, reals)
}

func (s *settings) changesTable(arms []string, all samples, connections bool) {
	head := []string{"changes", "CPU ms per join", "UpdateState", "CPU ms per leave", "ms per join", "CPU ms per change in a storm", "UpdateState", "reads at etcd"}
	if connections {
		head = append(head, "connections, most")
	}
	t := s.table(head...)
	for _, arm := range arms {
		m := all.of(arm)
		row := []any{
			arm, m["join CPU"], m["join updates"], m["leave CPU"], m["ms per join"], m["storm CPU"], m["storm updates"],
			slices.Concat(m["join reads"], m["leave reads"], m["storm reads"]),
		}
		if connections {
			row = append(row, mostConnections(m))
		}
		t.row(row...)
	}
	t.flush()
}

// keep puts the figures that have a bar into the last line: newsvc as it is by default, with the ratio to naming.
func (s *settings) keep(w *world, stubs, reals samples) {
	at := func(name string) string { return fmt.Sprintf("%s_%d", name, w.size) }
	for _, f := range []struct{ name, sample string }{{"known_ms", "known"}, {"join_cpu_ms", "join CPU"}, {"storm_cpu_ms", "storm CPU"}} {
		ours, naming := stubs.of(armNewsvc)[f.sample], stubs.of(armNaming)[f.sample]
		if len(ours) > 0 {
			s.machine(at(f.name), stats.Median(ours))
			s.machine(at(f.name)+"_ratio", stats.Ratio(ours, naming))
		}
	}
	s.machine(at("real_join_cpu_ms"), stats.Median(reals.of(armNewsvc)["join CPU"]))
	s.machine(at("connections"), mostConnections(reals.of(armNewsvc)))
}

func mostConnections(m map[string][]float64) float64 {
	return slices.Max(slices.Concat(m["join connections"], m["leave connections"], m["storm connections"]))
}
