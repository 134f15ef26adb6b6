//go:build linux

package executor_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/executor"
	"github.com/crucible-eval/crucible/pkg/eval"
)

// scripted is a compiled language whose compiler does what the first line of
// the program says, and whose programs do what the rest says, both in Bash.
// Its compiler's limits are small.
const scripted = `
id: scripted
name: Scripted
source: main.sh
toolchain:
  - name: bash
    commands: [bash]
compile:
  steps:
    - ["${bash}", -c, "eval \"$(head -n 1 main.sh)\"; tail -n +2 main.sh > a.out"]
  output: a.out
  limits: { wall_ms: 1000, cpu_ms: 900, memory_bytes: 67108864, processes: 16, output_bytes: 1000, disk_bytes: 1048576 }
run: ["${bash}", a.out]
version:
  argv: ["${bash}", --version]
  pattern: 'version (\d+\.\d+\.\d+)'
example: |
  :
  echo hello
smoke:
  code: |
    :
    echo 42
  stdout: "42\n"
`

// TestEachLimitHasItsVerdictAndItsCause runs into one limit after the other,
// of the compiler and of the program.
func TestEachLimitHasItsVerdictAndItsCause(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "scripted.yaml"), []byte(scripted), 0o600))
	l := open(t, executor.Config{Languages: []string{"scripted"}, LanguagesDir: dir})
	few := eval.Limits{WallMS: 30_000, CPUMS: 30_000, MemoryBytes: 64 << 20, Processes: 16, OutputBytes: 1000, DiskBytes: 1 << 20}
	const eat = "a=x; while :; do a=$a$a; done"
	const fill = "head -c 9000000 /dev/zero > /w/big"
	for i, c := range []struct {
		name          string
		compile, code string
		verdict       eval.Verdict
		cause         eval.Cause
		says          string // in the explanation
	}{
		{"accepted", ":", "echo hello", eval.Accepted, "", ""},
		{"the compiler says no", "echo no >&2; exit 3", "", eval.CompileError, eval.CauseCompile, "refused"},
		{"the compiler crashes", "kill -SEGV $$", "", eval.CompileError, eval.CauseCompile, "refused"},
		{"the compiler waits", "sleep 60", "", eval.CompileError, eval.CauseCompileTime, "1,000 ms"},
		{"the compiler spins", "while :; do :; done", "", eval.CompileError, eval.CauseCompileTime, ""},
		{"the compiler needs memory", eat, "", eval.CompileError, eval.CauseCompileMem, "64 MiB"},
		{"the compiler talks", "yes", "", eval.CompileError, eval.CauseCompileOut, "1,000 bytes"},
		{"the compiler complains", "yes >&2", "", eval.CompileError, eval.CauseCompileOut, ""},
		{"the compiler fills the folder", fill + "; exit", "", eval.CompileError, eval.CauseDisk, "filled"},
		{"the compiler makes nothing", "exit", "", eval.CompileError, eval.CauseCompile, "no program"},
		{"the compiler makes an empty file", "> a.out; exit", "", eval.CompileError, eval.CauseCompile, "no program"},
		{"the compiler makes a folder", "mkdir a.out; exit 0", "", eval.CompileError, eval.CauseCompile, "no program"},
		{"the compiler makes a link", "ln -s /etc/passwd a.out; exit 0", "", eval.CompileError, eval.CauseCompile, "no program"},
		{"wall", ":", "sleep 60", eval.TimeLimit, eval.CauseWall, "500 ms"},
		{"cpu", ":", "while :; do :; done", eval.TimeLimit, eval.CauseCPU, "300 ms"},
		{"cpu of children", ":", "for i in 1 2; do while :; do :; done & done; wait", eval.TimeLimit, eval.CauseCPU, ""},
		{"memory", ":", eat, eval.MemoryLimit, eval.CauseOOM, "64 MiB"},
		{"memory of a child", ":", "(" + eat + "); exit 0", eval.MemoryLimit, eval.CauseOOM, ""},
		{"stdout", ":", "yes", eval.OutputLimit, eval.CauseStdout, "1,000 bytes"},
		{"stderr", ":", "yes >&2", eval.OutputLimit, eval.CauseStderr, ""},
		{"exit code", ":", "exit 9", eval.RuntimeError, eval.CauseExitCode, "exit code 9"},
		{"signal", ":", "kill -SEGV $$", eval.RuntimeError, eval.CauseSignal, "SIGSEGV"},
		{"disk", ":", fill, eval.RuntimeError, eval.CauseExitCode, "work folder was full then; its limit is 1 MiB"},
		{"disk, and nothing wrong", ":", fill + " 2> /dev/null; exit 0", eval.Accepted, "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			limits := few
			switch c.cause {
			case eval.CauseWall:
				limits.WallMS = 500
			case eval.CauseCPU: // which a busy machine gives slowly
				limits.CPUMS = 300
			}
			res, err := l.Run(t.Context(), eval.Request{ID: eval.ID(fmt.Sprint("limit-", i)), Attempt: 1, Program: eval.Program{
				Language: "scripted", Code: eval.Bytes(c.compile + "\n" + c.code), Limits: limits,
			}}, nil)
			require.NoError(t, err)
			require.Equal(t, []any{c.verdict, c.cause}, []any{res.Verdict, res.Cause}, "%s\n%s %s", res.Explanation, res.Stderr.Data, res.Compile.Stderr.Data)
			require.Contains(t, res.Explanation, c.says)
			require.LessOrEqual(t, len(res.Compile.Stdout.Data), 1000)
			require.LessOrEqual(t, len(res.Compile.Stderr.Data), 1000, "the log is capped")
			require.Equal(t, c.cause == eval.CauseCompileOut, res.Compile.Stdout.Truncated || res.Compile.Stderr.Truncated)
			if c.verdict == eval.CompileError {
				require.Zero(t, res.WallMS, "the program never ran")
			}
			if c.cause == eval.CauseSignal {
				require.Nil(t, res.ExitCode)
			}
		})
	}
}
