package worker_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/task"
	"github.com/crucible-eval/crucible/pkg/testkit"
	"github.com/crucible-eval/crucible/worker"
)

func TestCancelOfAQueuedEvaluationNeverStartsIt(t *testing.T) {
	onBoth(t, func(t *testing.T, r *rig) {
		ctx := context.Background()
		e := r.submit("hello")
		_, err := r.store.Cancel(ctx, e.Key, "not needed")
		require.NoError(t, err)
		require.NoError(t, r.queue.Cancel(ctx, e.Dispatch()))
		queues, err := task.NewInspector(r.redis).Queues(ctx)
		require.NoError(t, err)
		for _, q := range queues {
			require.Zero(t, q.Pending, "queue %s", q.Name)
		}
		r.worker(worker.Config{}, nil)
		require.Equal(t, eval.Completed, r.ended(r.submit("hello").Key).Status) // the worker works
		require.Equal(t, eval.Cancelled, r.get(e.Key).Status)
		require.Zero(t, r.script.runs(e.ID))
	})
}

func TestCancelKillsARunningEvaluationAtOnceAndKeepsItsOutput(t *testing.T) {
	onBoth(t, func(t *testing.T, r *rig) {
		program := newEndless()
		r.script.plays("endless", program.run)
		r.worker(worker.Config{Lease: 60 * time.Second}, nil) // no beat comes in time: the notice has to do it
		e := r.submit("endless")
		receive(t, program.begun)
		began := time.Now()
		_, err := r.store.Cancel(context.Background(), e.Key, "enough")
		require.NoError(t, err)
		done := r.ended(e.Key)
		require.Less(t, time.Since(began), time.Second)
		require.Equal(t, eval.Cancelled, done.Status)
		require.Equal(t, "enough", done.Reason)
		require.NotNil(t, done.Result)
		require.Equal(t, "begun\n", string(done.Result.Stdout.Data))
		require.Equal(t, 1, r.script.runs(e.ID))
	})
}

func TestCancelIsFoundByTheBeatWhenNoticesAreLost(t *testing.T) {
	r := newRig(t, task.RedisConfig{})
	program := newEndless()
	r.script.plays("endless", program.run)
	r.worker(worker.Config{Lease: 900 * time.Millisecond}, nil)
	e := r.submit("endless")
	receive(t, program.begun)
	require.NoError(t, r.live.Notices.Close())
	_, err := r.store.Cancel(context.Background(), e.Key, "enough")
	require.NoError(t, err)
	require.Equal(t, eval.Cancelled, r.ended(e.Key).Status)
}

func TestCancelWhileTheResultIsStoredEndsItOnce(t *testing.T) {
	r := newRig(t, task.RedisConfig{})
	store := &faulty{Store: r.store}
	store.finishDown.Store(true)
	r.worker(worker.Config{}, store)
	e := r.submit("hello")
	testkit.Eventually(t, func() bool { return store.refused.Load() > 0 }, "the worker tries to finish")
	_, err := r.store.Cancel(context.Background(), e.Key, "late")
	require.NoError(t, err)
	store.finishDown.Store(false)
	done := r.ended(e.Key)
	require.Equal(t, eval.Completed, done.Status, "the program had ended: its result counts")
	require.Equal(t, 1, r.script.runs(e.ID))

	_, err = r.store.Cancel(context.Background(), e.Key, "later")
	require.True(t, eval.IsKind(err, eval.KindConflict), "%v", err)
}

// The button in asynqmon, and asynq's own command, publish the id of a task. By asynq alone that would be a retry.
func TestCancelWithTheQueuesOwnToolsIsARealOne(t *testing.T) {
	onBoth(t, func(t *testing.T, r *rig) {
		program := newEndless()
		r.script.plays("endless", program.run)
		r.worker(worker.Config{Lease: 60 * time.Second}, nil)
		e := r.submit("endless")
		receive(t, program.begun)
		testkit.Eventually(t, func() bool {
			require.NoError(t, r.redis.Client().Publish(t.Context(), "asynq:cancel", string(e.ID)+":1").Err())
			return r.get(e.Key).Status.Terminal()
		}, "the evaluation has ended")
		done := r.get(e.Key)
		require.Equal(t, eval.Cancelled, done.Status)
		require.Equal(t, "cancelled in the queue monitor", done.Reason)
		require.Equal(t, "begun\n", string(done.Result.Stdout.Data))

		canary := r.submit("hello")
		require.Equal(t, eval.Completed, r.ended(canary.Key).Status)
		require.Equal(t, 1, r.script.runs(e.ID))
	})
}
