package observe

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// NewRegistry makes a registry with the collectors of the Go runtime and the
// process, and crucible_build_info: always 1, with the version and the
// service's name as labels.
func NewRegistry(service string) *prometheus.Registry {
	b := Version()
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "crucible_build_info",
		Help: "Which program this is; the value is always 1.",
		ConstLabels: prometheus.Labels{
			"service": service, "version": b.Version, "revision": b.Revision, "goversion": b.Go,
		},
	})
	info.Set(1)
	r := prometheus.NewRegistry()
	r.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		info,
	)
	return r
}
