package telemetry

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
)

const (
	mostCallers = 100       // told apart; the rest is "other"
	noCaller    = "unknown" // who does not say what service he is; no label for strangers to choose
)

// callers counts calls by the service that makes them. It believes what callers say: for what they have proved there are the
// metrics of authentication.
type callers struct {
	total *prometheus.CounterVec
	bound sync.Map // callerKey -> prometheus.Counter

	known sync.Map // name -> nothing
	names atomic.Int64
}

type callerKey struct {
	caller string
	method string
	code   codes.Code
}

func newCallers(service string) *callers {
	return &callers{total: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "grpc_server_calls_by_caller_total", Help: "Calls served, by the service that says it made them.",
		ConstLabels: prometheus.Labels{labelCallee: service},
	}, []string{labelCaller, labelMethod, labelStatus})}
}

func (c *callers) count(ctx context.Context, m *method, code codes.Code) {
	if int(code) >= len(m.byCode) {
		code = codes.Unknown
	}
	key := callerKey{c.label(callerOf(ctx)), m.name, code}
	counter, ok := c.bound.Load(key)
	if !ok {
		counter, _ = c.bound.LoadOrStore(key, c.total.WithLabelValues(key.caller, key.method, statusName(code)))
	}
	counter.(prometheus.Counter).Inc()
}

// label keeps the values of the label few.
func (c *callers) label(name string) string {
	if name == "" {
		return noCaller
	}
	if _, ok := c.known.Load(name); ok {
		return name
	}
	if c.names.Add(1) > mostCallers {
		c.names.Add(-1)
		return other
	}
	if _, had := c.known.LoadOrStore(strings.Clone(name), nil); had {
		c.names.Add(-1)
	}
	return name
}

// callerOf reads the service that a call comes from. Our clients put it first in the header "user-agent", which is sent once for
// a connection and then referred to, so telling it costs nothing. Empty for all that is no service name.
func callerOf(ctx context.Context) string {
	values := metadata.ValueFromIncomingContext(ctx, "user-agent")
	if len(values) == 0 {
		return ""
	}
	name, rest, _ := strings.Cut(values[0], " ")
	if rest == "" || len(name) > 50 { // a user agent of a single word is that of a program
		return ""
	}
	for i := range len(name) {
		switch c := name[i]; {
		case c >= 'a' && c <= 'z', i > 0 && (c >= '0' && c <= '9' || c == '-' && name[i-1] != '-' && i < len(name)-1):
		default:
			return ""
		}
	}
	return name
}
