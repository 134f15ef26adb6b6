//go:build linux

package sandbox_test

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/executor/internal/sandbox"
	"github.com/crucible-eval/crucible/pkg/testkit"
)

// BenchmarkGVisor runs programs as bare processes, in ready boxes of level
// namespaces, and in gVisor: in a sandbox that was ready, and in one made for
// it; all in turn. The figures are medians in milliseconds; "prepare" is from
// the order of a sandbox to its init being ready. A few rounds are enough:
//
//	make runsc && cd executor && go test ./internal/sandbox -run '^$' -bench GVisor -benchtime 50x
func BenchmarkGVisor(b *testing.B) {
	for _, p := range []struct {
		name string
		argv []string
	}{
		{"true", []string{"/true"}},
		{"bash", []string{"bash", "-c", "exit 0"}},
		{"python", []string{"python3", "-c", "print('hello')"}},
		{"node", []string{"node", "-e", "console.log('hello')"}},
	} {
		b.Run(p.name, func(b *testing.B) { benchmarkGVisor(b, p.argv) })
	}
}

func benchmarkGVisor(b *testing.B, argv []string) {
	bare := slices.Clone(argv)
	spec := sandbox.BoxSpec{}
	if argv[0] == "/true" {
		bare[0] = staticTrue(b)
		spec.Binds = []sandbox.Bind{{Host: bare[0], Box: argv[0]}}
	} else {
		// The same file inside and outside, and no shim of it.
		out, err := exec.Command("which", "-a", argv[0]).Output()
		if err != nil {
			b.Skipf("%s is not here", argv[0])
		}
		for found := range strings.Lines(string(out)) {
			if strings.HasPrefix(found, "/usr/") {
				bare[0] = strings.TrimSpace(found)
			}
		}
		argv = bare
	}
	initPath := testkit.Program("sandbox-init")
	open := func(cfg sandbox.Config) sandbox.Runtime {
		cfg.InitPath = initPath
		r, err := sandbox.Open(b.Context(), cfg)
		require.NoError(b, err)
		b.Cleanup(func() { require.NoError(b, r.Close()) })
		return r
	}
	plain, guest := open(sandbox.Config{}), open(gvisor(b))

	run := func(box sandbox.Box) {
		rep, err := box.Run(b.Context(), sandbox.Command{Argv: argv, Limits: sandbox.Limits{MemoryBytes: 1 << 30}})
		require.NoError(b, err)
		require.Zero(b, rep.ExitCode, rep.StartError)
		require.NoError(b, box.Close())
	}
	ready := func(r sandbox.Runtime) sandbox.Box {
		box, err := r.Prepare(b.Context(), spec)
		require.NoError(b, err)
		sandbox.AwaitReady(b, box)
		return box
	}
	run(ready(plain)) // makes the template
	run(ready(guest))
	figures := map[string][]time.Duration{}
	measure := func(name string, f func()) {
		figures[name] = append(figures[name], timed(f))
		time.Sleep(settle)
	}
	for b.Loop() {
		measure("bare-ms", func() { require.NoError(b, exec.Command(bare[0], bare[1:]...).Run()) })
		box := ready(plain)
		measure("namespaces-ms", func() { run(box) })
		measure("prepare-ms", func() { box = ready(guest) })
		time.Sleep(10 * settle)
		measure("warm-ms", func() { run(box) })
		time.Sleep(10 * settle)
		measure("cold-ms", func() {
			box, err := guest.Prepare(b.Context(), spec)
			require.NoError(b, err)
			run(box)
		})
		time.Sleep(10 * settle)
	}
	for name, times := range figures {
		b.ReportMetric(median(times), name)
	}
	b.ReportMetric(0, "ns/op") // the sum of all, and of the pauses
}
