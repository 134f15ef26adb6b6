package executor

import (
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/crucible-eval/crucible/executor/internal/lang"
	"github.com/crucible-eval/crucible/executor/internal/slots"
	"github.com/crucible-eval/crucible/pkg/eval"
)

type metrics struct {
	runs       *prometheus.CounterVec
	rejections *prometheus.CounterVec
	waited     prometheus.Histogram
	overhead   prometheus.Histogram
	control    *prometheus.GaugeVec
	proofs     prometheus.Counter
}

// newMetrics registers the executor's metrics; a nil registry gets none.
func newMetrics(reg *prometheus.Registry, s *slots.Slots) (*metrics, error) {
	m := &metrics{
		runs: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "crucible_executor_runs_total",
			Help: "Runs that ended, by language and verdict; the verdict is ended for runs that were stopped, and failed where the platform failed.",
		}, []string{"language", "verdict"}),
		rejections: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "crucible_executor_rejections_total", Help: "Runs that were not taken on, by the kind of error.",
		}, []string{"kind"}),
		waited: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "crucible_executor_wait_seconds",
			Help:    "How long runs that were taken on had waited for a slot; its count is the runs taken on.",
			Buckets: []float64{.0001, .001, .01, .025, .05, .1, .25, .5, 1, 2.5},
		}),
		overhead: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "crucible_executor_overhead_seconds",
			Help:    "Time of a run beyond that of the program and its compiler: boxes, files, accounting.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 14),
		}),
		control: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "crucible_executor_isolation_control", Help: "What the sandbox enforces; 1 for the state that a control has.",
		}, []string{"level", "control", "state"}),
		proofs: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "crucible_executor_sandbox_proofs_total", Help: "How often the sandbox has proven what it isolates.",
		}),
	}
	load := func(name, help string, of func(eval.Load) float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 { return of(s.Load()) })
	}
	all := []prometheus.Collector{
		m.runs, m.rejections, m.waited, m.overhead, m.control, m.proofs,
		load("crucible_executor_slots", "Runs that are possible at once.", func(l eval.Load) float64 { return float64(l.Slots) }),
		load("crucible_executor_busy_slots", "Runs under way.", func(l eval.Load) float64 { return float64(l.Busy) }),
		load("crucible_executor_waiting_runs", "Runs in line for a slot.", func(l eval.Load) float64 { return float64(l.Waiting) }),
		load("crucible_executor_memory_bytes", "Memory for all runs together; 0: not counted.", func(l eval.Load) float64 { return float64(l.MemoryBytes) }),
		load("crucible_executor_reserved_memory_bytes", "Memory promised to the runs under way.", func(l eval.Load) float64 { return float64(l.ReservedBytes) }),
	}
	return m, register(reg, all)
}

// languageGauges tell how the languages are.
func languageGauges(languages *lang.Registry) []prometheus.Collector {
	gauge := func(name, help string, of func([]eval.Language, string) int) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 { return float64(of(languages.List())) })
	}
	return []prometheus.Collector{
		gauge("crucible_executor_languages_available", "Languages that are offered.", func(all []eval.Language, _ string) int {
			return len(slices.DeleteFunc(all, func(l eval.Language) bool { return !l.Available }))
		}),
		gauge("crucible_executor_languages_broken", "1 while changed language files cannot be taken over, else 0.", func(_ []eval.Language, problem string) int {
			return min(len(problem), 1)
		}),
	}
}

// register adds collectors to a registry, which may be nil.
func register(reg *prometheus.Registry, all []prometheus.Collector) error {
	if reg == nil {
		return nil
	}
	for _, c := range all {
		if err := reg.Register(c); err != nil {
			return err
		}
	}
	return nil
}

// proven shows what the sandbox enforces now.
func (m *metrics) proven(i eval.Isolation) {
	m.proofs.Inc()
	m.control.Reset()
	for _, c := range i.Controls {
		m.control.WithLabelValues(i.Level, c.Name, c.State).Set(1)
	}
}

// admitted counts a run that was taken on, and how long it had waited.
func (m *metrics) admitted(after time.Duration) { m.waited.Observe(after.Seconds()) }

// ended counts a run that was taken on; stopped says that its end came from
// outside.
func (m *metrics) ended(language string, res eval.Result, err error, stopped bool, took time.Duration) {
	verdict := string(res.Verdict)
	switch {
	case err != nil && stopped:
		verdict = "ended"
	case err != nil:
		verdict = "failed"
	default:
		m.overhead.Observe(max(took-programTime(res), 0).Seconds())
	}
	m.runs.WithLabelValues(language, verdict).Inc()
}

// programTime is how long the program and its compiler ran.
func programTime(res eval.Result) time.Duration {
	ms := res.WallMS
	if len(res.Tests) > 0 {
		ms = 0
		for _, t := range res.Tests {
			ms += t.WallMS
		}
	}
	if res.Compile != nil {
		ms += res.Compile.WallMS
	}
	return time.Duration(ms * float64(time.Millisecond))
}
