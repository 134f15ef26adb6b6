package eval_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/crucible-eval/crucible/pkg/eval"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func accepted(t interface{ Helper() }, spec eval.Spec) eval.Evaluation {
	t.Helper()
	return eval.Accept(eval.Evaluation{Key: eval.Key{Project: "default", ID: "e1"}, Spec: spec}, start, eval.DefaultRules()).Evaluation
}

// claimed returns a running evaluation and the attempt's row.
func claimed(t *testing.T, e eval.Evaluation, now time.Time) (eval.Evaluation, eval.Attempt) {
	t.Helper()
	c, err := e.Claim(eval.ClaimRequest{Worker: "w1", Lease: 15 * time.Second}, now)
	require.NoError(t, err)
	return c.Evaluation, *c.Attempt
}

func failure(kind eval.Kind) eval.Outcome {
	return eval.Outcome{Failure: &eval.Failure{Kind: kind, Message: "it broke"}}
}

func TestAcceptIsQueuedWithItsFirstEvent(t *testing.T) {
	c := eval.Accept(eval.Evaluation{Key: eval.Key{Project: "default", ID: "e1"}}, start, eval.DefaultRules())
	require.Equal(t, eval.Queued, c.Evaluation.Status)
	require.Equal(t, 0, c.Evaluation.Attempt)
	require.Equal(t, 1, c.Evaluation.DispatchSeq)
	require.Equal(t, int64(1), c.Event.Seq)
	require.Equal(t, eval.EventQueued, c.Event.Type)
}

func TestRunAtIsWhenItIsDispatched(t *testing.T) {
	at := start.Add(time.Hour)
	e := accepted(t, eval.Spec{RunAt: &at})
	require.Equal(t, at, *e.NextDispatchAt)
}

func TestClaimOnlyWhenQueued(t *testing.T) {
	e, attempt := claimed(t, accepted(t, eval.Spec{}), start)
	require.Equal(t, eval.Running, e.Status)
	require.Equal(t, 1, e.Attempt)
	require.Equal(t, start.Add(15*time.Second), *e.LeaseUntil)
	require.Nil(t, e.NextDispatchAt)
	require.Equal(t, eval.AttemptRunning, attempt.Outcome)

	_, err := e.Claim(eval.ClaimRequest{Worker: "w2", Lease: time.Second}, start)
	require.True(t, eval.IsKind(err, eval.KindConflict), err)
}

func TestFinishByAnotherAttemptIsRefused(t *testing.T) {
	e, attempt := claimed(t, accepted(t, eval.Spec{}), start)
	attempt.Number = 2
	_, err := e.Finish(attempt, eval.Outcome{Result: &eval.Result{}}, start, 0, eval.DefaultRules())
	require.True(t, eval.IsKind(err, eval.KindLeaseLost), err)
}

func TestOutcomes(t *testing.T) {
	for _, tt := range []struct {
		name    string
		cancel  bool // asked for before the end
		outcome eval.Outcome
		status  eval.Status
		attempt eval.AttemptOutcome
		tries   int
		delay   time.Duration // of the next dispatch
	}{
		{"a result completes", false, eval.Outcome{Result: &eval.Result{Verdict: eval.RuntimeError}}, eval.Completed, eval.AttemptCompleted, 0, 0},
		{"a result that came before the kill completes", true, eval.Outcome{Result: &eval.Result{Verdict: eval.Accepted}}, eval.Completed, eval.AttemptCompleted, 0, 0},
		{"a cancel keeps the partial result", true, eval.Outcome{Cancelled: true, Result: &eval.Result{}}, eval.Cancelled, eval.AttemptCancelled, 0, 0},
		{"a failure after a cancel is a cancel", true, failure(eval.KindSandbox), eval.Cancelled, eval.AttemptCancelled, 0, 0},
		{"sandbox: another try", false, failure(eval.KindSandbox), eval.Queued, eval.AttemptRetried, 1, 2 * time.Second},
		{"executor unreachable: another try", false, failure(eval.KindUnavailable), eval.Queued, eval.AttemptRetried, 1, 2 * time.Second},
		{"executor full: later, not counted", false, failure(eval.KindFull), eval.Queued, eval.AttemptRetried, 0, 10 * time.Second},
		{"worker stops: at once, not counted", false, failure(eval.KindStopping), eval.Queued, eval.AttemptRetried, 0, 0},
		{"invalid: never again", false, failure(eval.KindInvalid), eval.Failed, eval.AttemptFailed, 0, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e, attempt := claimed(t, accepted(t, eval.Spec{}), start)
			if tt.cancel {
				c, err := e.RequestCancel("stop it", start)
				require.NoError(t, err)
				e = c.Evaluation
			}
			c, err := e.Finish(attempt, tt.outcome, start, 0, eval.DefaultRules())
			require.NoError(t, err)
			got := c.Evaluation
			require.Equal(t, tt.status, got.Status)
			require.Equal(t, tt.attempt, c.Attempt.Outcome)
			require.Equal(t, tt.tries, got.Tries)
			require.Nil(t, got.LeaseUntil)
			require.Equal(t, tt.status == eval.Failed, c.DeadLetter != nil, "a dead letter for what failed, and only then")
			if tt.status == eval.Queued {
				require.Equal(t, start.Add(tt.delay), *got.NextDispatchAt)
				require.Equal(t, 2, got.DispatchSeq)
			} else {
				require.NotNil(t, got.FinishedAt)
			}
			if tt.outcome.Cancelled {
				require.NotNil(t, got.Result)
			}
		})
	}
}

