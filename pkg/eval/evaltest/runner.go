package evaltest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/pkg/eval"
)

// TestRunner holds an eval.Executor to its contract with real programs in
// Python and Bash, and with every other language that it offers. open makes
// a fresh one; the caller cleans up.
func TestRunner(t *testing.T, open func(t *testing.T) eval.Executor) {
	r := runner{open(t)}
	t.Run("outcomes", r.outcomes)
	t.Run("limits", r.limits)
	t.Run("output", r.output)
	t.Run("program", r.program)
	t.Run("tests", r.tests)
	t.Run("checkers", r.checkers)
	t.Run("secrets", r.secrets)
	t.Run("series", r.series)
	t.Run("artifacts", r.artifacts)
	t.Run("compile", r.compile)
	t.Run("languages", r.languages)
	t.Run("refusals", r.refusals)
	t.Run("ends", r.ends)
	t.Run("attempts", r.attempts)
	t.Run("full", r.full)
	r.idle(t)
}

type runner struct{ eval.Executor }

var runs atomic.Int64

// request makes one with an id of its own.
func request(language, code string) eval.Request {
	return eval.Request{
		ID: eval.ID(fmt.Sprintf("suite-%d-%d", time.Now().UnixNano(), runs.Add(1))), Attempt: 1,
		Program: eval.Program{Language: language, Code: eval.Bytes(code)},
	}
}

// run expects a result.
func (r runner) run(t *testing.T, req eval.Request) eval.Result {
	t.Helper()
	res, err := r.Run(t.Context(), req, nil)
	require.NoError(t, err)
	require.Equal(t, req.Language, res.Language.ID)
	require.NotEmpty(t, res.Isolation.Level)
	require.NotEmpty(t, res.Isolation.Controls)
	require.EqualValues(t, len(res.Stdout.Data), res.Stdout.Bytes)
	require.EqualValues(t, len(res.Stderr.Data), res.Stderr.Bytes)
	return res
}

func exit(t *testing.T, res eval.Result, code int) {
	t.Helper()
	require.NotNil(t, res.ExitCode, "ended by %s", res.Signal)
	require.Equal(t, code, *res.ExitCode)
	require.Empty(t, res.Signal)
}

// idle waits until no slot is taken.
func (r runner) idle(t *testing.T) {
	t.Helper()
	require.Eventually(t, func() bool {
		s, err := r.Status(t.Context())
		return err == nil && s.Busy == 0
	}, 5*time.Second, 5*time.Millisecond, "slots are not given back")
}

// started runs in the background and returns once the program has written
// a line, with the means to end it and to get what it came to.
func (r runner) started(t *testing.T, req eval.Request) (cancel context.CancelCauseFunc, end func() (eval.Result, error)) {
	t.Helper()
	ctx, cancel := context.WithCancelCause(t.Context())
	t.Cleanup(func() { cancel(nil) })
	wrote, done := make(chan struct{}, 1), make(chan struct{})
	var res eval.Result
	var err error
	go func() {
		defer close(done)
		res, err = r.Run(ctx, req, func(e eval.RunEvent) {
			if e.Type == eval.RunStdout && bytes.HasSuffix(e.Data, []byte("\n")) {
				select {
				case wrote <- struct{}{}:
				default:
				}
			}
		})
	}()
	end = func() (eval.Result, error) {
		t.Helper()
		select {
		case <-done:
		case <-time.After(20 * time.Second):
			require.Fail(t, "the run does not end")
		}
		return res, err
	}
	select {
	case <-wrote:
	case <-done:
		require.Failf(t, "the run ended at once", "%+v %v", res, err)
	case <-time.After(20 * time.Second):
		require.Fail(t, "the run does not start")
	}
	return cancel, end
}

const sleeper = "import time\nprint('up', flush=True)\ntime.sleep(60)\n"

