package worker_test

import (
	"context"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/task"
	"github.com/crucible-eval/crucible/pkg/testkit"
	"github.com/crucible-eval/crucible/worker"
)

// submitMany accepts n evaluations of a client as the API does, and returns their keys.
func (r *rig) submitMany(client string, n int, change ...func(*eval.Spec)) []eval.Key {
	r.t.Helper()
	sub := eval.Submission{Evaluations: make([]eval.Evaluation, n)}
	keys := make([]eval.Key, n)
	for i := range n {
		id, err := uuid.NewV7()
		require.NoError(r.t, err)
		keys[i] = eval.Key{Project: eval.DefaultProject, ID: eval.ID(id.String())}
		spec := eval.Spec{Program: eval.Program{Language: "hello", Code: eval.Bytes("-")}, Priority: eval.PriorityDefault}
		for _, c := range change {
			c(&spec)
		}
		sub.Evaluations[i] = eval.Evaluation{Key: keys[i], Client: client, Spec: spec}
	}
	created, _, err := r.store.Create(context.Background(), sub)
	require.NoError(r.t, err)
	for _, e := range created {
		if e.Dispatched() {
			require.NoError(r.t, r.queue.Enqueue(context.Background(), e.Dispatch()))
		}
	}
	return keys
}

// statuses counts the evaluations of the rig.
func (r *rig) statuses() map[eval.Status]int64 {
	r.t.Helper()
	stats, err := r.store.Stats(context.Background(), eval.DefaultProject)
	require.NoError(r.t, err)
	return stats.Statuses
}

// pending is how many wait in Redis at a priority.
func (r *rig) pending(p eval.Priority) int {
	r.t.Helper()
	queues, err := task.NewInspector(r.redis).Queues(context.Background())
	require.NoError(r.t, err)
	for _, q := range queues {
		if q.Name == string(p) {
			return int(q.Pending)
		}
	}
	require.Fail(r.t, "there is no queue "+string(p))
	return 0
}

func TestTenAreNotDelayedByABurst(t *testing.T) {
	both := func(t *testing.T, cfg task.RedisConfig, toTheEnd bool) {
		const burst = 2000
		r := newRig(t, cfg)
		r.worker(worker.Config{Concurrency: 2, Lease: 15 * time.Second}, nil)
		r.submitMany("a", burst/2)
		r.submitMany("a", burst/2)
		began := time.Now()
		ten := r.submitMany("b", 10)
		for _, key := range ten {
			r.until(key, "it has ended", func(e eval.Evaluation) bool { return e.Status == eval.Completed })
		}
		took, left := time.Since(began), r.statuses()[eval.Queued]
		t.Logf("ten ended %v after they were submitted behind %d of another client, of which %d still waited", took.Round(time.Millisecond), burst, left)
		require.Greater(t, left, int64(burst/2), "they did not wait for the burst")
		if toTheEnd {
			testkit.Eventually(t, func() bool { return r.statuses()[eval.Completed] == burst+10 }, "all have ended")
		}
	}
	t.Run("embedded", func(t *testing.T) { both(t, task.RedisConfig{}, false) })
	t.Run("redis", func(t *testing.T) { both(t, task.RedisConfig{URL: testkit.Redis(t).URL}, true) })
}

func TestTheQueueIsShallow(t *testing.T) {
	r := newRig(t, task.RedisConfig{})
	r.script.plays("endless", newEndless().run)
	const slots, window = 2, 8
	r.worker(worker.Config{Concurrency: slots, Window: window, Lease: 15 * time.Second}, nil)
	// The worker says to the store how large the window is.
	r.untilReconciled()
	for range 8 {
		r.submitMany("a", 1000, func(s *eval.Spec) { s.Language = "endless" })
	}
	low := func(s *eval.Spec) { s.Language, s.Priority = "endless", eval.PriorityLow }
	r.submitMany("a", 1000, low)
	testkit.Eventually(t, func() bool { return r.statuses()[eval.Running] == slots }, "the slots are taken")
	require.LessOrEqual(t, r.pending(eval.PriorityDefault), window)
	require.LessOrEqual(t, r.pending(eval.PriorityLow), window)

	// A queue that is lost is filled again, and no deeper.
	require.NoError(t, r.redis.Client().FlushAll(context.Background()).Err())
	testkit.Eventually(t, func() bool { return r.pending(eval.PriorityDefault) >= window/2 }, "it is filled again")
	require.LessOrEqual(t, r.pending(eval.PriorityDefault), window)
}
