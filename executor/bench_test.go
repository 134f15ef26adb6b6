//go:build linux

package executor_test

import (
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/executor"
	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/remote"
)

// BenchmarkRun runs small programs as bare processes, by Run of an executor
// in this process, and through its HTTP door, in turn, so that all see the same
// machine. The figures are medians in milliseconds, and their ratios to the
// bare process. `crucible bench --executor` measures more, and throughput.
func BenchmarkRun(b *testing.B) {
	local := open(b, executor.Config{Languages: []string{"bash", "python"}})
	s, client := serve(b, local)
	door := remote.NewExecutor(s.URL(), "", client)
	n := 0
	for _, c := range []struct {
		language, code string
		bare           []string
	}{
		{"bash", "exit 0", []string{"/bin/bash", "-c", "exit 0"}},
		{"python", "print('hello')", []string{realPython(b), "-c", "print('hello')"}},
	} {
		b.Run(c.language, func(b *testing.B) {
			run := func(by eval.Runner) time.Duration {
				time.Sleep(settle)
				n++
				began := time.Now()
				res, err := by.Run(b.Context(), eval.Request{
					ID: eval.ID(fmt.Sprintf("bench-%d", n)), Attempt: 1,
					Program: eval.Program{Language: c.language, Code: eval.Bytes(c.code)},
				}, nil)
				took := time.Since(began)
				require.NoError(b, err)
				require.Equal(b, eval.Accepted, res.Verdict)
				return took
			}
			for range 3 {
				run(local)
			}
			var bare, here, post []time.Duration
			for b.Loop() {
				time.Sleep(settle)
				cmd := exec.Command(c.bare[0], c.bare[1:]...)
				cmd.Env = []string{"PATH=/usr/local/bin:/usr/bin:/bin", "LC_CTYPE=C.UTF-8"}
				began := time.Now()
				_, err := cmd.Output()
				bare = append(bare, time.Since(began))
				require.NoError(b, err)
				here, post = append(here, run(local)), append(post, run(door))
			}
			base := median(bare)
			b.ReportMetric(base, "bare-ms")
			b.ReportMetric(median(here), "run-ms")
			b.ReportMetric(median(post), "post-ms")
			b.ReportMetric(median(here)/base, "run-ratio")
			b.ReportMetric(median(post)/base, "post-ratio")
			b.ReportMetric(0, "ns/op") // the sum of all three, and of the pauses
		})
	}
}

// settle is a pause, outside of what is measured, in which one box is taken
// away and another made.
const settle = 20 * time.Millisecond

// median is in milliseconds.
func median(times []time.Duration) float64 {
	slices.Sort(times)
	return float64(times[len(times)/2].Nanoseconds()) / 1e6
}

// realPython is the interpreter that the executor runs: not a shim of it.
func realPython(b *testing.B) string {
	out, err := exec.Command("python3", "-c", "import os, sys; print(os.path.realpath(sys.executable))").Output()
	if err != nil {
		b.Skip("python3 is not here: ", err)
	}
	return strings.TrimSpace(string(out))
}