func TestRetryAfterIsHonoured(t *testing.T) {
	e, attempt := claimed(t, accepted(t, eval.Spec{}), start)
	o := failure(eval.KindFull)
	o.RetryAfter = 3 * time.Second
	c, err := e.Finish(attempt, o, start, 0.5, eval.DefaultRules())
	require.NoError(t, err)
	require.Equal(t, start.Add(3*time.Second), *c.Evaluation.NextDispatchAt)
}

func TestWaitingForASlotEnds(t *testing.T) {
	rules := eval.DefaultRules()
	late := start.Add(rules.FullFor)
	e, attempt := claimed(t, accepted(t, eval.Spec{}), late)
	c, err := e.Finish(attempt, failure(eval.KindFull), late, 0, rules)
	require.NoError(t, err)
	require.Equal(t, eval.Failed, c.Evaluation.Status)
}

// The ladders are those that design.md names for each policy.
func TestPolicyLadders(t *testing.T) {
	for name, want := range map[string][]time.Duration{
		"":               {2, 4, 8, 16},
		"conservative":   {5, 10},
		"aggressive":     {1000, 1500, 2250, 3375, 5062, 7593, 11390, 17085, 25628}, // milliseconds
		"quota_exceeded": {10000, 15000, 22500, 33750, 50625, 75937, 113906, 170859, 256289},
	} {
		t.Run(name, func(t *testing.T) {
			unit := time.Second
			if len(want) > 4 {
				unit = time.Millisecond
			}
			e, now := accepted(t, eval.Spec{RetryPolicy: name}), start
			for _, delay := range want {
				running, attempt := claimed(t, e, now)
				c, err := running.Finish(attempt, failure(eval.KindSandbox), now, 0, eval.DefaultRules())
				require.NoError(t, err)
				require.Equal(t, eval.Queued, c.Evaluation.Status)
				require.Equal(t, delay*unit, c.Evaluation.NextDispatchAt.Sub(now).Truncate(unit))
				e, now = c.Evaluation, *c.Evaluation.NextDispatchAt
			}
			running, attempt := claimed(t, e, now)
			c, err := running.Finish(attempt, failure(eval.KindSandbox), now, 0, eval.DefaultRules())
			require.NoError(t, err)
			require.Equal(t, eval.Failed, c.Evaluation.Status)
			require.Equal(t, eval.KindSandbox, c.DeadLetter.Failure.Kind)
			require.Equal(t, len(want)+1, c.DeadLetter.Attempts)
		})
	}
}

func TestJitterAddsAtMostAQuarter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := rapid.SampledFrom(eval.RetryPolicies()).Draw(t, "policy")
		n := rapid.IntRange(1, 1000).Draw(t, "n")
		rnd := rapid.Float64Range(0, 0.999).Draw(t, "rnd")
		plain, d := p.Delay(n, 0), p.Delay(n, rnd)
		if d < plain || d > plain+plain/4 || plain > p.Cap || !p.Jitter && d != plain {
			t.Fatalf("%s: delay %d is %s, without jitter %s", p.Name, n, d, plain)
		}
	})
}

