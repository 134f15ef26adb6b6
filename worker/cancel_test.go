package worker_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
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

// However it waits, a cancelled evaluation never starts: not when its time comes, not when its retry is due, and not
// when the queue is filled again from the store.
func TestCancelOfWhatWaitsForItsTimeNeverStartsIt(t *testing.T) {
	r := newRig(t, task.RedisConfig{})
	ctx := context.Background()
	soon := time.Now().Add(300 * time.Millisecond)
	later := r.create("hello", func(s *eval.Spec) { s.RunAt = &soon })
	r.script.plays("away", fails(eval.Errorf(eval.KindUnavailable, "the executor is away")))
	retried := r.create("away")
	stored := r.create("hello") // and nobody has enqueued it
	_, err := r.store.Cancel(ctx, stored.Key, "not needed")
	require.NoError(t, err)
	_, err = r.store.Cancel(ctx, later.Key, "not needed")
	require.NoError(t, err)
	r.worker(worker.Config{}, nil)
	require.NoError(t, r.queue.Enqueue(ctx, retried.Dispatch()))
	r.until(retried.Key, "it waits for its next try", func(e eval.Evaluation) bool { return e.Status == eval.Queued && e.Attempt == 1 })
	_, err = r.store.Cancel(ctx, retried.Key, "not needed")
	require.NoError(t, err)

	n, err := r.store.Rewind(ctx)
	require.NoError(t, err)
	require.Zero(t, n, "none of them is due, now or ever")
	require.NoError(t, r.queue.Enqueue(ctx, later.Dispatch())) // as if it had been on its way already
	require.NoError(t, r.queue.Enqueue(ctx, stored.Dispatch()))
	after := soon.Add(100 * time.Millisecond)
	canary := r.create("hello", func(s *eval.Spec) { s.RunAt = &after })
	require.Equal(t, eval.Completed, r.ended(canary.Key).Status)
	for key, runs := range map[eval.Key]int{later.Key: 0, stored.Key: 0, retried.Key: 1} {
		require.Equal(t, eval.Cancelled, r.get(key).Status)
		require.Equal(t, runs, r.script.runs(key.ID))
	}
}

func TestCancelWhileRedisIsAwayIsFoundByTheBeat(t *testing.T) {
	server := testkit.Redis(t)
	r := newRig(t, task.RedisConfig{URL: server.URL})
	program := newEndless()
	r.script.plays("endless", program.run)
	r.worker(worker.Config{Lease: 900 * time.Millisecond}, nil)
	e := r.submit("endless")
	receive(t, program.begun)
	server.Stop()
	t.Cleanup(server.Start)
	_, err := r.store.Cancel(context.Background(), e.Key, "enough")
	require.NoError(t, err, "the store is the truth")
	require.Error(t, r.queue.Cancel(context.Background(), e.Dispatch()))
	done := r.ended(e.Key)
	require.Equal(t, eval.Cancelled, done.Status)
	require.Equal(t, "begun\n", string(done.Result.Stdout.Data))
}

func TestCancelTwiceAtOnceEndsItOnce(t *testing.T) {
	r := newRig(t, task.RedisConfig{})
	program := newEndless()
	r.script.plays("endless", program.run)
	r.worker(worker.Config{}, nil)
	e := r.submit("endless")
	receive(t, program.begun)
	var clients sync.WaitGroup
	for range 8 {
		clients.Go(func() {
			if _, err := r.store.Cancel(context.Background(), e.Key, "enough"); err != nil {
				assert.True(t, eval.IsKind(err, eval.KindConflict), "%v", err)
			}
		})
	}
	clients.Wait()
	require.Equal(t, eval.Cancelled, r.ended(e.Key).Status)
	events, err := r.store.Events(context.Background(), e.Key, 0, 100)
	require.NoError(t, err)
	var types []eval.EventType
	for _, event := range events {
		types = append(types, event.Type)
	}
	require.Equal(t, []eval.EventType{eval.EventQueued, eval.EventRunning, eval.EventCancelRequested, eval.EventCancelled}, types)
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
		require.Less(t, time.Since(began), 10*time.Second)
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
