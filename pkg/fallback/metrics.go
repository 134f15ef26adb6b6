package fallback

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	accepted, moved, buried, refused, failures, damaged prometheus.Counter
}

func newMetrics(reg prometheus.Registerer, s *Store) (*metrics, error) {
	if reg == nil {
		reg = prometheus.NewRegistry()
	}
	var errs []error
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: "crucible_fallback_" + name, Help: help})
		errs = append(errs, reg.Register(c))
		return c
	}
	gauge := func(name, help string, value func() float64) {
		errs = append(errs, reg.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "crucible_fallback_" + name, Help: help}, value)))
	}
	m := &metrics{
		accepted: counter("evaluations_accepted_total", "Evaluations accepted into the fallback journal, because the storage was away."),
		moved:    counter("evaluations_moved_total", "Evaluations brought from the fallback journal to the storage."),
		buried:   counter("evaluations_buried_total", "Evaluations of the fallback journal that were ended as cancelled, because their idempotency key had been used before."),
		refused:  counter("refused_total", "Times that the storage refused an entry of the fallback journal; the entry stays."),
		failures: counter("write_failures_total", "Times that the fallback journal could not be written."),
		damaged:  counter("damaged_bytes_total", "Bytes of the fallback journal that could not be read and were put aside."),
	}
	gauge("in_use", "1 while new evaluations go to the fallback journal, because the storage is away.", func() float64 {
		if s.InUse() {
			return 1
		}
		return 0
	})
	gauge("evaluations", "Evaluations that wait in the fallback journal.", func() float64 { return float64(s.Waiting()) })
	gauge("journal_bytes", "Size of the fallback journal on disk.", func() float64 { return float64(s.Bytes()) })
	return m, errors.Join(errs...)
}
