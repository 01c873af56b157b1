package auth

import (
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

// How calls end here, as a label.
const (
	decisionAdmitted = iota
	decisionUnauthenticated
	decisionDenied
	decisions
)

// Callers that are no service. A service's name has no parentheses.
const (
	callerAnonymous = "(anonymous)"
	callerToken     = "(token)"
	callerOther     = "(other)"
)

// mostCallers bounds the label: whoever can have certificates issued must not be able to make series without end.
const mostCallers = 100

// callers counts calls by the service that made them. Subjects of tokens are people and have no place in a label.
type callers struct {
	total *prometheus.CounterVec

	mu    sync.Mutex
	known map[string]*caller

	anonymous, token *caller
}

// caller is one value of the label, with its counters bound.
type caller struct {
	name   string
	counts [decisions]prometheus.Counter
}

func newCallers() *callers {
	c := &callers{
		total: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "newsvc_auth_calls_total",
			Help: "Calls by the service that made them, from its certificate, and by what became of them: admitted, unauthenticated or denied.",
		}, []string{"caller", "decision"}),
		known: map[string]*caller{},
	}
	c.anonymous, c.token = c.bind(callerAnonymous), c.bind(callerToken)
	return c
}

// of returns the counters of a service; those of "(other)" when there are many already.
func (c *callers) of(service string) *caller {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.known) >= mostCallers && c.known[service] == nil {
		service = callerOther
	}
	if c.known[service] == nil {
		c.known[service] = c.bind(service)
	}
	return c.known[service]
}

func (c *callers) bind(name string) *caller {
	made := &caller{name: name}
	for i, decision := range [decisions]string{"admitted", "unauthenticated", "denied"} {
		made.counts[i] = c.total.WithLabelValues(name, decision)
	}
	return made
}