func TestReap(t *testing.T) {
	rules := eval.DefaultRules()
	e, attempt := claimed(t, accepted(t, eval.Spec{}), start)
	_, ok := e.Reap(attempt, start.Add(14*time.Second), 0, rules)
	require.False(t, ok, "the lease still holds")

	later := start.Add(15 * time.Second)
	c, ok := e.Reap(attempt, later, 0, rules)
	require.True(t, ok)
	require.Equal(t, eval.Queued, c.Evaluation.Status)
	require.Equal(t, later, *c.Evaluation.NextDispatchAt, "it has waited long enough")
	require.Equal(t, eval.AttemptLost, c.Attempt.Outcome)

	t.Run("a second lost worker makes it poison", func(t *testing.T) {
		rules := rules
		rules.PoisonAfter = 2
		e, attempt := claimed(t, c.Evaluation, later)
		c, ok := e.Reap(attempt, later.Add(15*time.Second), 0, rules)
		require.True(t, ok)
		require.Equal(t, eval.Failed, c.Evaluation.Status)
		require.Equal(t, eval.KindPoison, c.DeadLetter.Failure.Kind)
	})
	t.Run("with a cancel asked for it is cancelled", func(t *testing.T) {
		asked, err := e.RequestCancel("", start)
		require.NoError(t, err)
		c, ok := asked.Evaluation.Reap(attempt, later, 0, rules)
		require.True(t, ok)
		require.Equal(t, eval.Cancelled, c.Evaluation.Status)
	})
}

func TestCancel(t *testing.T) {
	queued := accepted(t, eval.Spec{})
	c, err := queued.RequestCancel("no longer needed", start)
	require.NoError(t, err)
	require.Equal(t, eval.Cancelled, c.Evaluation.Status)
	require.Equal(t, "no longer needed", c.Event.Message)

	_, err = c.Evaluation.RequestCancel("again", start)
	require.True(t, eval.IsKind(err, eval.KindConflict), err)

	running, _ := claimed(t, queued, start)
	c, err = running.RequestCancel("", start)
	require.NoError(t, err)
	require.Equal(t, eval.Running, c.Evaluation.Status)
	require.Equal(t, eval.EventCancelRequested, c.Event.Type)
	again, err := c.Evaluation.RequestCancel("", start.Add(time.Second))
	require.NoError(t, err)
	require.Nil(t, again.Event, "asking twice is one event")
}

// Whatever happens in whatever order, only changes of the table happen,
// attempts grow, events are numbered without a gap, and the end is final.
func TestNoPathLeavesTheTable(t *testing.T) {
	kinds := eval.Kinds()
	rapid.Check(t, func(t *rapid.T) {
		now, rules := start, eval.DefaultRules()
		e := accepted(t, eval.Spec{RetryPolicy: rapid.SampledFrom(eval.RetryPolicies()).Draw(t, "policy").Name})
		var attempt eval.Attempt
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.IntRange(0, 20).Draw(t, "seconds")) * time.Second)
			before := e
			var c eval.Change
			var err error
			switch rapid.SampledFrom([]string{"claim", "beat", "finish", "fail", "cancel", "reap"}).Draw(t, "op") {
			case "claim":
				c, err = e.Claim(eval.ClaimRequest{Worker: "w", Lease: 15 * time.Second}, now)
			case "beat":
				c, err = e.Beat(rapid.IntRange(0, e.Attempt+1).Draw(t, "attempt"), 15*time.Second, now)
			case "finish":
				c, err = e.Finish(attempt, eval.Outcome{Result: &eval.Result{Verdict: eval.Accepted}}, now, 0, rules)
			case "fail":
				c, err = e.Finish(attempt, failure(rapid.SampledFrom(kinds).Draw(t, "kind").Kind), now, 0, rules)
			case "cancel":
				c, err = e.RequestCancel("", now)
			case "reap":
				var ok bool
				if c, ok = e.Reap(attempt, now, 0, rules); !ok {
					continue
				}
			}
			if err != nil {
				continue
			}
			if c.Attempt != nil {
				attempt = *c.Attempt
			}
			e = c.Evaluation
			switch {
			case before.Status.Terminal():
				t.Fatalf("%s was final and became %s", before.Status, e.Status)
			case before.Status != e.Status && !before.Status.CanBecome(e.Status):
				t.Fatalf("%s became %s, which the table does not allow", before.Status, e.Status)
			case e.Attempt < before.Attempt:
				t.Fatalf("attempt went from %d to %d", before.Attempt, e.Attempt)
			case c.Event != nil && c.Event.Seq != before.EventSeq+1:
				t.Fatalf("event %d follows %d", c.Event.Seq, before.EventSeq)
			case before.Status != e.Status && c.Event == nil:
				t.Fatalf("%s became %s without an event", before.Status, e.Status)
			case e.Status == eval.Queued && e.NextDispatchAt == nil:
				t.Fatal("queued, and nobody will look at it again")
			case e.Status == eval.Running && e.LeaseUntil == nil:
				t.Fatal("running without a lease")
			}
		}
	})
}
