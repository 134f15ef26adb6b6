package run

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/crucible-eval/crucible/executor/internal/check"
	"github.com/crucible-eval/crucible/pkg/eval"
)

// maxTestOutput is how much output of all tests together a result keeps;
// every test is checked against all of its own.
const maxTestOutput = 64 << 20

// series runs the tests of a program. They start in order; several at once
// where the program asks for it and slots are spare.
type series struct {
	*job
	made       files
	validators map[string]func() (*validator, error)
	cancel     context.CancelCauseFunc

	mu       sync.Mutex
	next     int // the test to start next
	helpers  int // tests under way beside the one that has the run's own slot
	kept     int64
	outcomes []outcome
	err      error
}

// test runs the program once for each test, each time in a work folder of its
// own with what the compiler made. When ctx ends, tests that did not are
// skipped.
func (j *job) test(ctx context.Context, made files) error {
	if j.task.Sink != nil && !j.started {
		j.started = true
		j.task.Sink(eval.RunEvent{Type: eval.RunStarted, At: time.Now()})
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	s := &series{job: j, made: made, cancel: cancel, outcomes: make([]outcome, len(j.program.Tests))}
	for i := range s.outcomes {
		s.outcomes[i].verdict = eval.Skipped
	}
	var err error
	if s.validators, err = j.validators(ctx); err != nil {
		return err
	}
	var helpers sync.WaitGroup
	for {
		for release := s.spare(); release != nil; release = s.spare() {
			helpers.Go(func() { s.help(ctx, release) })
		}
		i, ok := s.take()
		if !ok {
			break
		}
		s.run(ctx, i)
	}
	helpers.Wait()
	s.conclude()
	return s.err
}

// spare takes a slot for one more test at once, if it may and there is one.
func (s *series) spare() (release func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.task.Spare == nil || s.helpers+1 >= s.program.Parallel || s.next+1 >= len(s.outcomes) || s.err != nil {
		return nil
	}
	if release = s.task.Spare(); release != nil {
		s.helpers++
	}
	return release
}

// help runs tests with a spare slot, which it gives back after each: whoever
// waits for one gets it then.
func (s *series) help(ctx context.Context, release func()) {
	for release != nil {
		if i, ok := s.take(); ok {
			s.run(ctx, i)
		}
		release()
		s.mu.Lock()
		s.helpers--
		s.mu.Unlock()
		release = s.spare()
	}
}

// take returns the number of the next test, unless there is none to run.
func (s *series) take() (int, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.next >= len(s.outcomes) || s.err != nil {
		return 0, false
	}
	s.next++
	return s.next - 1, true
}

// run does one test and notes what came of it.
func (s *series) run(ctx context.Context, i int) {
	out, err := s.one(ctx, &s.program.Tests[i])
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		if s.err == nil {
			s.err = err
			s.cancel(err)
		}
		return
	}
	trim(&out.stdout, &s.kept)
	trim(&out.stderr, &s.kept)
	s.outcomes[i] = out
	if i == 0 {
		s.result.Start = out.start
	}
	if out.verdict != eval.Accepted && s.program.StopOnFailure {
		s.next = len(s.outcomes)
	}
}

// one runs and checks one test.
func (s *series) one(ctx context.Context, t *eval.Test) (outcome, error) {
	limits := s.program.LimitsOf(*t)
	own, err := s.begin(ctx, s.kind(limits), s.made)
	if err != nil {
		return outcome{}, err
	}
	args := t.Args
	if args == nil {
		args = s.program.Args
	}
	out, err := s.execute(ctx, own.box, call{args: args, stdin: t.Stdin, limits: limits, work: own.workspace})
	out.start = own.start
	_ = own.close()
	if err != nil || out.verdict != eval.Accepted {
		return out, err
	}
	f, err := s.check(ctx, t, out.stdout.Data)
	if f.verdict != "" {
		out.verdict, out.cause, out.message = f.verdict, f.cause, f.message
	}
	return out, err
}

// check says what the test's checker finds; nothing where there is none.
func (s *series) check(ctx context.Context, t *eval.Test, output []byte) (finding, error) {
	c := s.program.CheckerOf(*t)
	if c.Type == eval.CheckProgram {
		v, err := s.validators[c.Key()]()
		if err != nil {
			return finding{}, err
		}
		return v.check(ctx, t, output)
	}
	if t.ExpectedStdout == nil {
		return finding{}, nil
	}
	difference, err := check.Compare(ctx, c, output, *t.ExpectedStdout)
	switch {
	case errors.Is(err, check.ErrSlow):
		return finding{eval.CheckerError, eval.CauseWall, fmt.Sprintf("The comparison took longer than %s.", check.Patience)}, nil
	case err != nil:
		return finding{}, err
	case difference != "":
		return finding{eval.WrongAnswer, eval.CauseTest, difference}, nil
	}
	return finding{}, nil
}

// conclude makes the result of the outcomes: the largest of each figure, and
// the end of the first test that failed.
func (s *series) conclude() {
	r := &s.result
	decided := false
	for i, out := range s.outcomes {
		t := s.program.Tests[i]
		r.Tests = append(r.Tests, eval.TestResult{
			Name: t.Name, Verdict: out.verdict, Cause: out.cause, Message: out.message, Usage: out.usage, Stdout: out.stdout, Stderr: out.stderr,
		})
		u, v := &r.Usage, out.usage
		u.WallMS, u.CPUMS = max(u.WallMS, v.WallMS), max(u.CPUMS, v.CPUMS)
		u.MemoryPeakBytes, u.Processes = max(u.MemoryPeakBytes, v.MemoryPeakBytes), max(u.Processes, v.Processes)
		failed := out.verdict != eval.Accepted && out.verdict != eval.Skipped
		if i == 0 || failed && !decided {
			u.ExitCode, u.Signal = v.ExitCode, v.Signal
		}
		if failed && !decided && s.err == nil {
			decided = true
			r.Verdict, r.Cause = out.verdict, out.cause
			r.Explanation = fmt.Sprintf("Test %d%s failed. %s", i+1, named(t.Name), out.explainTest(s.program.LimitsOf(t)))
		}
	}
	if !decided && s.err == nil {
		r.Verdict = eval.Accepted
	}
}

func (o outcome) explainTest(l eval.Limits) string {
	switch o.verdict {
	case eval.WrongAnswer:
		return sentence("Its output is not the expected one", o.message)
	case eval.CheckerError:
		return sentence("Its checker failed, so that nothing is known of its output", o.message)
	}
	return o.explain(l)
}

// sentence ends with why, if that is known.
func sentence(what, why string) string {
	if why == "" {
		return what + "."
	}
	return what + ": " + why
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
