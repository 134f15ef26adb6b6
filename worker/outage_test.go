package worker_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/task"
	"github.com/crucible-eval/crucible/pkg/testkit"
	"github.com/crucible-eval/crucible/worker"
)

func TestAFlushedQueueIsFilledAgain(t *testing.T) {
	onBoth(t, func(t *testing.T, r *rig) {
		ctx := context.Background()
		inspector := task.NewInspector(r.redis)
		w := r.worker(worker.Config{}, nil)
		r.ended(r.submit("hello").Key)
		require.NoError(t, inspector.Pause(ctx, "default"))
		var all []eval.Evaluation
		for range 50 {
			all = append(all, r.submit("hello"))
		}
		before := w.metric("crucible_reconcile_rewinds_total")
		flushed := time.Now()
		require.NoError(t, r.redis.Client().FlushAll(ctx).Err()) // and with it the pause
		for _, e := range all {
			require.Equal(t, eval.Completed, r.ended(e.Key).Status)
			require.Equal(t, 1, r.script.runs(e.ID))
		}
		require.Less(t, time.Since(flushed), 10*time.Second)
		require.Greater(t, w.metric("crucible_reconcile_rewinds_total"), before)
		members, err := r.redis.Client().SMembers(ctx, "asynq:queues").Result()
		require.NoError(t, err)
		require.ElementsMatch(t, task.Queues(), members, "asynq's own tools see the queues again")
	})
}

func TestWhatIsSubmittedWhileRedisIsDownRunsWhenItIsBack(t *testing.T) {
	server := testkit.Redis(t)
	r := newRig(t, task.RedisConfig{URL: server.URL})
	r.worker(worker.Config{}, nil)
	r.ended(r.submit("hello").Key)
	server.Stop()
	e := r.create("hello")
	for range 3 {
		began := time.Now()
		err := r.queue.Enqueue(context.Background(), e.Dispatch())
		require.True(t, eval.IsKind(err, eval.KindUnavailable), "%v", err)
		require.Less(t, time.Since(began), 5*time.Second)
	}
	server.Start()
	began := time.Now()
	require.Equal(t, eval.Completed, r.ended(e.Key).Status)
	require.Less(t, time.Since(began), 20*time.Second)
	require.Equal(t, 1, r.script.runs(e.ID))
}

func TestAPlatformStartsWithoutRedis(t *testing.T) {
	server := testkit.Redis(t)
	server.Stop()
	r := newRig(t, task.RedisConfig{URL: server.URL})
	require.Error(t, r.redis.Ready(context.Background()))
	w := r.worker(worker.Config{}, nil)
	require.Equal(t, map[string]bool{"worker": true, "queue": false, "storage": true, "executors": true}, readiness(w))
	e := r.create("hello")
	server.Start()
	require.Equal(t, eval.Completed, r.ended(e.Key).Status)
	require.NoError(t, r.redis.Ready(context.Background()))
	require.Equal(t, map[string]bool{"worker": true, "queue": true, "storage": true, "executors": true}, readiness(w))
	require.NoError(t, w.Stop(context.Background()))
	require.False(t, readiness(w)["worker"], "a stopped worker takes no work")
}

// readiness tries what the worker needs.
func readiness(w *running) map[string]bool {
	all := map[string]bool{}
	for _, p := range w.Parts() {
		all[p.Name] = p.Try(context.Background()) == nil
	}
	return all
}

func TestARestartedRedisLosesNothing(t *testing.T) {
	server := testkit.Redis(t)
	r := newRig(t, task.RedisConfig{URL: server.URL})
	program := newEndless()
	r.script.plays("endless", program.run)
	r.worker(worker.Config{Concurrency: 1}, nil)
	blocker := r.submit("endless")
	receive(t, program.begun)
	var waiting []eval.Evaluation
	for range 10 {
		waiting = append(waiting, r.submit("hello"))
	}
	server.Kill9() // in the middle of a run, with work queued
	server.Start()
	_, err := r.store.Cancel(context.Background(), blocker.Key, "done with it")
	require.NoError(t, err)
	require.Equal(t, eval.Cancelled, r.ended(blocker.Key).Status)
	require.Equal(t, 1, r.script.runs(blocker.ID), "a run does not end with its Redis")
	for _, e := range waiting {
		require.Equal(t, eval.Completed, r.ended(e.Key).Status)
		require.Equal(t, 1, r.script.runs(e.ID))
	}
}

func TestTheStoreMayBeAwayForAWhile(t *testing.T) {
	r := newRig(t, task.RedisConfig{})
	store := &faulty{Store: r.store}
	store.allDown.Store(true)
	r.worker(worker.Config{}, store)
	e := r.submit("hello")
	testkit.Eventually(t, func() bool { return store.refused.Load() >= 4 }, "the worker has met the outage")
	store.allDown.Store(false)
	require.Equal(t, eval.Completed, r.ended(e.Key).Status)
	require.Equal(t, 1, r.script.runs(e.ID))
}

func TestAFrozenRedisDoesNotSlowWhatRuns(t *testing.T) {
	server := testkit.Redis(t)
	r := newRig(t, task.RedisConfig{URL: server.URL})
	begun, goOn := make(chan struct{}), make(chan struct{})
	part := eval.Bytes(strings.Repeat("x", 16<<10))
	r.script.plays("loud", func(_ context.Context, _ eval.Request, sink func(eval.RunEvent)) (eval.Result, error) {
		close(begun)
		<-goOn
		for range 300 {
			sink(eval.RunEvent{Type: eval.RunStdout, Data: part, At: time.Now()})
		}
		return result(strings.Repeat(string(part), 300)), nil
	})
	w := r.worker(worker.Config{}, nil)
	e := r.submit("loud")
	receive(t, begun)
	server.Pause()
	began := time.Now()
	close(goOn)
	e = r.ended(e.Key)
	require.Less(t, time.Since(began), 10*time.Second, "300 times a timeout would be minutes")
	require.Equal(t, eval.Completed, e.Status)
	require.EqualValues(t, 300*len(part), e.Result.Stdout.Bytes)
	require.Positive(t, w.metric("crucible_worker_live_output_dropped_bytes_total"))
	server.Resume()
	require.Equal(t, eval.Completed, r.ended(r.create("hello").Key).Status)
	require.Equal(t, 1, r.script.runs(e.ID))
}
