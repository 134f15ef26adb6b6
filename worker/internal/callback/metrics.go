package callback

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/crucible-eval/crucible/pkg/eval"
)

type metrics struct {
	delivered prometheus.Counter
	failed    *prometheus.CounterVec
	dead      *prometheus.CounterVec
	seconds   prometheus.Histogram
	lag       prometheus.Histogram
	waiting   *prometheus.GaugeVec
	overdue   prometheus.Gauge
}

func newMetrics(registry *prometheus.Registry) *metrics {
	m := &metrics{
		delivered: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "crucible_callbacks_delivered_total", Help: "Callbacks that a receiver has taken.",
		}),
		failed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "crucible_callbacks_failed_tries_total", Help: "Tries at a callback without success, by reason.",
		}, []string{"reason"}),
		dead: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "crucible_callbacks_dead_total", Help: "Callbacks given up, by the reason of the last try.",
		}, []string{"reason"}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "crucible_callbacks_try_seconds", Help: "Time of one try.", Buckets: []float64{.005, .02, .05, .1, .2, .5, 1, 2, 5, 10, 30},
		}),
		lag: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "crucible_callbacks_lag_seconds", Help: "Time from the end of an evaluation to the delivery of its callback.",
			Buckets: []float64{.05, .2, 1, 2, 5, 15, 60, 300, 1800, 3600, 6 * 3600, 24 * 3600},
		}),
		waiting: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "crucible_callbacks", Help: "Callbacks that are not delivered, by status.",
		}, []string{"status"}),
		overdue: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "crucible_callbacks_overdue_seconds", Help: "For how long the callback has been due that waits longest for a deliverer; 0 when none is due.",
		}),
	}
	registry.MustRegister(m.delivered, m.failed, m.dead, m.seconds, m.lag, m.waiting, m.overdue)
	return m
}

func (m *metrics) set(s eval.CallbackStats, now time.Time) {
	m.waiting.WithLabelValues(string(eval.CallbackPending)).Set(float64(s.Pending))
	m.waiting.WithLabelValues(string(eval.CallbackDead)).Set(float64(s.Dead))
	overdue := 0.0
	if s.DueAt != nil {
		overdue = max(now.Sub(*s.DueAt).Seconds(), 0)
	}
	m.overdue.Set(overdue)
}
