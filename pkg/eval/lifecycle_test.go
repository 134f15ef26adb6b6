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
	return eval.Accept(eval.Evaluation{Key: eval.Key{Project: "default", ID: "e1"}, Spec: spec}, start).Evaluation
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
	c := eval.Accept(eval.Evaluation{Key: eval.Key{Project: "default", ID: "e1"}}, start)
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

func TestRetryAfterIsHonouredWithinReason(t *testing.T) {
	for _, tt := range []struct {
		name        string
		kind        eval.Kind
		after, want time.Duration
	}{
		{"no slot, and when there is one", eval.KindFull, 3 * time.Second, 3 * time.Second},
		{"too many requests", eval.KindRateLimited, 100 * time.Millisecond, 100 * time.Millisecond},
		{"longer than the policy", eval.KindUnavailable, 40 * time.Second, 40 * time.Second},
		{"shorter than the policy", eval.KindUnavailable, time.Second, 2 * time.Second},
		{"a week: nobody means that", eval.KindFull, 7 * 24 * time.Hour, 5 * time.Minute},
		{"a week, when it counts", eval.KindUnavailable, 7 * 24 * time.Hour, 5 * time.Minute},
		{"yesterday: nothing is said", eval.KindFull, -time.Hour, 10 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e, attempt := claimed(t, accepted(t, eval.Spec{}), start)
			o := failure(tt.kind)
			o.RetryAfter = tt.after
			c, err := e.Finish(attempt, o, start, 0, eval.DefaultRules())
			require.NoError(t, err)
			require.Equal(t, start.Add(tt.want), *c.Evaluation.NextDispatchAt)
			require.Equal(t, start.Add(tt.want), *c.Attempt.NextTryAt)
		})
	}
}

// Refusals in a row wait longer and longer, as policy quota_exceeded says,
// where nobody says how long; anything else in between begins anew.
func TestRefusalsInARow(t *testing.T) {
	e, now := accepted(t, eval.Spec{}), start
	refuse := func(kind eval.Kind) time.Duration {
		running, attempt := claimed(t, e, now)
		c, err := running.Finish(attempt, failure(kind), now, 0, eval.DefaultRules())
		require.NoError(t, err)
		require.False(t, c.Attempt.Counted && kind == eval.KindFull)
		e = c.Evaluation
		was := now
		now = *e.NextDispatchAt
		return now.Sub(was)
	}
	for _, want := range []float64{10, 15, 22.5, 33.75, 50.625} {
		require.Equal(t, want, refuse(eval.KindFull).Seconds())
	}
	for range 20 {
		require.LessOrEqual(t, refuse(eval.KindFull), 300*time.Second)
	}
	require.Equal(t, 300*time.Second, refuse(eval.KindFull))
	require.Zero(t, e.Tries)
	require.Equal(t, 2*time.Second, refuse(eval.KindSandbox))
	require.Equal(t, 10*time.Second, refuse(eval.KindFull))
	require.Equal(t, 1, e.Tries)
}

func TestWaitingForASlotEnds(t *testing.T) {
	rules := eval.DefaultRules()
	late := start.Add(rules.FullFor)
	e, attempt := claimed(t, accepted(t, eval.Spec{}), late)
	c, err := e.Finish(attempt, failure(eval.KindFull), late, 0, rules)
	require.NoError(t, err)
	require.Equal(t, eval.Failed, c.Evaluation.Status)
	require.Equal(t, "it broke; it has waited for 24h0m0s, which is as long as it may", c.Evaluation.Failure.Message)

	t.Run("which begins when it was to run", func(t *testing.T) {
		at := start.Add(48 * time.Hour)
		e, attempt := claimed(t, accepted(t, eval.Spec{RunAt: &at}), at)
		c, err := e.Finish(attempt, failure(eval.KindFull), at, 0, rules)
		require.NoError(t, err)
		require.Equal(t, eval.Queued, c.Evaluation.Status)
	})
}

// lostOnce claims an evaluation and has the attempt fail with a kind.
func lostOnce(t *testing.T, e eval.Evaluation, alone bool, kind eval.Kind, rules eval.Rules) eval.Change {
	t.Helper()
	c, err := e.Claim(eval.ClaimRequest{Worker: "w1", Lease: time.Second, Alone: alone}, start)
	require.NoError(t, err)
	require.Equal(t, alone, c.Attempt.Alone)
	if kind == eval.KindWorkerLost {
		c, ok := c.Evaluation.Reap(*c.Attempt, start.Add(time.Second), 0, rules)
		require.True(t, ok)
		return c
	}
	c, err = c.Evaluation.Finish(*c.Attempt, failure(kind), start, 0, rules)
	require.NoError(t, err)
	return c
}

