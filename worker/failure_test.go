package worker_test

import (
	"context"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/task"
	"github.com/crucible-eval/crucible/pkg/testkit"
	"github.com/crucible-eval/crucible/worker"
)

// inBubble gives a rig whose time is the bubble's: hours pass in a moment.
func inBubble(t *testing.T, test func(t *testing.T, r *rig)) {
	synctest.Test(t, func(t *testing.T) {
		m := miniredis.NewMiniRedis()
		m.ClockTTL(true)
		defer m.Close()
		r := newRig(t, task.RedisConfig{Dial: func(context.Context, string, string) (net.Conn, error) { return m.Dial() }})
		test(t, r)
	})
}

// settled waits until the first worker has filled the queue from the store. What fails before that may be tried again
// at once: a queue that was lost makes everything due.
func (r *rig) settled() {
	r.t.Helper()
	for lost := true; lost; <-time.After(100 * time.Millisecond) {
		var err error
		lost, err = r.redis.Lost(context.Background())
		require.NoError(r.t, err)
	}
}

// wait is until, in a bubble.
func (r *rig) wait(key eval.Key, atMost time.Duration) eval.Evaluation {
	r.t.Helper()
	for end := time.Now().Add(atMost); ; <-time.After(max(atMost/1000, 100*time.Millisecond)) {
		if e := r.get(key); e.Status.Terminal() {
			return e
		}
		require.True(r.t, time.Now().Before(end), "not ended after %v", atMost)
	}
}

func TestRetriesFollowThePolicyAndEndAsADeadLetter(t *testing.T) {
	policy, _ := eval.RetryPolicyByName(eval.PolicyConservative) // no jitter
	inBubble(t, func(t *testing.T, r *rig) {
		r.script.plays("broken", fails(eval.Errorf(eval.KindSandbox, "no sandbox today")))
		w := r.worker(worker.Config{CheckInterval: 100 * time.Millisecond, Lease: 15 * time.Second, Reconcile: 250 * time.Millisecond}, nil)
		r.settled()
		e := r.submit("broken", func(s *eval.Spec) { s.RetryPolicy = policy.Name })
		e = r.wait(e.Key, time.Minute)

		require.Equal(t, eval.Failed, e.Status)
		require.Equal(t, eval.KindSandbox, e.Failure.Kind)
		require.Equal(t, "no sandbox today; that was the last of 3 tries", e.Failure.Message)
		require.Equal(t, policy.Tries, r.script.runs(e.ID))
		attempts, err := r.store.Attempts(context.Background(), e.Key)
		require.NoError(t, err)
		require.Len(t, attempts, policy.Tries)
		for i := 1; i < len(attempts); i++ {
			gap := attempts[i].StartedAt.Sub(*attempts[i-1].FinishedAt)
			require.GreaterOrEqual(t, gap, policy.Delay(i, 0), "before attempt %d", i+1)
			require.Less(t, gap, policy.Delay(i, 0)+time.Second, "before attempt %d", i+1)
		}
		dead, err := r.store.ListDeadLetters(context.Background(), eval.DeadLetterQuery{Project: e.Project})
		require.NoError(t, err)
		require.Len(t, dead.DeadLetters, 1)
		require.Equal(t, e.ID, dead.DeadLetters[0].ID)
		<-time.After(time.Second)
		queues, err := task.NewInspector(r.redis).Queues(context.Background())
		require.NoError(t, err)
		var archived, waiting int64
		for _, q := range queues {
			archived, waiting = archived+q.Archived, waiting+q.Pending+q.Active+q.Retry
		}
		require.EqualValues(t, 1, archived, "asynq's archive tells the same")
		require.Zero(t, waiting)
		require.EqualValues(t, policy.Tries, w.metric("crucible_worker_attempts_total"))

		// It can be retried, and is a new evaluation.
		r.script.plays("broken", prints("fine\n"))
		again, err := r.store.Retry(context.Background(), e.Key, "0190a0a0-0000-7000-8000-000000000001")
		require.NoError(t, err)
		require.Equal(t, eval.Completed, r.wait(again.Key, time.Minute).Status)
	})
}