func (r runner) outcomes(t *testing.T) {
	t.Run("hello", func(t *testing.T) {
		res := r.run(t, request("python", "print('hello')"))
		exit(t, res, 0)
		require.Equal(t, eval.Accepted, res.Verdict)
		require.Empty(t, res.Cause)
		require.Empty(t, res.Explanation)
		require.Equal(t, "hello\n", string(res.Stdout.Data))
		require.Empty(t, res.Stderr.Data)
		require.Positive(t, res.WallMS)
		require.Positive(t, res.CPUMS)
		require.Positive(t, res.MemoryPeakBytes)
		require.Nil(t, res.Compile)
		require.NotEmpty(t, res.Language.Version)
	})
	t.Run("exit code", func(t *testing.T) {
		res := r.run(t, request("python", "import sys\nsys.exit(42)"))
		exit(t, res, 42)
		require.Equal(t, eval.RuntimeError, res.Verdict)
		require.Equal(t, eval.CauseExitCode, res.Cause)
		require.Contains(t, res.Explanation, "42")
	})
	t.Run("exit code 137 is no signal and no limit", func(t *testing.T) {
		res := r.run(t, request("bash", "exit 137"))
		exit(t, res, 137)
		require.Equal(t, eval.CauseExitCode, res.Cause)
		require.Contains(t, res.Explanation, "SIGKILL")
	})
	t.Run("output before an exception is kept, both streams", func(t *testing.T) {
		res := r.run(t, request("python", "print('before')\n1/0"))
		exit(t, res, 1)
		require.Equal(t, eval.RuntimeError, res.Verdict)
		require.Equal(t, "before\n", string(res.Stdout.Data))
		require.Contains(t, string(res.Stderr.Data), "ZeroDivisionError")
	})
	t.Run("syntax error of an interpreted language", func(t *testing.T) {
		res := r.run(t, request("python", "print('never'\n"))
		exit(t, res, 1)
		require.Equal(t, eval.RuntimeError, res.Verdict)
		require.Contains(t, string(res.Stderr.Data), "SyntaxError")
		require.Empty(t, res.Stdout.Data)
	})
	t.Run("signals", func(t *testing.T) {
		for _, name := range []string{"SIGKILL", "SIGSEGV", "SIGABRT", "SIGTERM"} {
			res := r.run(t, request("python", "import os, signal\nos.kill(os.getpid(), signal."+name+")"))
			require.Equal(t, eval.RuntimeError, res.Verdict, name)
			require.Equal(t, eval.CauseSignal, res.Cause, name)
			require.Equal(t, name, res.Signal)
			require.Nil(t, res.ExitCode, name)
			require.Contains(t, res.Explanation, name)
		}
	})
}

func (r runner) limits(t *testing.T) {
	t.Run("wall: prompt, and output kept", func(t *testing.T) {
		req := request("python", "import time\nprint('before')\ntime.sleep(30)")
		req.Limits.WallMS = 600
		began := time.Now()
		res := r.run(t, req)
		require.Less(t, time.Since(began), 3*time.Second)
		require.Equal(t, eval.TimeLimit, res.Verdict)
		require.Equal(t, eval.CauseWall, res.Cause)
		require.Equal(t, "before\n", string(res.Stdout.Data))
		require.InDelta(t, 600, res.WallMS, 200)
		require.Nil(t, res.ExitCode)
		require.Contains(t, res.Explanation, "600 ms")
	})
	t.Run("cpu", func(t *testing.T) {
		req := request("python", "print('before')\nwhile True: pass")
		req.Limits = eval.Limits{CPUMS: 200, WallMS: 10_000}
		res := r.run(t, req)
		require.Equal(t, eval.TimeLimit, res.Verdict)
		require.Equal(t, eval.CauseCPU, res.Cause)
		require.InDelta(t, 200, res.CPUMS, 150)
		require.Equal(t, "before\n", string(res.Stdout.Data))
	})
	t.Run("memory", func(t *testing.T) {
		req := request("python", "print('before')\nhog = []\nwhile True: hog.append(bytearray(1 << 20))")
		req.Limits.MemoryBytes = 64 << 20
		res := r.run(t, req)
		require.Equal(t, eval.MemoryLimit, res.Verdict)
		require.Equal(t, eval.CauseOOM, res.Cause)
		require.Equal(t, "before\n", string(res.Stdout.Data))
		require.Contains(t, res.Explanation, "64 MiB")
	})
	t.Run("output, each stream by itself", func(t *testing.T) {
		for stream, cause := range map[string]eval.Cause{"stdout": eval.CauseStdout, "stderr": eval.CauseStderr} {
			req := request("python", "import sys\nwhile True: sys."+stream+".write('x' * 4096)")
			req.Limits.OutputBytes = 100_000
			res := r.run(t, req)
			require.Equal(t, eval.OutputLimit, res.Verdict)
			require.Equal(t, cause, res.Cause)
			of, other := res.Stdout, res.Stderr
			if stream == "stderr" {
				of, other = other, of
			}
			require.True(t, of.Truncated)
			require.EqualValues(t, 100_000, of.Bytes)
			require.Equal(t, strings.Repeat("x", 100_000), string(of.Data))
			require.False(t, other.Truncated)
			require.Empty(t, other.Data)
		}
	})
	t.Run("as much output as allowed is no limit", func(t *testing.T) {
		req := request("python", "print('x' * 999)")
		req.Limits.OutputBytes = 1000
		res := r.run(t, req)
		require.Equal(t, eval.Accepted, res.Verdict)
		require.False(t, res.Stdout.Truncated)
	})
	t.Run("disk", func(t *testing.T) {
		req := request("python", "try:\n  open('f', 'wb').write(bytes(4 << 20))\nexcept OSError as e: print(e.strerror)")
		req.Limits.DiskBytes = 1 << 20
		require.Equal(t, "No space left on device\n", string(r.run(t, req).Stdout.Data))
	})
}