func TestBlame(t *testing.T) {
	aggressive := eval.Spec{RetryPolicy: eval.PolicyAggressive}
	for _, kind := range []eval.Kind{eval.KindWorkerLost, eval.KindExecutorLost} {
		t.Run(string(kind), func(t *testing.T) {
			rules := eval.DefaultRules()
			e := accepted(t, aggressive)
			require.False(t, e.Suspect())
			e = lostOnce(t, e, false, kind, rules).Evaluation
			require.True(t, e.Suspect())
			for n := 1; n < rules.PoisonAfter; n++ {
				e = lostOnce(t, e, true, kind, rules).Evaluation
				require.Equal(t, eval.Queued, e.Status)
				require.Equal(t, n, e.LostAlone)
			}
			c := lostOnce(t, e, true, kind, rules)
			require.Equal(t, eval.Failed, c.Evaluation.Status)
			require.Equal(t, eval.KindPoison, c.DeadLetter.Failure.Kind)
			require.Contains(t, c.DeadLetter.Failure.Message, "3 of 4 attempts took their worker or executor down")
			require.Equal(t, 4, c.Evaluation.Lost)
			require.Nil(t, c.Attempt.NextTryAt)
		})
		t.Run(string(kind)+" beside others is nobody's fault, but ends", func(t *testing.T) {
			rules := eval.DefaultRules()
			rules.MaxLost = 5
			e := accepted(t, aggressive)
			for range rules.MaxLost - 1 {
				e = lostOnce(t, e, false, kind, rules).Evaluation
				require.Equal(t, eval.Queued, e.Status)
			}
			e = lostOnce(t, e, false, kind, rules).Evaluation
			require.Equal(t, eval.Failed, e.Status)
			require.Equal(t, eval.KindPoison, e.Failure.Kind)
			require.Zero(t, e.LostAlone)
		})
	}
	t.Run("a lost executor is a try as well", func(t *testing.T) {
		c := lostOnce(t, accepted(t, eval.Spec{}), false, eval.KindExecutorLost, eval.DefaultRules())
		require.Equal(t, 1, c.Evaluation.Tries)
		require.True(t, c.Attempt.Counted)
		require.Equal(t, start.Add(2*time.Second), *c.Evaluation.NextDispatchAt)
		require.Equal(t, "it broke; it is tried again in 2s, try 2 of 5", c.Evaluation.Failure.Message)
	})
	t.Run("other failures blame nobody", func(t *testing.T) {
		for _, k := range eval.Kinds() {
			if k.Kind != eval.KindExecutorLost && k.Kind != eval.KindWorkerLost {
				require.Zero(t, lostOnce(t, accepted(t, eval.Spec{}), true, k.Kind, eval.DefaultRules()).Evaluation.Lost, k.Kind)
			}
		}
	})
}

