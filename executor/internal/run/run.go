package run

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/crucible-eval/crucible/executor/internal/lang"
	"github.com/crucible-eval/crucible/executor/internal/sandbox"
	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/spool"
)

// Runner runs programs in boxes of one runtime.
type Runner struct {
	boxes     sandbox.Runtime
	isolation eval.Isolation
}

// New returns a runner whose results say that they ran with this isolation.
func New(boxes sandbox.Runtime, isolation eval.Isolation) *Runner {
	return &Runner{boxes, isolation}
}

// job is one program on its way.
type job struct {
	*Runner
	lang    *lang.Toolchain
	program *eval.Program
	source  lang.Source
	env     []string            // of runs
	sink    func(eval.RunEvent) // may be nil
	result  eval.Result
}

// Run takes a program, valid and with its limits granted, through its phases.
// What the program does is in the result. When ctx ends it returns what there
// is so far and an error that wraps ctx's cause. KindInvalid: the program can
// never run. KindSandbox: a box failed.
func (r *Runner) Run(ctx context.Context, t *lang.Toolchain, p *eval.Program, sink func(eval.RunEvent)) (eval.Result, error) {
	source, err := t.Layout(p)
	if err != nil {
		return eval.Result{}, err
	}
	source.MemoryBytes = p.Limits.MemoryBytes
	j := &job{Runner: r, lang: t, program: p, source: source, env: t.Environ(p.Env), sink: sink}
	j.result.Language = eval.LanguageRef{ID: t.ID, Version: t.Version}
	j.result.Isolation = r.isolation
	err = j.run(ctx)
	if err != nil && ctx.Err() != nil {
		err = fmt.Errorf("the run was ended: %w", context.Cause(ctx))
	}
	return j.result, err
}

func (j *job) run(ctx context.Context) error {
	w, err := j.workspace(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = w.Close() }()
	if j.lang.Compile != nil {
		if ok, err := j.compile(ctx, w); err != nil || !ok {
			return err
		}
	}
	if len(j.program.Tests) > 0 {
		return j.test(ctx, w)
	}
	box, err := j.prepare(ctx, w)
	if err != nil {
		return err
	}
	defer func() { _ = box.Close() }()
	out, err := j.execute(ctx, box, j.program.Args, j.program.Stdin, j.sink)
	j.result.Usage, j.result.Stdout, j.result.Stderr = out.usage, out.stdout, out.stderr
	if err != nil {
		return err
	}
	j.result.Verdict, j.result.Cause = out.verdict, out.cause
	j.result.Explanation = out.explain(j.program.Limits)
	return nil
}

// workspace lays the program out, and with it what the compiler made.
func (j *job) workspace(ctx context.Context, output []byte) (sandbox.Workspace, error) {
	room := j.program.Limits.DiskBytes + pages(output)
	for name, content := range j.source.Files {
		// The folders that it needs, too.
		room += pages(content) + int64(os.Getpagesize())*int64(1+bytes.Count([]byte(name), []byte{'/'}))
	}
	if j.lang.Compile != nil && output == nil {
		room += j.lang.Compile.Limits.DiskBytes
	}
	w, err := j.boxes.NewWorkspace(ctx, sandbox.WorkspaceSpec{Bytes: room})
	if err != nil {
		return nil, broken("make the work folder", err)
	}
	if err := j.fill(w, output); err != nil {
		_ = w.Close()
		return nil, err
	}
	return w, nil
}

func (j *job) fill(w sandbox.Workspace, output []byte) error {
	for name, content := range j.source.Files {
		if err := w.WriteFile(name, content, 0o644); err != nil {
			if errors.Is(err, sandbox.ErrPath) || errors.Is(err, sandbox.ErrNotRegular) {
				return eval.Invalid([]eval.FieldError{{Field: fmt.Sprintf("files[%q]", name), Message: err.Error()}})
			}
			return broken("write the program", err)
		}
	}
	if output == nil {
		return nil
	}
	if err := w.WriteFile(j.lang.Compile.Output, output, 0o755); err != nil {
		return broken("write the compiled program", err)
	}
	return nil
}

// prepare makes the box of a run.
func (j *job) prepare(ctx context.Context, w sandbox.Workspace) (sandbox.Box, error) {
	box, err := j.boxes.Prepare(ctx, sandbox.BoxSpec{Workspace: w, Binds: j.lang.Binds, TmpBytes: max(j.program.Limits.DiskBytes, 64<<10)})
	if err != nil {
		return nil, broken("make a box", err)
	}
	return box, nil
}

// outcome is what one run came to.
type outcome struct {
	usage          eval.Usage
	stdout, stderr eval.Stream
	verdict        eval.Verdict
	cause          eval.Cause
	startError     string
}

// execute runs the program in a box. When ctx ends, the outcome has what
// there was, without a verdict, and the error is not nil.
func (j *job) execute(ctx context.Context, box sandbox.Box, args []string, stdin []byte, sink func(eval.RunEvent)) (outcome, error) {
	kept := spool.New(sink)
	kept.Started()
	l := j.program.Limits
	cmd := sandbox.Command{
		Argv: j.lang.Command(j.source, args), Env: j.env,
		Stdout: kept.Stdout(), Stderr: kept.Stderr(),
		Limits: sandbox.Limits{
			Wall: l.Wall(), CPU: l.CPU(), MemoryBytes: l.MemoryBytes,
			Processes: int(l.Processes), OutputBytes: l.OutputBytes,
		},
	}
	if len(stdin) > 0 {
		cmd.Stdin = bytes.NewReader(stdin)
	}
	rep, err := box.Run(ctx, cmd)
	kept.Close()
	out := outcome{usage: usage(rep), startError: rep.StartError}
	out.stdout, out.stderr = kept.Streams()
	out.stdout.Truncated, out.stderr.Truncated = rep.StdoutTruncated, rep.StderrTruncated
	switch {
	case err != nil:
		return out, broken("run the program", err)
	case rep.Limit == sandbox.LimitCancelled:
		return out, context.Cause(ctx)
	case rep.StartError != "" && j.lang.Compile == nil:
		return out, eval.Errorf(eval.KindSandbox, "%s could not be started: %s; is its toolchain still there?", j.lang.Name, rep.StartError)
	}
	out.verdict, out.cause = judge(rep)
	return out, nil
}

// broken sorts an error of the sandbox.
func broken(what string, err error) error {
	if errors.Is(err, sandbox.ErrCommand) {
		return eval.Errorf(eval.KindInvalid, "the program cannot be run: %v", err)
	}
	return eval.Errorf(eval.KindSandbox, "could not %s: %w", what, err)
}

// pages is what content takes on a file system in memory.
func pages(content []byte) int64 {
	size := int64(os.Getpagesize())
	return (int64(len(content)) + size - 1) / size * size
}
