//go:build linux

package sandbox_test

import (
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/executor/internal/sandbox"
)

// BenchmarkBareTrue is what BenchmarkBoxTrue is compared with: fork, exec and
// wait of the same program.
func BenchmarkBareTrue(b *testing.B) {
	for b.Loop() {
		require.NoError(b, exec.Command("/usr/bin/true").Run())
	}
}

// BenchmarkBoxTrue makes a box, runs true in it, and closes it: nothing is
// prepared beforehand. With sandbox-init as users have it, and with the whole
// test binary in its place.
func BenchmarkBoxTrue(b *testing.B) {
	initPath := filepath.Join(b.TempDir(), "sandbox-init")
	out, err := exec.Command("go", "build", "-ldflags=-s -w", "-o", initPath, "../../cmd/sandbox-init").CombinedOutput()
	require.NoError(b, err, string(out))
	for name, cfg := range map[string]sandbox.Config{"sandbox-init": {InitPath: initPath}, "self": {}} {
		b.Run("cold/"+name, func(b *testing.B) {
			r := open(b, cfg)
			for b.Loop() {
				box, err := r.Prepare(b.Context(), sandbox.BoxSpec{})
				require.NoError(b, err)
				runTrue(b, box)
			}
		})
		b.Run("warm/"+name, func(b *testing.B) {
			r := open(b, cfg)
			for b.Loop() {
				b.StopTimer()
				box, err := r.Prepare(b.Context(), sandbox.BoxSpec{})
				require.NoError(b, err)
				waitReady(b, box)
				b.StartTimer()
				runTrue(b, box)
			}
		})
	}
}

func runTrue(b *testing.B, box sandbox.Box) {
	rep, err := box.Run(b.Context(), sandbox.Command{Argv: []string{"/usr/bin/true"}})
	require.NoError(b, err)
	require.Zero(b, rep.ExitCode)
	require.NoError(b, box.Close())
}

// waitReady gives a box the time to get ready, outside of what is measured.
func waitReady(b *testing.B, _ sandbox.Box) {
	b.Helper()
	time.Sleep(10 * time.Millisecond)
}