func TestDeadline(t *testing.T) {
	rules := eval.DefaultRules()
	minute := eval.Spec{ExpiresIn: eval.Duration(time.Minute)}
	end := start.Add(time.Minute)

	t.Run("a queued one fails, and is not claimed", func(t *testing.T) {
		e := accepted(t, minute)
		require.Equal(t, end, *e.ExpiresAt)
		_, ok := e.Expire(end.Add(-time.Microsecond))
		require.False(t, ok)
		_, err := e.Claim(eval.ClaimRequest{Worker: "w1", Lease: time.Second}, end)
		require.True(t, eval.IsKind(err, eval.KindConflict), err)
		c, ok := e.Expire(end)
		require.True(t, ok)
		require.Equal(t, eval.KindExpired, c.DeadLetter.Failure.Kind)
	})
	t.Run("it begins when it is to run", func(t *testing.T) {
		at := start.Add(time.Hour)
		require.Equal(t, at.Add(time.Minute), *accepted(t, eval.Spec{RunAt: &at, ExpiresIn: minute.ExpiresIn}).ExpiresAt)
	})
	t.Run("a running one that was stopped keeps what there was", func(t *testing.T) {
		e, attempt := claimed(t, accepted(t, minute), start)
		o := failure(eval.KindExpired)
		o.Result = &eval.Result{Stdout: eval.Stream{Data: []byte("some"), Bytes: 4}}
		c, err := e.Finish(attempt, o, end, 0, rules)
		require.NoError(t, err)
		require.Equal(t, eval.Failed, c.Evaluation.Status)
		require.Equal(t, eval.KindExpired, c.DeadLetter.Failure.Kind)
		require.Equal(t, o.Result, c.Evaluation.Result)
		require.Empty(t, c.Evaluation.Verdict)
	})
	t.Run("a result counts, however late", func(t *testing.T) {
		e, attempt := claimed(t, accepted(t, minute), start)
		c, err := e.Finish(attempt, eval.Outcome{Result: &eval.Result{Verdict: eval.Accepted}}, end.Add(time.Second), 0, rules)
		require.NoError(t, err)
		require.Equal(t, eval.Completed, c.Evaluation.Status)
	})
	t.Run("a cancel comes first", func(t *testing.T) {
		e, attempt := claimed(t, accepted(t, minute), start)
		c, err := e.RequestCancel("enough", end)
		require.NoError(t, err)
		c, err = c.Evaluation.Finish(attempt, failure(eval.KindExpired), end, 0, rules)
		require.NoError(t, err)
		require.Equal(t, eval.Cancelled, c.Evaluation.Status)
	})
	t.Run("no try is put off beyond it", func(t *testing.T) {
		e, attempt := claimed(t, accepted(t, minute), start)
		c, err := e.Finish(attempt, failure(eval.KindSandbox), end.Add(-2*time.Second), 0, rules)
		require.NoError(t, err)
		require.Equal(t, eval.Failed, c.Evaluation.Status)
		require.Equal(t, eval.KindExpired, c.DeadLetter.Failure.Kind)
		require.Equal(t, "it broke; its deadline, 2026-01-02T03:05:05Z, comes before the next try could begin", c.Evaluation.Failure.Message)
		c, err = e.Finish(attempt, failure(eval.KindSandbox), end.Add(-2*time.Second-time.Microsecond), 0, rules)
		require.NoError(t, err)
		require.Equal(t, eval.Queued, c.Evaluation.Status)
	})
	t.Run("one whose worker vanished fails", func(t *testing.T) {
		e, attempt := claimed(t, accepted(t, minute), end.Add(-time.Second))
		c, ok := e.Reap(attempt, end.Add(14*time.Second), 0, rules)
		require.True(t, ok)
		require.Equal(t, eval.Failed, c.Evaluation.Status)
		require.Equal(t, eval.KindExpired, c.Evaluation.Failure.Kind)
		require.Equal(t, eval.AttemptLost, c.Attempt.Outcome)
	})
}

func TestRulesThatMakeNoSenseAreRefused(t *testing.T) {
	require.NoError(t, eval.DefaultRules().Check())
	for name, change := range map[string]func(*eval.Rules){
		"first_look":   func(r *eval.Rules) { r.FirstLook = 0 },
		"poison_after": func(r *eval.Rules) { r.PoisonAfter = 0 },
		"max_lost":     func(r *eval.Rules) { r.MaxLost = r.PoisonAfter - 1 },
		"window":       func(r *eval.Rules) { r.Window = 0 },
		"age_after":    func(r *eval.Rules) { r.AgeAfter = 0 },
		"max_running":  func(r *eval.Rules) { r.MaxRunning = -1 },
		"full_for":     func(r *eval.Rules) { r.FullFor = 0 },
	} {
		rules := eval.DefaultRules()
		change(&rules)
		require.ErrorContains(t, rules.Check(), name)
	}
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
	require.Zero(t, c.Evaluation.Tries, "a worker that vanishes is no try")
	require.Equal(t, eval.AttemptLost, c.Attempt.Outcome)
	require.Equal(t, eval.KindWorkerLost, c.Attempt.Failure.Kind)
	require.Equal(t, "worker w1 stopped renewing its lease during attempt 1; it is tried again now, which does not count as a try", c.Attempt.Failure.Message)
	require.Equal(t, later, *c.Attempt.NextTryAt)
	require.True(t, c.Evaluation.Suspect())
	require.True(t, c.Evaluation.Dispatch().Alone, "the next time nothing runs beside it")

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
