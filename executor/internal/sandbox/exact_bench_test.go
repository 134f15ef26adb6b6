//go:build linux

package sandbox_test

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/executor/internal/sandbox"
)

// BenchmarkExactness measures by how much a report or a limit is off, and
// gives the median, the 99th percentile and the worst in milliseconds. 200 runs
// of each: go test ./internal/sandbox -run '^$' -bench Exactness -benchtime 200x
func BenchmarkExactness(b *testing.B) {
	l := level{Runtime: open(b, sandbox.Config{Level: sandbox.LevelNamespaces}), exact: true}
	for _, c := range []struct {
		name   string
		limits sandbox.Limits
		argv   []string
		want   sandbox.Limit
		err    func(o outcome) time.Duration
	}{
		{"wall_limit_200ms", sandbox.Limits{Wall: 200 * time.Millisecond}, []string{"sleep"}, sandbox.LimitWall,
			func(o outcome) time.Duration { return o.Wall - 200*time.Millisecond }},
		{"cpu_limit_200ms_one_process", sandbox.Limits{CPU: 200 * time.Millisecond}, []string{"spin"}, sandbox.LimitCPU,
			func(o outcome) time.Duration { return o.CPU - 200*time.Millisecond }},
		{"cpu_limit_200ms_four_processes", sandbox.Limits{CPU: 200 * time.Millisecond}, []string{"spin-children", "4"}, sandbox.LimitCPU,
			func(o outcome) time.Duration { return o.CPU - 200*time.Millisecond }},
		{"wall_of_sleep_100ms", sandbox.Limits{}, []string{"sleep-for", "100"}, sandbox.LimitNone,
			func(o outcome) time.Duration { return o.Wall - 100*time.Millisecond }},
		// Beside what the processes themselves say that they used.
		{"cpu_of_three_processes_200ms_each", sandbox.Limits{}, []string{"burn-children", "3", "200"}, sandbox.LimitNone,
			func(o outcome) time.Duration { return o.CPU - nanoseconds(b, o.out) }},
	} {
		b.Run(c.name, func(b *testing.B) {
			var errs []time.Duration
			for b.Loop() {
				o := l.run(b, nil, c.limits, append([]string{"/payload"}, c.argv...)...)
				require.Equal(b, c.want, o.Limit, "%+v", o.Report)
				errs = append(errs, c.err(o))
			}
			slices.Sort(errs)
			at := func(part float64) float64 {
				return float64(errs[int(part*float64(len(errs)-1))].Microseconds()) / 1000
			}
			b.ReportMetric(at(0), "min-ms")
			b.ReportMetric(at(0.5), "p50-ms")
			b.ReportMetric(at(0.99), "p99-ms")
			b.ReportMetric(at(1), "max-ms")
		})
	}
}
