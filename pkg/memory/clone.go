package memory

import (
	"maps"
	"slices"
	"time"

	"github.com/crucible-eval/crucible/pkg/eval"
)

// Clone copies the evaluation with everything that a caller could change
// through it.
func Clone(e eval.Evaluation) eval.Evaluation {
	e.Spec = cloneSpec(e.Spec)
	e.Result = cloneResult(e.Result)
	e.Failure = clonePointer(e.Failure)
	for _, at := range []**time.Time{&e.StartedAt, &e.FinishedAt, &e.NextDispatchAt, &e.DispatchedAt, &e.ExpiresAt, &e.LeaseUntil, &e.CancelRequestedAt} {
		*at = clonePointer(*at)
	}
	return e
}

func cloneSpec(s eval.Spec) eval.Spec {
	s.Code, s.Stdin = slices.Clone(s.Code), slices.Clone(s.Stdin)
	s.Args, s.Tags = slices.Clone(s.Args), slices.Clone(s.Tags)
	s.Env, s.Files, s.Artifacts = maps.Clone(s.Env), cloneFiles(s.Files), slices.Clone(s.Artifacts)
	s.Checker = cloneChecker(s.Checker)
	s.RunAt = clonePointer(s.RunAt)
	s.Tests = slices.Clone(s.Tests)
	for i := range s.Tests {
		t := &s.Tests[i]
		t.Stdin, t.Args = slices.Clone(t.Stdin), slices.Clone(t.Args)
		if t.ExpectedStdout != nil {
			want := slices.Clone(*t.ExpectedStdout)
			t.ExpectedStdout = &want
		}
		t.Checker = cloneChecker(t.Checker)
	}
	return s
}

func cloneChecker(c eval.Checker) eval.Checker {
	c.Code, c.Files = slices.Clone(c.Code), cloneFiles(c.Files)
	return c
}

func cloneFiles(files map[string]eval.Bytes) map[string]eval.Bytes {
	files = maps.Clone(files)
	for name, content := range files {
		files[name] = slices.Clone(content)
	}
	return files
}

func cloneResult(from *eval.Result) *eval.Result {
	if from == nil {
		return nil
	}
	r := *from
	r.ExitCode = clonePointer(r.ExitCode)
	r.Isolation.Controls = slices.Clone(r.Isolation.Controls)
	r.Tests, r.Artifacts = slices.Clone(r.Tests), slices.Clone(r.Artifacts)
	for i := range r.Tests {
		r.Tests[i].ExitCode = clonePointer(r.Tests[i].ExitCode)
	}
	if r.Compile = clonePointer(r.Compile); r.Compile != nil {
		r.Compile.ExitCode = clonePointer(r.Compile.ExitCode)
	}
	for _, s := range r.Streams() {
		s.Data = slices.Clone(s.Data)
	}
	return &r
}

func cloneAttempt(a eval.Attempt) eval.Attempt {
	a.FinishedAt, a.NextTryAt, a.Failure = clonePointer(a.FinishedAt), clonePointer(a.NextTryAt), clonePointer(a.Failure)
	return a
}

func cloneCallback(c eval.Callback) eval.Callback {
	c.NextAt, c.EndedAt = clonePointer(c.NextAt), clonePointer(c.EndedAt)
	return c
}

func clonePointer[T any](p *T) *T {
	if p == nil {
		return nil
	}
	v := *p
	return &v
}
