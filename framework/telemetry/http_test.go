package telemetry_test

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/newsvc/newsvc/framework/telemetry"
)

func requestsOf(t *testing.T, change func(*telemetry.Config)) (*telemetry.Telemetry, *telemetry.Requests) {
	t.Helper()
	cfg := telemetry.DefaultConfig()
	change(&cfg)
	tel, err := telemetry.New(t.Context(), cfg, telemetry.Params{Service: "edge"})
	if err != nil {
		t.Fatal(err)
	}
	r, err := tel.Requests()
	if err != nil {
		t.Fatal(err)
	}
	return tel, r
}

func TestRequestsAreCountedByBoundedLabels(t *testing.T) {
	t.Parallel()
	tel, r := requestsOf(t, func(*telemetry.Config) {})
	const routes = 3
	for i := range 300 {
		req := &http.Request{Method: []string{http.MethodGet, fmt.Sprintf("M%d", i)}[i%2], Pattern: fmt.Sprintf("/r%d/{id}", i%routes)}
		r.End(req, http.StatusOK, r.Begin())
	}
	_ = r.Begin() // one that does not end
	total := uint64(0)
	series := family(t, tel, "http_server_request_duration_seconds")
	for _, m := range series {
		total += m.GetHistogram().GetSampleCount()
		labels := map[string]string{}
		for _, l := range m.GetLabel() {
			labels[l.GetName()] = l.GetValue()
		}
		if labels["callee"] != "edge" || labels["http_response_status_code"] != "200" || labels["http_request_method"] != "GET" && labels["http_request_method"] != "_OTHER" {
			t.Errorf("labels %v", labels)
		}
	}
	if total != 300 || len(series) != 2*routes {
		t.Errorf("%d requests in %d series, want 300 in %d", total, len(series), 2*routes)
	}
	if n := gauge(t, tel, "http_server_active_requests"); n != 1 {
		t.Errorf("%v are active, want 1", n)
	}
}

func TestRequestsAllocateNothing(t *testing.T) {
	_, r := requestsOf(t, func(*telemetry.Config) {})
	req := &http.Request{Method: http.MethodGet, Pattern: "/users/{id}"}
	if n := testing.AllocsPerRun(100, func() { r.End(req, http.StatusOK, r.Begin()) }); n != 0 {
		t.Errorf("%v allocations for each request", n)
	}
}

func TestWithoutMetricsNoRequestsAreCounted(t *testing.T) {
	t.Parallel()
	if _, r := requestsOf(t, func(cfg *telemetry.Config) { cfg.Metrics.Enabled = false }); r != nil {
		t.Error("there are metrics of requests")
	}
	tel, err := telemetry.New(t.Context(), telemetry.DefaultConfig(), telemetry.Params{Service: "edge"})
	if err != nil {
		t.Fatal(err)
	}
	if n := len(family(t, tel, "http_server_active_requests")); n != 0 {
		t.Errorf("a process without an HTTP listener has %d series", n)
	}
}
