package handle

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/crucible-eval/crucible/pkg/eval"
)

type metrics struct {
	attempts    *prometheus.CounterVec
	stale       prometheus.Counter
	dropped     prometheus.Counter
	outputLost  prometheus.Counter
	storeErrors *prometheus.CounterVec
	runSeconds  prometheus.Histogram
	wait        *prometheus.HistogramVec
	retries     *prometheus.CounterVec
	cancel      prometheus.Histogram
}

func newMetrics(registry *prometheus.Registry, running func() float64) *metrics {
	m := &metrics{
		attempts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "crucible_worker_attempts_total", Help: "Attempts that ended, by what became of the evaluation.",
		}, []string{"status", "kind"}),
		stale: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "crucible_worker_stale_dispatches_total", Help: "Dispatches whose evaluation was not queued any more.",
		}),
		dropped: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "crucible_worker_dropped_results_total", Help: "Attempts whose lease was lost, so that their outcome was dropped.",
		}),
		outputLost: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "crucible_worker_live_output_dropped_bytes_total", Help: "Bytes of live output that were not shown while the program ran; results are not concerned.",
		}),
		storeErrors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "crucible_worker_store_errors_total", Help: "Failed calls of the store that were tried again, by operation.",
		}, []string{"operation"}),
		runSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "crucible_worker_run_seconds", Help: "Time that the executor took for an attempt.",
			Buckets: []float64{.005, .01, .02, .05, .1, .2, .5, 1, 2, 5, 10, 30, 60, 300},
		}),
		wait: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "crucible_worker_wait_seconds", Help: "Time from acceptance, or run_at, to the first claim, by priority and by the store's clock.",
			Buckets: []float64{.002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5, 10, 30, 60, 300, 1800},
		}, []string{"priority"}),
		retries: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "crucible_worker_retries_total", Help: "Attempts after which the evaluation was queued again, by its retry policy and the kind of failure.",
		}, []string{"policy", "kind"}),
		cancel: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "crucible_worker_cancel_seconds", Help: "Time from the request to end a running evaluation to its end, by the store's clock.",
			Buckets: []float64{.01, .02, .05, .1, .2, .5, 1, 2, 5, 15, 60},
		}),
	}
	registry.MustRegister(m.attempts, m.stale, m.dropped, m.outputLost, m.storeErrors, m.runSeconds, m.wait, m.retries, m.cancel,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "crucible_worker_running", Help: "Attempts in hand now."}, running))
	return m
}

// claimed notes how long an evaluation has waited for its first claim.
func (m *metrics) claimed(e eval.Evaluation) {
	if e.Attempt == 1 && e.StartedAt != nil {
		m.wait.WithLabelValues(string(e.Spec.Priority)).Observe(max(0, e.StartedAt.Sub(e.Due()).Seconds()))
	}
}

// ended notes what became of an evaluation at the end of an attempt, and why.
// The kind may come from elsewhere: one that is not known is internal.
func (m *metrics) ended(e eval.Evaluation, why eval.Kind) {
	kind := ""
	if why != "" {
		kind = string(why.Info().Kind)
	}
	m.attempts.WithLabelValues(string(e.Status), kind).Inc()
	switch {
	case e.Status == eval.Queued:
		m.retries.WithLabelValues(e.Spec.RetryPolicy, kind).Inc()
	case e.Status == eval.Cancelled && e.CancelRequestedAt != nil && e.FinishedAt != nil:
		m.cancel.Observe(max(0, e.FinishedAt.Sub(*e.CancelRequestedAt).Seconds()))
	}
}
