package run

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/crucible-eval/crucible/executor/internal/sandbox"
	"github.com/crucible-eval/crucible/pkg/eval"
)

const (
	// maxTestOutput is how much output of all tests together a result keeps;
	// every test is checked against all of its own.
	maxTestOutput = 64 << 20
	// maxOutput is the largest compiled program that is carried from the
	// compilation to the tests.
	maxOutput = 256 << 20
)

// testCompiled tests what was compiled in a workspace. Where the language
// says which file the compiler makes, each test gets a work folder of its own;
// else all share the one.
func (j *job) testCompiled(ctx context.Context, w sandbox.Workspace) error {
	if j.lang.Compile.Output == "" {
		return j.test(ctx, w, nil)
	}
	output, err := readOutput(w, j.lang.Compile.Output)
	if err != nil {
		return err
	}
	return j.test(ctx, nil, output)
}

// test runs the program once for each test: in the workspace that all share,
// or, when that is nil, in one of its own with the compiler's output.
func (j *job) test(ctx context.Context, shared sandbox.Workspace, output []byte) error {
	if j.sink != nil && !j.started {
		j.started = true
		j.sink(eval.RunEvent{Type: eval.RunStarted, At: time.Now()})
	}
	kept := int64(0)
	failed := false
	j.result.Tests = make([]eval.TestResult, 0, len(j.program.Tests))
	for i := range j.program.Tests {
		t := &j.program.Tests[i]
		out, err := j.one(ctx, t, shared, output)
		if err != nil {
			return err
		}
		trim(&out.stdout, &kept)
		trim(&out.stderr, &kept)
		j.result.Tests = append(j.result.Tests, eval.TestResult{
			Name: t.Name, Verdict: out.verdict, Cause: out.cause, Usage: out.usage, Stdout: out.stdout, Stderr: out.stderr,
		})
		decides := !failed && out.verdict != eval.Accepted
		j.sum(out, decides || i == 0)
		if decides {
			failed = true
			j.result.Verdict, j.result.Cause = out.verdict, out.cause
			j.result.Explanation = fmt.Sprintf("Test %d%s failed. %s", i+1, named(t.Name), out.explainTest(j.program.Limits))
		}
	}
	if !failed {
		j.result.Verdict = eval.Accepted
	}
	return nil
}

// one runs and checks one test.
func (j *job) one(ctx context.Context, t *eval.Test, shared sandbox.Workspace, output []byte) (outcome, error) {
	var box sandbox.Box
	if shared != nil {
		var err error
		if box, err = j.prepare(ctx, shared, tmpBytes(j.program.Limits.DiskBytes)); err != nil {
			return outcome{}, err
		}
		defer func() { _ = box.Close() }()
	} else {
		own, err := j.begin(ctx, j.runKind(), output)
		if err != nil {
			return outcome{}, err
		}
		defer func() { _ = own.close() }()
		box = own.box
	}
	args := t.Args
	if args == nil {
		args = j.program.Args
	}
	out, err := j.execute(ctx, box, args, t.Stdin, nil)
	if err != nil {
		return out, err
	}
	if out.verdict == eval.Accepted && t.ExpectedStdout != nil && !matches(t.Checker, out.stdout.Data, *t.ExpectedStdout) {
		out.verdict, out.cause = eval.WrongAnswer, eval.CauseTest
	}
	return out, nil
}

// sum adds a test to the whole: the largest of each figure, and the exit of
// the test that decides.
func (j *job) sum(out outcome, decides bool) {
	u, v := &j.result.Usage, out.usage
	u.WallMS, u.CPUMS = max(u.WallMS, v.WallMS), max(u.CPUMS, v.CPUMS)
	u.MemoryPeakBytes, u.Processes = max(u.MemoryPeakBytes, v.MemoryPeakBytes), max(u.Processes, v.Processes)
	if decides {
		u.ExitCode, u.Signal = v.ExitCode, v.Signal
	}
}

func (o outcome) explainTest(l eval.Limits) string {
	if o.verdict == eval.WrongAnswer {
		return "Its output is not the expected one."
	}
	return o.explain(l)
}

// trim cuts what a stream keeps to what is left of the budget.
func trim(s *eval.Stream, kept *int64) {
	if room := max(maxTestOutput-*kept, 0); s.Bytes > room {
		s.Data, s.Bytes, s.Truncated = s.Data[:room:room], room, true
	}
	*kept += s.Bytes
}

func named(name string) string {
	if name == "" {
		return ""
	}
	return fmt.Sprintf(" (%s)", name)
}

// readOutput takes the compiled program out of the workspace.
func readOutput(w sandbox.Workspace, name string) ([]byte, error) {
	f, err := w.Open(name)
	if err != nil {
		return nil, noOutput(err)
	}
	defer func() { _ = f.Close() }()
	b, err := io.ReadAll(io.LimitReader(f, maxOutput+1))
	if err != nil {
		return nil, broken("read the compiled program", err)
	}
	if len(b) > maxOutput {
		return nil, eval.Errorf(eval.KindInvalid, "the compiled program is larger than %s", size(maxOutput))
	}
	if len(b) == 0 {
		return nil, noOutput(errors.New("it is empty"))
	}
	return b, nil
}

func noOutput(err error) error {
	return eval.Errorf(eval.KindSandbox, "the compiler reported success and left no program: %w", err)
}
