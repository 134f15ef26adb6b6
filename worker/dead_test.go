package worker_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/task"
	"github.com/crucible-eval/crucible/pkg/testkit"
	"github.com/crucible-eval/crucible/worker"
)

// archived counts the tasks in the queue's archive.
func (r *rig) archived() (n int64) {
	r.t.Helper()
	queues, err := task.NewInspector(r.redis).Queues(r.t.Context())
	require.NoError(r.t, err)
	for _, q := range queues {
		n += q.Archived
	}
	return n
}

func (r *rig) untilArchived(n int64, what string) {
	r.t.Helper()
	testkit.Eventually(r.t, func() bool { return r.archived() == n }, what)
}

func TestTheQueuesArchiveFollowsTheDeadLetters(t *testing.T) {
	onBoth(t, func(t *testing.T, r *rig) {
		invalid := eval.Errorf(eval.KindInvalid, "no such language")
		r.script.plays("broken", fails(invalid))
		w := r.worker(worker.Config{Mirror: 50 * time.Millisecond}, nil)

		ran := r.submit("broken") // fails in a worker's hand
		require.Equal(t, eval.Failed, r.ended(ran.Key).Status)
		r.untilArchived(1, "the worker archives the task")
		expired := r.create("hello", func(s *eval.Spec) { s.ExpiresIn, s.Priority = eval.Duration(time.Microsecond), eval.PriorityHigh })
		require.Equal(t, eval.KindExpired, r.ended(expired.Key).Failure.Kind)
		r.untilArchived(2, "what failed without a worker is put there")
		require.EqualValues(t, 2, w.metric("crucible_worker_dead_letters_total"))

		require.NoError(t, r.redis.Client().FlushAll(t.Context()).Err())
		r.untilArchived(2, "an archive that was lost comes back")

		again, err := r.store.Retry(t.Context(), expired.Key, eval.ID("retry-of-"+expired.ID))
		require.NoError(t, err)
		require.Equal(t, eval.Failed, r.ended(again.Key).Status, "it has the same deadline")
		require.NoError(t, r.store.DeleteDeadLetter(t.Context(), again.Key))
		r.untilArchived(1, "what is retried or deleted goes away, though nobody told the queue")
		require.NoError(t, r.store.DeleteDeadLetter(t.Context(), ran.Key))
		r.untilArchived(0, "the archive is empty when the list is")
		require.Equal(t, 1, r.script.runs(ran.ID))
		require.Zero(t, r.script.runs(expired.ID))
	})
}

// What "run" and "run all" in asynqmon's archive do.
func TestAnArchivedTaskThatIsRunByHandRunsNothing(t *testing.T) {
	r := newRig(t, task.RedisConfig{})
	r.script.plays("broken", fails(eval.Errorf(eval.KindInvalid, "no such language")))
	r.worker(worker.Config{Mirror: time.Hour}, nil)
	r.untilReconciled() // which would dispatch what is in hand a second time
	e := r.submit("broken")
	failed := r.ended(e.Key)
	r.untilArchived(1, "the worker archives the task")
	require.NoError(t, r.queue.Enqueue(t.Context(), failed.Dispatch()))
	require.Equal(t, eval.Completed, r.ended(r.submit("hello").Key).Status)
	r.untilArchived(1, "it is archived again")
	require.Equal(t, 1, r.script.runs(e.ID))
	require.Equal(t, failed, r.get(e.Key))
}
