//go:build linux

package executor_test

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/executor"
	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/remote"
)

// realPython is the interpreter that the executor runs: not a shim of it.
func realPython(b *testing.B) string {
	b.Helper()
	out, err := exec.Command("python3", "-c", "import os, sys; print(os.path.realpath(sys.executable))").Output()
	if err != nil {
		b.Skip("python3 is not here: ", err)
	}
	return strings.TrimSpace(string(out))
}

// BenchmarkBarePython is what the others are compared with: fork, exec and
// wait of the same interpreter with the same program.
func BenchmarkBarePython(b *testing.B) {
	python := realPython(b)
	for b.Loop() {
		out, err := exec.Command(python, "-c", "print('hello')").Output()
		require.NoError(b, err)
		require.Equal(b, "hello\n", string(out))
	}
}

func BenchmarkBareBash(b *testing.B) {
	for b.Loop() {
		require.NoError(b, exec.Command("bash", "-c", "exit 0").Run())
	}
}

func BenchmarkRunPythonHello(b *testing.B) {
	benchmarkRun(b, open(b, executor.Config{Languages: []string{"python"}}), "python", "print('hello')")
}

func BenchmarkRunBashExit(b *testing.B) {
	benchmarkRun(b, open(b, executor.Config{Languages: []string{"bash"}}), "bash", "exit 0")
}

func BenchmarkPostPythonHello(b *testing.B) {
	s, client := serve(b, open(b, executor.Config{Languages: []string{"python"}}))
	benchmarkRun(b, remote.NewExecutor(s.URL(), "", client), "python", "print('hello')")
}

func benchmarkRun(b *testing.B, r eval.Runner, language, code string) {
	n := 0
	for b.Loop() {
		n++
		res, err := r.Run(b.Context(), eval.Request{
			ID: eval.ID(fmt.Sprintf("bench-%d", n)), Attempt: 1,
			Program: eval.Program{Language: language, Code: eval.Bytes(code)},
		}, nil)
		require.NoError(b, err)
		require.Equal(b, eval.Accepted, res.Verdict)
	}
}