// TestEveryLadder has each policy fail to its end through queue, worker and store, and looks at every step: no try is
// early, none waits for more than a look of the reconciler and one of the queue, and the jitter is at most a quarter.
func TestEveryLadder(t *testing.T) {
	for _, policy := range eval.RetryPolicies() {
		t.Run(policy.Name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, r *rig) {
				r.script.plays("broken", fails(eval.Errorf(eval.KindUnavailable, "gone")))
				r.worker(worker.Config{CheckInterval: 500 * time.Millisecond, Lease: 60 * time.Second, Reconcile: 500 * time.Millisecond}, nil)
				r.settled()
				e := r.submit("broken", func(s *eval.Spec) { s.RetryPolicy = policy.Name })
				e = r.wait(e.Key, 3*time.Hour)
				require.Equal(t, eval.Failed, e.Status)
				require.Equal(t, eval.KindUnavailable, e.Failure.Kind)
				require.Equal(t, policy.Tries, e.Tries)
				require.Equal(t, policy.Tries, e.Attempt)
				require.Equal(t, policy.Tries, r.script.runs(e.ID))
				attempts, err := r.store.Attempts(context.Background(), e.Key)
				require.NoError(t, err)
				require.Len(t, attempts, policy.Tries)
				for i, a := range attempts {
					require.True(t, a.Counted)
					if i == policy.Tries-1 {
						require.Nil(t, a.NextTryAt)
						break
					}
					delay := a.NextTryAt.Sub(*a.FinishedAt)
					require.GreaterOrEqual(t, delay, policy.Delay(i+1, 0).Truncate(time.Microsecond), "after attempt %d", a.Number)
					require.LessOrEqual(t, delay, policy.Delay(i+1, 1), "after attempt %d", a.Number)
					late := attempts[i+1].StartedAt.Sub(*a.NextTryAt)
					require.GreaterOrEqual(t, late, time.Duration(0), "attempt %d is early", a.Number+1)
					require.Less(t, late, 2*time.Second, "attempt %d is late", a.Number+1)
				}
			})
		})
	}
}

// TestAnOutageOfAllExecutorsUsesUpNoTries: what was not claimed when it became known waits for as long as it takes.
func TestAnOutageOfAllExecutorsUsesUpNoTries(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.worker(worker.Config{CheckInterval: time.Second, Lease: 15 * time.Second, Reconcile: time.Second}, nil)
		r.settled()
		r.script.away.Store(true)
		e := r.submit("hello") // meets it
		<-time.After(5 * time.Second)
		later := r.submit("hello") // does not
		<-time.After(3 * time.Minute)
		require.Equal(t, eval.Queued, r.get(e.Key).Status)
		r.script.away.Store(false)
		back := time.Now()
		for _, key := range []eval.Key{e.Key, later.Key} {
			require.Equal(t, eval.Completed, r.wait(key, time.Minute).Status)
		}
		require.Less(t, time.Since(back), 20*time.Second)
		require.LessOrEqual(t, r.get(e.Key).Tries, 2)
		require.Zero(t, r.get(later.Key).Tries)
		require.Equal(t, 1, r.get(later.Key).Attempt)
	})
}

// TestAFullExecutorThatSaysNoTime waits by the ladder of quota_exceeded, and counts no try.
func TestAFullExecutorThatSaysNoTime(t *testing.T) {
	policy, _ := eval.RetryPolicyByName(eval.PolicyQuotaExceeded)
	inBubble(t, func(t *testing.T, r *rig) {
		const refusals = 6
		var asked atomic.Int64
		r.script.plays("busy", func(ctx context.Context, req eval.Request, sink func(eval.RunEvent)) (eval.Result, error) {
			if req.Attempt <= refusals {
				asked.Add(1)
				return eval.Result{}, eval.Errorf(eval.KindFull, "no slot")
			}
			return prints("at last\n")(ctx, req, sink)
		})
		r.worker(worker.Config{CheckInterval: 500 * time.Millisecond, Lease: 15 * time.Second, Reconcile: 500 * time.Millisecond}, nil)
		r.settled()
		e := r.submit("busy", func(s *eval.Spec) { s.RetryPolicy = eval.PolicyConservative })
		e = r.wait(e.Key, time.Hour)
		require.Equal(t, eval.Completed, e.Status)
		require.Zero(t, e.Tries)
		attempts, err := r.store.Attempts(context.Background(), e.Key)
		require.NoError(t, err)
		require.Len(t, attempts, refusals+1)
		for i, a := range attempts[:refusals] {
			require.False(t, a.Counted)
			require.Equal(t, eval.KindFull, a.Failure.Kind)
			late := attempts[i+1].StartedAt.Sub(*a.NextTryAt)
			require.Less(t, late, 2*time.Second)
			delay := a.NextTryAt.Sub(*a.FinishedAt)
			require.GreaterOrEqual(t, delay, policy.Delay(i+1, 0))
			require.LessOrEqual(t, delay, policy.Delay(i+1, 1))
		}
	})
}

