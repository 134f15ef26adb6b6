//go:build linux

package sandbox_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/executor/internal/sandbox"
	"github.com/crucible-eval/crucible/pkg/testkit"
)

// BenchmarkBox runs a static program that does nothing: as a bare process
// (fork, exec, wait), in a box that was ready, and in one made for it, in
// turn, so that all three see the same machine. The figures are medians in
// milliseconds; "over" is what a box adds to the bare process. It does so with
// sandbox-init, as users have it, and with the whole test binary in its place.
func BenchmarkBox(b *testing.B) {
	program := staticTrue(b)
	spec := sandbox.BoxSpec{Binds: []sandbox.Bind{{Host: program, Box: "/true"}}}
	for name, cfg := range map[string]sandbox.Config{"sandbox-init": {InitPath: testkit.Program("sandbox-init")}, "self": {}} {
		b.Run(name, func(b *testing.B) {
			r := open(b, cfg)
			var bare, warm, cold []time.Duration
			prepare := func() sandbox.Box {
				box, err := r.Prepare(b.Context(), spec)
				require.NoError(b, err)
				return box
			}
			runTrue(b, prepare()) // makes the template
			for b.Loop() {
				bare = append(bare, timed(func() { require.NoError(b, exec.Command(program).Run()) }))
				box := prepare()
				sandbox.AwaitReady(b, box)
				time.Sleep(settle)
				warm = append(warm, timed(func() { runTrue(b, box) }))
				time.Sleep(settle)
				cold = append(cold, timed(func() { runTrue(b, prepare()) }))
				time.Sleep(settle)
			}
			base := median(bare)
			b.ReportMetric(base, "bare-ms")
			b.ReportMetric(median(warm), "warm-ms")
			b.ReportMetric(median(cold), "cold-ms")
			b.ReportMetric(median(warm)-base, "warm-over-ms")
			b.ReportMetric(median(cold)-base, "cold-over-ms")
			b.ReportMetric(0, "ns/op") // the sum of all three, and of the pauses
		})
	}
}

// settle is a pause, outside of what is measured, in which the box before is
// taken away.
const settle = 5 * time.Millisecond

func timed(f func()) time.Duration {
	began := time.Now()
	f()
	return time.Since(began)
}

// median is in milliseconds.
func median(times []time.Duration) float64 {
	slices.Sort(times)
	return float64(times[len(times)/2].Nanoseconds()) / 1e6
}

// staticTrue makes the smallest program there is a compiler for.
func staticTrue(b *testing.B) string {
	dir := b.TempDir()
	for d := dir; d != os.TempDir(); d = filepath.Dir(d) {
		require.NoError(b, os.Chmod(d, 0o755)) // a box is a stranger to the host
	}
	source, program := filepath.Join(dir, "true.c"), filepath.Join(dir, "true")
	require.NoError(b, os.WriteFile(source, []byte("int main(void) { return 0; }\n"), 0o600))
	out, err := exec.Command("cc", "-O2", "-static", "-o", program, source).CombinedOutput()
	if err != nil {
		b.Skipf("no C compiler that links statically: %v: %s", err, out)
	}
	return program
}

func runTrue(b *testing.B, box sandbox.Box) {
	rep, err := box.Run(b.Context(), sandbox.Command{Argv: []string{"/true"}})
	require.NoError(b, err)
	require.Zero(b, rep.ExitCode)
	require.NoError(b, box.Close())
}