func (r runner) output(t *testing.T) {
	t.Run("all byte values", func(t *testing.T) {
		res := r.run(t, request("python", "import sys\nfor s in (sys.stdout, sys.stderr): s.buffer.write(bytes(range(256)))"))
		all := make([]byte, 256)
		for i := range all {
			all[i] = byte(i)
		}
		require.Equal(t, all, res.Stdout.Data)
		require.Equal(t, all, res.Stderr.Data)
	})
	t.Run("live, before the end", func(t *testing.T) {
		cancel, end := r.started(t, request("python", sleeper))
		cancel(nil)
		_, err := end()
		require.ErrorIs(t, err, context.Canceled)
	})
	t.Run("the sink sees every byte, and started first", func(t *testing.T) {
		req := request("python", "import sys, os\nfor i in range(2000):\n  os.write(1, b'o%d\\n' % i)\n  os.write(2, b'e%d\\n' % i)")
		var out, errs bytes.Buffer
		var first eval.RunEventType
		res, err := r.Run(t.Context(), req, func(e eval.RunEvent) {
			if first == "" {
				first = e.Type
			}
			switch e.Type {
			case eval.RunStdout:
				out.Write(e.Data)
			case eval.RunStderr:
				errs.Write(e.Data)
			}
		})
		require.NoError(t, err)
		require.Equal(t, eval.RunStarted, first)
		require.Equal(t, res.Stdout.Data, out.Bytes())
		require.Equal(t, res.Stderr.Data, errs.Bytes())
		require.True(t, strings.HasSuffix(out.String(), "o1999\n"))
		require.Equal(t, 2000, bytes.Count(errs.Bytes(), []byte("\n")))
	})
	t.Run("a slow sink does not slow the program", func(t *testing.T) {
		req := request("python", "import os\nfor i in range(64): os.write(1, b'x' * 16384)")
		req.Limits = eval.Limits{OutputBytes: 1 << 20, WallMS: 5_000}
		block := make(chan struct{})
		blocked := time.AfterFunc(time.Second, func() { close(block) })
		defer blocked.Stop()
		res, err := r.Run(t.Context(), req, func(eval.RunEvent) { <-block })
		require.NoError(t, err)
		require.Equal(t, eval.Accepted, res.Verdict)
		require.Less(t, res.WallMS, 900.0)
		require.EqualValues(t, 1<<20, res.Stdout.Bytes)
	})
	t.Run("50 MB", func(t *testing.T) {
		req := request("python", "import sys\nb = bytes(range(256)) * 256\nfor i in range(800): sys.stdout.buffer.write(b)")
		req.Limits = eval.Limits{OutputBytes: 64 << 20, WallMS: 60_000}
		want := bytes.Repeat(func() []byte {
			b := make([]byte, 256)
			for i := range b {
				b[i] = byte(i)
			}
			return b
		}(), 256*800)
		seen := 0
		res, err := r.Run(t.Context(), req, func(e eval.RunEvent) {
			if e.Type == eval.RunStdout {
				seen += len(e.Data)
			}
		})
		require.NoError(t, err)
		require.Equal(t, eval.Accepted, res.Verdict)
		require.True(t, bytes.Equal(want, res.Stdout.Data))
		require.Equal(t, len(want), seen)
	})
}

// errEnd is a cause that tests can recognize.
var errEnd = errors.New("the suite ended it")

func (r runner) ends(t *testing.T) {
	t.Run("a context that ends kills the run and keeps what there was", func(t *testing.T) {
		cancel, end := r.started(t, request("python", sleeper))
		began := time.Now()
		cancel(errEnd)
		res, err := end()
		require.ErrorIs(t, err, errEnd)
		require.Less(t, time.Since(began), 2*time.Second)
		require.Equal(t, "up\n", string(res.Stdout.Data))
		require.Empty(t, res.Verdict)
		r.idle(t)
	})
	t.Run("a context that has ended", func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(errEnd)
		_, err := r.Run(ctx, request("python", sleeper), nil)
		require.ErrorIs(t, err, errEnd)
	})
	t.Run("stopped by its id", func(t *testing.T) {
		req := request("python", sleeper)
		_, end := r.started(t, req)
		require.NoError(t, r.Stop(t.Context(), req.ID))
		res, err := end()
		require.Equal(t, eval.KindConflict, eval.KindOf(err), "%v", err)
		require.Equal(t, "up\n", string(res.Stdout.Data))
		err = r.Stop(t.Context(), req.ID)
		require.Equal(t, eval.KindNotFound, eval.KindOf(err), "%v", err)
	})
	t.Run("nothing of it lives on", func(t *testing.T) {
		// A daemon that holds the output open does not hold up the result.
		began := time.Now()
		res := r.run(t, request("bash", "(trap '' HUP TERM; sleep 30) & disown; echo done"))
		require.Equal(t, "done\n", string(res.Stdout.Data))
		require.Equal(t, eval.Accepted, res.Verdict)
		require.Less(t, time.Since(began), 5*time.Second)
	})
}
