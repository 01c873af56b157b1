package telemetry

import (
	"context"
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/sdk/resource"
	resourcepb "go.opentelemetry.io/proto/otlp/resource/v1"
	"go.uber.org/zap"

	"github.com/newsvc/newsvc/framework/internal/backoff"
	"github.com/newsvc/newsvc/framework/internal/loop"
)

// pusher sends all metrics to a collector from time to time, under the names that Prometheus sees.
type pusher struct {
	up       *uploader
	log      *zap.Logger
	interval time.Duration
	metrics  prometheus.Gatherer
	resource *resourcepb.Resource
	began    time.Time // of what is counted
	outcomes *prometheus.CounterVec

	loop    *loop.Loop
	failing bool // of the last push; used by one goroutine at a time
}

// newPusher makes a pusher; it connects when it has something to send.
func newPusher(cfg MetricsConfig, p Params, registry *prometheus.Registry) (*pusher, error) {
	up, err := newUploader(cfg.collector())
	if err != nil {
		return nil, err
	}
	m := &pusher{
		up: up, log: p.Log, interval: cfg.Interval, metrics: registry, resource: resourceProto(resourceOf(p)), began: time.Now(),
		outcomes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "newsvc_metric_pushes_total", Help: "Pushes of all metrics to the collector, by outcome: ok or failed.",
		}, []string{"outcome"}),
	}
	for _, outcome := range []string{"ok", "failed"} {
		m.outcomes.WithLabelValues(outcome)
	}
	return m, registry.Register(m.outcomes)
}

func resourceProto(r *resource.Resource) *resourcepb.Resource {
	out := &resourcepb.Resource{}
	for _, a := range r.Attributes() {
		out.Attributes = append(out.Attributes, text(string(a.Key), a.Value.String()))
	}
	return out
}

// start pushes in the background until close.
func (m *pusher) start(ctx context.Context) {
	m.loop = loop.Start(context.WithoutCancel(ctx), func(ctx context.Context) {
		// Processes that start together do not push together.
		for backoff.Sleep(ctx, backoff.Spread(m.interval, 0.1)) == nil {
			if err := m.push(ctx); ctx.Err() == nil {
				m.note(err)
			}
		}
	})
}

// push sends what there is now. That some of it could not be read is the business of whoever serves it.
func (m *pusher) push(ctx context.Context) error {
	families, err := m.metrics.Gather()
	if len(families) == 0 && err != nil {
		return err
	}
	return m.up.uploadMetrics(ctx, toOTLP(families, m.resource, m.began, time.Now()))
}

// note counts a push and logs when pushing begins to fail and when it works again.
func (m *pusher) note(err error) {
	outcome := "ok"
	if err != nil {
		outcome = "failed"
	}
	m.outcomes.WithLabelValues(outcome).Inc()
	before := m.failing
	m.failing = err != nil
	switch part := (*rejectedError)(nil); {
	case err != nil && !before && errors.As(err, &part):
		m.log.Warn("the collector does not take all metrics; calls are not affected", zap.String("endpoint", m.up.to.endpoint), zap.Error(err))
	case err != nil && !before:
		m.log.Warn("metrics cannot be pushed; what is counted meanwhile comes with the next push, and calls are not affected",
			zap.String("endpoint", m.up.to.endpoint), zap.Error(err))
	case err == nil && before:
		m.log.Info("metrics are pushed again", zap.String("endpoint", m.up.to.endpoint))
	}
}

// lastPush bounds the push at the end: a collector that is away must not hold up the end of the process.
const lastPush = 2 * time.Second

// close pushes the last state, while ctx lasts, and lets go of the collector. That a collector does not take it is logged; it is
// no reason to say that the process ended badly.
func (m *pusher) close(ctx context.Context) error {
	if m.loop != nil {
		m.loop.Stop()
	}
	ctx, cancel := context.WithTimeout(ctx, lastPush)
	defer cancel()
	m.note(m.push(ctx))
	return m.up.stop()
}
