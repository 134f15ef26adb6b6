package handle

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	attempts    *prometheus.CounterVec
	stale       prometheus.Counter
	dropped     prometheus.Counter
	outputLost  prometheus.Counter
	storeErrors *prometheus.CounterVec
	runSeconds  prometheus.Histogram
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
	}
	registry.MustRegister(m.attempts, m.stale, m.dropped, m.outputLost, m.storeErrors, m.runSeconds,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "crucible_worker_running", Help: "Attempts in hand now."}, running))
	return m
}