func TestWhatCannotSucceedIsTriedOnce(t *testing.T) {
	for _, kind := range []eval.Kind{eval.KindInvalid, eval.KindNotFound, eval.KindForbidden, eval.KindTooLarge} {
		t.Run(string(kind), func(t *testing.T) {
			r := newRig(t, task.RedisConfig{})
			r.script.plays("wrong", fails(&eval.Error{Kind: kind, Message: "not like this", Fields: []eval.FieldError{{Field: "language", Message: "is not known"}}}))
			r.worker(worker.Config{}, nil)
			e := r.ended(r.submit("wrong").Key)
			require.Equal(t, eval.Failed, e.Status)
			require.Equal(t, kind, e.Failure.Kind)
			require.Equal(t, "not like this; language is not known", e.Failure.Message)
			require.Equal(t, eval.Completed, r.ended(r.submit("hello").Key).Status)
			require.Equal(t, 1, r.script.runs(e.ID))
		})
	}
}

func TestAFailingProgramRunsOnce(t *testing.T) {
	r := newRig(t, task.RedisConfig{})
	r.script.plays("crash", func(context.Context, eval.Request, func(eval.RunEvent)) (eval.Result, error) {
		res := result("")
		res.Verdict, res.Cause, res.ExitCode, res.Signal = eval.RuntimeError, eval.CauseSignal, nil, "SIGSEGV"
		return res, nil
	})
	r.worker(worker.Config{}, nil)
	e := r.ended(r.submit("crash").Key)
	require.Equal(t, eval.Completed, e.Status)
	require.Equal(t, eval.RuntimeError, e.Verdict)
	require.Equal(t, 1, r.script.runs(e.ID))
}

func TestAFullExecutorIsNoTry(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		full := fails(&eval.Error{Kind: eval.KindFull, Message: "no slot", RetryAfter: 3 * time.Second})
		r.script.plays("busy", inOrder(full, full, full, full, full, full, full, full, prints("at last\n")))
		r.worker(worker.Config{CheckInterval: 100 * time.Millisecond, Lease: 15 * time.Second}, nil)
		r.settled()
		e := r.submit("busy", func(s *eval.Spec) { s.RetryPolicy = eval.PolicyConservative })
		e = r.wait(e.Key, time.Minute)
		require.Equal(t, eval.Completed, e.Status)
		require.Zero(t, e.Tries)
		require.Equal(t, 3, e.Attempt, "a full executor is asked four times in each attempt")
		require.GreaterOrEqual(t, e.FinishedAt.Sub(e.CreatedAt), 6*time.Second)
		require.Less(t, e.FinishedAt.Sub(e.CreatedAt), 9*time.Second)
	})
}

func TestAPanicIsAFailureAndNothingHangs(t *testing.T) {
	r := newRig(t, task.RedisConfig{})
	r.script.plays("panic", func(context.Context, eval.Request, func(eval.RunEvent)) (eval.Result, error) { panic("secret detail") })
	w := r.worker(worker.Config{Concurrency: 1}, nil)
	e := r.submit("panic")
	e = r.until(e.Key, "the attempt has failed", func(e eval.Evaluation) bool { return e.Status == eval.Queued && e.Tries == 1 })
	require.Equal(t, eval.KindInternal, e.Failure.Kind)
	require.NotContains(t, e.Failure.Message, "secret detail", "users see no internals")
	require.Equal(t, eval.Completed, r.ended(r.submit("hello").Key).Status, "the slot is free again")
	testkit.Eventually(t, func() bool { return w.metric("crucible_worker_running") == 0 }, "nothing is in hand")
}

func TestAResultSurvivesAnOutageOfTheStore(t *testing.T) {
	r := newRig(t, task.RedisConfig{})
	store := &faulty{Store: r.store}
	store.finishDown.Store(true)
	r.worker(worker.Config{}, store)
	e := r.submit("hello")
	// The lease is 2 s; several beats pass before the store takes the result.
	testkit.Eventually(t, func() bool { return store.refused.Load() >= 8 }, "the worker keeps trying to finish")
	require.Equal(t, eval.Running, r.get(e.Key).Status)
	store.finishDown.Store(false)
	e = r.ended(e.Key)
	require.Equal(t, eval.Completed, e.Status)
	require.Equal(t, 1, e.Attempt)
	require.Equal(t, 1, r.script.runs(e.ID))
}

func TestALostWorkersEvaluationRunsElsewhereAndItsLateResultIsDropped(t *testing.T) {
	onBoth(t, func(t *testing.T, r *rig) {
		program := newEndless()
		r.script.plays("job", inOrder(program.run, prints("second\n")))
		cut := &faulty{Store: r.store}
		lost := r.worker(worker.Config{Name: "lost", Lease: time.Second}, cut)
		e := r.submit("job")
		receive(t, program.begun)
		cut.allDown.Store(true) // for the first worker the store is gone, as it is for a dead one
		r.worker(worker.Config{Name: "heir", Lease: time.Second}, nil)
		e = r.ended(e.Key)
		require.Equal(t, eval.Completed, e.Status)
		require.Equal(t, "heir", e.Worker)
		require.Equal(t, "second\n", string(e.Result.Stdout.Data))
		require.Equal(t, 2, e.Attempt)
		require.Equal(t, 1, e.Lost)
		testkit.Eventually(t, func() bool { return lost.metric("crucible_worker_dropped_results_total") == 1 }, "the first worker drops its attempt")
	})
}

