package run

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"sync"

	"github.com/crucible-eval/crucible/executor/internal/sandbox"
	"github.com/crucible-eval/crucible/pkg/eval"
)

// validator is a checker program, compiled. It never shares a box with the
// program that it judges.
type validator struct {
	*job
	made    files
	refused finding // by its compiler
}

// finding is what a checker says of a test that the program itself passed.
type finding struct {
	verdict eval.Verdict
	cause   eval.Cause
	message string
}

// Files of a checker program's box, beside its own.
const (
	inputFile    = "input"
	expectedFile = "expected"
	feedbackDir  = "feedback/"
	messageFile  = feedbackDir + "judgemessage.txt"
)

// validators finds the checker programs of the tests, each of which is
// compiled once, when the first test needs it.
func (j *job) validators(ctx context.Context) (map[string]func() (*validator, error), error) {
	all := map[string]func() (*validator, error){}
	for i, t := range j.program.Tests {
		c := j.program.CheckerOf(t)
		if c.Type != eval.CheckProgram || all[c.Key()] != nil {
			continue
		}
		language := j.task.Languages[c.Language]
		if language == nil {
			return nil, eval.Errorf(eval.KindInternal, "the checker's language %q was not resolved", c.Language)
		}
		own, err := j.newJob(Task{Language: language, Client: j.task.Client, Cold: j.cold, Program: &eval.Program{
			Warm: j.program.Warm, Language: c.Language, Code: c.Code, Files: c.Files, Entrypoint: c.Entrypoint, Limits: c.Limits,
		}})
		if err != nil {
			return nil, fmt.Errorf("checker of test %d: %w", i+1, err)
		}
		all[c.Key()] = sync.OnceValues(func() (*validator, error) { return own.validator(ctx) })
	}
	return all, nil
}

func (j *job) validator(ctx context.Context) (*validator, error) {
	made, ok, err := j.build(ctx)
	if err != nil {
		return nil, err
	}
	v := &validator{job: j, made: made}
	if !ok {
		c := j.result.Compile
		v.refused = finding{eval.CheckerError, j.result.Cause, j.result.Explanation + "\n" + clipped(append(c.Stderr.Data, c.Stdout.Data...))}
	}
	return v, nil
}

// check runs the checker on the output of a test.
func (v *validator) check(ctx context.Context, t *eval.Test, output []byte) (finding, error) {
	if v.refused.verdict != "" {
		return v.refused, nil
	}
	given := maps.Clone(v.made)
	if given == nil {
		given = files{}
	}
	given[inputFile], given[messageFile] = t.Stdin, nil
	if given[expectedFile] = nil; t.ExpectedStdout != nil {
		given[expectedFile] = *t.ExpectedStdout
	}
	s, err := v.begin(ctx, v.kind(v.program.Limits), given)
	if err != nil {
		return finding{}, err
	}
	defer func() { _ = s.close() }()
	out, err := v.execute(ctx, s.box, call{args: []string{inputFile, expectedFile, feedbackDir}, stdin: output, limits: v.program.Limits, work: s.workspace})
	if err != nil {
		return finding{}, err
	}
	if out.cause == eval.CauseExitCode && out.usage.ExitCode != nil {
		switch *out.usage.ExitCode {
		case eval.AcceptedExit:
			return finding{eval.Accepted, "", said(s.workspace, out)}, nil
		case eval.WrongExit:
			return finding{eval.WrongAnswer, eval.CauseTest, said(s.workspace, out)}, nil
		}
	}
	f := finding{eval.CheckerError, out.cause, out.explain(v.program.Limits)}
	if f.cause == "" { // exit code 0
		f.cause = eval.CauseExitCode
		f.message = fmt.Sprintf("The program ended with exit code 0, and a checker ends with %d (accepted) or %d (wrong answer).", eval.AcceptedExit, eval.WrongExit)
	}
	if line := lastLine(out.stderr.Data); line != "" {
		f.message += " It said: " + line
	}
	return f, nil
}

// said is the checker's message: its file, or what it printed.
func said(w sandbox.Workspace, out outcome) string {
	message, err := w.ReadFile(messageFile, eval.MaxMessage)
	if err != nil || len(message) == 0 {
		message = out.stdout.Data
	}
	return clipped(message)
}

// clipped makes text of what a checker or its compiler wrote.
func clipped(b []byte) string {
	return strings.TrimSpace(strings.ToValidUTF8(string(b[:min(len(b), eval.MaxMessage)]), "?"))
}

// lastLine is where a traceback says what happened.
func lastLine(b []byte) string {
	text := clipped(b[max(0, len(b)-eval.MaxMessage):])
	return text[strings.LastIndexByte(text, '\n')+1:]
}
