package rest

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics are the API's own numbers; those of all HTTP servers are in httpkit.
type Metrics struct {
	Accepted     *prometheus.CounterVec // by language and priority
	Replayed     prometheus.Counter
	NotEnqueued  prometheus.Counter
	Waiters      prometheus.Gauge
	Streams      *prometheus.GaugeVec // by kind
	StreamEvents *prometheus.CounterVec
}

// NewMetrics registers the metrics. Registering them twice shares them.
func NewMetrics(reg *prometheus.Registry) (*Metrics, error) {
	m := &Metrics{
		Accepted: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "crucible_api_evaluations_accepted_total",
			Help: "Evaluations accepted, by language and priority."}, []string{"language", "priority"}),
		Replayed: prometheus.NewCounter(prometheus.CounterOpts{Name: "crucible_api_submissions_replayed_total",
			Help: "Submissions answered from an earlier one with the same idempotency key."}),
		NotEnqueued: prometheus.NewCounter(prometheus.CounterOpts{Name: "crucible_api_enqueue_failures_total",
			Help: "Accepted evaluations that could not be put into the queue at once; the reconciler does it."}),
		Waiters: prometheus.NewGauge(prometheus.GaugeOpts{Name: "crucible_api_waiters",
			Help: "Requests that wait for an evaluation to end."}),
		Streams: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "crucible_api_streams",
			Help: "Event streams open, by kind."}, []string{"kind"}),
		StreamEvents: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "crucible_api_stream_events_total",
			Help: "Events sent on streams, by name."}, []string{"event"}),
	}
	return m, errors.Join(
		share(reg, &m.Accepted), share(reg, &m.Replayed), share(reg, &m.NotEnqueued),
		share(reg, &m.Waiters), share(reg, &m.Streams), share(reg, &m.StreamEvents))
}

func share[C prometheus.Collector](reg *prometheus.Registry, c *C) error {
	err := reg.Register(*c)
	if there, ok := errors.AsType[prometheus.AlreadyRegisteredError](err); ok {
		if have, ok := there.ExistingCollector.(C); ok {
			*c = have
			return nil
		}
	}
	return err
}