func TestAnEvaluationThatKillsItsWorkersIsPoison(t *testing.T) {
	r := newRig(t, task.RedisConfig{})
	e := r.create("hello")
	for range eval.DefaultRules().PoisonAfter { // workers claim it and are never heard of again
		r.until(e.Key, "it is queued", func(e eval.Evaluation) bool { return e.Status == eval.Queued })
		_, err := r.store.Claim(context.Background(), eval.ClaimRequest{Key: e.Key, Worker: "dead", Lease: time.Microsecond, Alone: true})
		require.NoError(t, err)
		testkit.Eventually(t, func() bool {
			reaped, err := r.store.Reap(context.Background(), 10)
			require.NoError(t, err)
			return len(reaped) == 1
		}, "its lease has run out")
	}
	e = r.get(e.Key)
	require.Equal(t, eval.Failed, e.Status)
	require.Equal(t, eval.KindPoison, e.Failure.Kind)
}

func TestAClaimWhoseAnswerWasLostIsNotLost(t *testing.T) {
	r := newRig(t, task.RedisConfig{})
	store := &faulty{Store: r.store}
	store.claimMute.Store(true)
	r.worker(worker.Config{Lease: time.Minute}, store)
	e := r.submit("hello")
	e = r.ended(e.Key) // well before the lease ends
	require.Equal(t, eval.Completed, e.Status)
	require.Equal(t, 1, e.Attempt)
	require.Zero(t, e.Lost)
	require.Equal(t, 1, r.script.runs(e.ID))
}

// TestTwoDispatchesAtOneWorkerRunOnce has the second one look for the evaluation when the first has claimed it, and does
// not know yet: it must not be adopted as a claim whose answer was lost.
func TestTwoDispatchesAtOneWorkerRunOnce(t *testing.T) {
	r := newRig(t, task.RedisConfig{})
	store := &faulty{Store: r.store}
	second := make(chan struct{})
	store.onClaim = func(n int64, _ eval.Evaluation, err error) error {
		switch n {
		case 1:
			select {
			case <-second: // has gone its way
			case <-time.After(500 * time.Millisecond): // it waits for us
			}
		case 2:
			return eval.Errorf(eval.KindUnavailable, "the answer was lost")
		case 3:
			defer time.AfterFunc(100*time.Millisecond, func() { close(second) })
		}
		return err
	}
	e := r.submit("hello")
	again := e.Dispatch()
	again.Seq = 0 // another task of the same dispatch, as after a loss of the queue
	require.NoError(t, r.queue.Enqueue(context.Background(), again))
	w := r.worker(worker.Config{Lease: time.Minute}, store)
	e = r.ended(e.Key)
	require.Equal(t, eval.Completed, e.Status)
	require.Equal(t, 1, e.Attempt)
	testkit.Eventually(t, func() bool { return w.metric("crucible_worker_stale_dispatches_total") >= 1 }, "the other one is found stale")
	require.Equal(t, 1, r.script.runs(e.ID))
}

func TestAnExecutorThatIgnoresACancelHoldsNothingUp(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		never := make(chan struct{})
		defer close(never)
		begun := make(chan struct{})
		r.script.plays("deaf", func(context.Context, eval.Request, func(eval.RunEvent)) (eval.Result, error) {
			close(begun)
			<-never
			return eval.Result{}, nil
		})
		r.worker(worker.Config{Concurrency: 1, CheckInterval: 100 * time.Millisecond, Lease: 15 * time.Second}, nil)
		e := r.submit("deaf")
		<-begun
		_, err := r.store.Cancel(context.Background(), e.Key, "enough")
		require.NoError(t, err)
		require.Equal(t, eval.Cancelled, r.wait(e.Key, 15*time.Second).Status)
		require.Equal(t, eval.Completed, r.wait(r.submit("hello").Key, 5*time.Second).Status, "the slot is free")
	})
}

func TestARunThatNeverEndsIsEndedLongAfterItsLimits(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		program := newEndless() // its executor keeps no limits
		r.script.plays("stuck", inOrder(program.run, prints("fine\n")))
		r.worker(worker.Config{CheckInterval: time.Second, Lease: 15 * time.Second, Reconcile: time.Second}, nil)
		r.settled()
		e := r.wait(r.submit("stuck").Key, 10*time.Minute)
		require.Equal(t, eval.Completed, e.Status)
		require.Equal(t, 2, e.Attempt)
		require.Equal(t, 1, e.Tries)
	})
}
