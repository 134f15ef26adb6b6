package worker_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/worker"
)

func expiresIn(d time.Duration) func(*eval.Spec) {
	return func(s *eval.Spec) { s.ExpiresIn = eval.Duration(d) }
}

func TestADeadlineStopsWhatRunsAndKeepsWhatThereWas(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		program := newEndless()
		r.script.plays("endless", program.run)
		r.worker(worker.Config{CheckInterval: 100 * time.Millisecond, Lease: 15 * time.Second}, nil)
		r.settled()
		e := r.submit("endless", expiresIn(40*time.Second))
		<-program.begun
		e = r.wait(e.Key, time.Minute)
		require.Equal(t, eval.Failed, e.Status)
		require.Equal(t, eval.KindExpired, e.Failure.Kind)
		require.Contains(t, e.Failure.Message, "stopped at its deadline, 40s after")
		require.NotNil(t, e.Result)
		require.Equal(t, "begun\n", string(e.Result.Stdout.Data))
		took := e.FinishedAt.Sub(e.CreatedAt)
		require.GreaterOrEqual(t, took, 40*time.Second, "never early")
		require.Less(t, took, 40*time.Second+100*time.Millisecond)
		require.Equal(t, 1, r.script.runs(e.ID))
		dead, err := r.store.ListDeadLetters(context.Background(), eval.DeadLetterQuery{Project: e.Project, Kind: []eval.Kind{eval.KindExpired}})
		require.NoError(t, err)
		require.Len(t, dead.DeadLetters, 1)
	})
}

func TestADeadlineEndsWhatWaits(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		program := newEndless()
		r.script.plays("endless", program.run)
		r.worker(worker.Config{Concurrency: 1, CheckInterval: 100 * time.Millisecond, Lease: 15 * time.Second, Reconcile: 250 * time.Millisecond}, nil)
		r.settled()
		r.submit("endless")
		<-program.begun
		e := r.submit("hello", expiresIn(20*time.Second))
		e = r.wait(e.Key, time.Minute)
		require.Equal(t, eval.Failed, e.Status)
		require.Equal(t, eval.KindExpired, e.Failure.Kind)
		require.Less(t, e.FinishedAt.Sub(*e.ExpiresAt), time.Second)
		require.Zero(t, e.Attempt)
		require.Zero(t, r.script.runs(e.ID))
	})
}

func TestNoRetryIsPutOffBeyondTheDeadline(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.script.plays("broken", fails(eval.Errorf(eval.KindSandbox, "no sandbox today")))
		r.worker(worker.Config{CheckInterval: 100 * time.Millisecond, Lease: 15 * time.Second, Reconcile: 250 * time.Millisecond}, nil)
		r.settled()
		// The tries begin after 0, 5 and 15 seconds; the third would be too late.
		e := r.submit("broken", expiresIn(12*time.Second), func(s *eval.Spec) { s.RetryPolicy = eval.PolicyConservative })
		e = r.wait(e.Key, time.Minute)
		require.Equal(t, eval.Failed, e.Status)
		require.Equal(t, eval.KindExpired, e.Failure.Kind)
		require.Contains(t, e.Failure.Message, "no sandbox today; its deadline, ")
		require.Equal(t, 2, e.Attempt)
		require.Less(t, e.FinishedAt.Sub(e.CreatedAt), 7*time.Second, "it is told as soon as it is known")
	})
}

func TestAResultThatComesBeforeTheDeadlineCounts(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		store := &faulty{Store: r.store}
		store.finishDown.Store(true)
		r.worker(worker.Config{CheckInterval: 100 * time.Millisecond, Lease: 15 * time.Second}, store)
		r.settled()
		e := r.submit("hello", expiresIn(10*time.Second))
		for store.refused.Load() == 0 {
			<-time.After(100 * time.Millisecond)
		}
		<-time.After(12 * time.Second)
		store.finishDown.Store(false)
		e = r.wait(e.Key, time.Minute)
		require.Equal(t, eval.Completed, e.Status, "the program had ended in time")
		require.Equal(t, 1, r.script.runs(e.ID))
	})
}
