package run

import (
	"bytes"
	"context"
	"time"

	"github.com/crucible-eval/crucible/executor/internal/lang"
	"github.com/crucible-eval/crucible/executor/internal/sandbox"
	"github.com/crucible-eval/crucible/pkg/eval"
)

// compileTmp is the quota of /tmp while compiling.
const compileTmp = 256 << 20

// compile runs the language's compilation steps, the first one in the box
// that is there. ok is false when the program was refused; the result then
// says why. All steps share the limits.
func (j *job) compile(ctx context.Context, first *set) (ok bool, err error) {
	phase := &eval.Phase{}
	j.result.Compile = phase
	left := j.lang.Compile.Limits
	for i, argv := range j.lang.Steps(j.source) {
		box := first.box
		if i > 0 {
			if box, err = j.prepare(ctx, first.workspace, compileTmp); err != nil {
				return false, err
			}
		}
		rep, err := j.step(ctx, box, argv, left, phase)
		_ = box.Close()
		if err != nil {
			return false, err
		}
		left.WallMS -= rep.Wall.Milliseconds()
		left.CPUMS -= rep.CPU.Milliseconds()
		left.OutputBytes -= max(rep.StdoutBytes, rep.StderrBytes)
		if cause, refused := refusal(rep, first.workspace); refused {
			j.result.Verdict, j.result.Cause = eval.CompileError, cause
			j.result.Explanation = explainCompile(cause, j.lang)
			return false, nil
		}
	}
	return true, nil
}

func (j *job) step(ctx context.Context, box sandbox.Box, argv []string, left lang.Limits, phase *eval.Phase) (sandbox.Report, error) {
	var out, errs bytes.Buffer
	rep, err := box.Run(ctx, sandbox.Command{
		Argv: argv, Env: j.lang.Environ(nil), Stdout: &out, Stderr: &errs,
		Limits: sandbox.Limits{
			Wall: max(left.Wall(), time.Millisecond), CPU: max(left.CPU(), time.Millisecond), MemoryBytes: left.MemoryBytes,
			Processes: int(left.Processes), OutputBytes: max(left.OutputBytes, 1), OpenFiles: 1024,
		},
	})
	if err != nil {
		return rep, broken("compile", err)
	}
	addStep(phase, rep, out.Bytes(), errs.Bytes())
	switch {
	case rep.Limit == sandbox.LimitCancelled:
		return rep, context.Cause(ctx)
	case rep.StartError != "":
		return rep, eval.Errorf(eval.KindSandbox, "the %s compiler could not be started: %s; is its toolchain still there?: %w", j.lang.Name, rep.StartError, ErrToolchain)
	}
	return rep, nil
}

// addStep adds a step to what the phase used and printed; its end is the
// phase's, for now.
func addStep(phase *eval.Phase, rep sandbox.Report, out, errs []byte) {
	u := usage(rep)
	u.WallMS += phase.WallMS
	u.CPUMS += phase.CPUMS
	u.MemoryPeakBytes = max(u.MemoryPeakBytes, phase.MemoryPeakBytes)
	u.Processes = max(u.Processes, phase.Processes)
	phase.Usage = u
	phase.Stdout = eval.Stream{Data: append(phase.Stdout.Data, out...), Truncated: rep.StdoutTruncated}
	phase.Stderr = eval.Stream{Data: append(phase.Stderr.Data, errs...), Truncated: rep.StderrTruncated}
	phase.Stdout.Bytes, phase.Stderr.Bytes = int64(len(phase.Stdout.Data)), int64(len(phase.Stderr.Data))
}

// refusal says whether a compilation step failed, and why.
func refusal(rep sandbox.Report, w sandbox.Workspace) (eval.Cause, bool) {
	switch rep.Limit {
	case sandbox.LimitWall, sandbox.LimitCPU:
		return eval.CauseCompileTime, true
	case sandbox.LimitMemory:
		return eval.CauseCompileMem, true
	case sandbox.LimitStdout, sandbox.LimitStderr:
		return eval.CauseCompileOut, true
	case sandbox.LimitDisk:
		return eval.CauseDisk, true
	}
	if rep.ExitCode == 0 {
		return "", false
	}
	if u, err := w.Usage(); err == nil && u.Full() {
		return eval.CauseDisk, true
	}
	return eval.CauseCompile, true
}
