package telemetry

import (
	"errors"
	"maps"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Requests measures what a public HTTP listener serves; it is an observer of package httpserver. Its methods may be called from
// any goroutine. Once a method, route and status were seen, a request allocates nothing here.
type Requests struct {
	durations *prometheus.HistogramVec
	active    prometheus.Gauge

	known atomic.Pointer[map[request]prometheus.Observer] // copied on write: reading takes no lock
	mu    sync.Mutex                                      // held by writers
}

// request is what tells one series from another. Each part is bounded, whatever clients send.
type request struct {
	method, route string
	status        int
}

// newRequests labels requests with this service, as served calls are.
func newRequests(cfg MetricsConfig, service string) *Requests {
	fixed := prometheus.Labels{labelCallee: service}
	r := &Requests{
		durations: newHistogram(cfg, "http_server_request_duration_seconds", "Time from the request's headers to the end of its handler.", fixed,
			"http_request_method", "http_route", "http_response_status_code"),
		active: prometheus.NewGauge(prometheus.GaugeOpts{Name: "http_server_active_requests", Help: "Requests that are being handled.", ConstLabels: fixed}),
	}
	r.known.Store(&map[request]prometheus.Observer{})
	return r
}

// Requests has the metrics of HTTP requests exposed, which processes without a public HTTP listener do not have. It is nil when
// metrics are off, and to be called once.
func (t *Telemetry) Requests() (*Requests, error) {
	if !t.metrics {
		return nil, nil //nolint:nilnil // that there are none is no error
	}
	return t.requests, errors.Join(t.registry.Register(t.requests.durations), t.registry.Register(t.requests.active))
}

// Begin counts a request as active.
func (r *Requests) Begin() time.Time {
	r.active.Inc()
	return time.Now()
}

// End counts a request that has ended. Its route is the pattern of the http.ServeMux that has found the handler, and empty
// without one: paths are as many as clients like.
func (r *Requests) End(req *http.Request, status int, begun time.Time) {
	r.active.Dec()
	key := request{methodOf(req.Method), req.Pattern, status}
	o, ok := (*r.known.Load())[key]
	if !ok {
		o = r.add(key)
	}
	o.Observe(time.Since(begun).Seconds())
}

func (r *Requests) add(key request) prometheus.Observer {
	r.mu.Lock()
	defer r.mu.Unlock()
	next := maps.Clone(*r.known.Load())
	o := r.durations.WithLabelValues(key.method, key.route, strconv.Itoa(key.status))
	next[key] = o
	r.known.Store(&next)
	return o
}

// methodOf is a method that HTTP knows; OpenTelemetry calls all others _OTHER.
func methodOf(name string) string {
	switch name {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodConnect,
		http.MethodOptions, http.MethodTrace:
		return name
	}
	return "_OTHER"
}
