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

func TestAStoppedWorkerLetsRunsEnd(t *testing.T) {
	r := newRig(t, task.RedisConfig{})
	begun, goOn := make(chan struct{}), make(chan struct{})
	r.script.plays("slow", func(ctx context.Context, req eval.Request, sink func(eval.RunEvent)) (eval.Result, error) {
		close(begun)
		select {
		case <-goOn:
			return result("whole\n"), nil
		case <-ctx.Done():
			return eval.Result{}, context.Cause(ctx)
		}
	})
	w := r.worker(worker.Config{Concurrency: 1}, nil)
	e := r.submit("slow")
	receive(t, begun)
	next := r.submit("hello")
	stopped := make(chan error, 1)
	go func() { stopped <- w.Stop(context.Background()) }()
	testkit.Eventually(t, func() bool {
		workers, err := r.live.Workers(context.Background())
		require.NoError(t, err)
		return len(workers) == 1 && workers[0].Draining
	}, "the roster shows the drain")
	close(goOn)
	require.NoError(t, receive(t, stopped))
	e = r.get(e.Key)
	require.Equal(t, eval.Completed, e.Status)
	require.Equal(t, "whole\n", string(e.Result.Stdout.Data))
	require.Equal(t, eval.Queued, r.get(next.Key).Status, "new work is refused")

	r.worker(worker.Config{}, nil)
	require.Equal(t, eval.Completed, r.ended(next.Key).Status)
}

func TestWhatDoesNotEndInTimeIsGivenBackUncounted(t *testing.T) {
	onBoth(t, func(t *testing.T, r *rig) {
		program := newEndless()
		r.script.plays("job", inOrder(program.run, prints("second\n")))
		w := r.worker(worker.Config{Drain: 50 * time.Millisecond}, nil)
		e := r.submit("job")
		receive(t, program.begun)
		require.NoError(t, w.Stop(context.Background()))
		require.NoError(t, w.Stop(context.Background()), "stopping twice is fine")
		got := r.get(e.Key)
		require.Equal(t, eval.Queued, got.Status)
		require.Equal(t, eval.KindStopping, got.Failure.Kind)
		require.Zero(t, got.Tries)

		r.worker(worker.Config{}, nil)
		e = r.ended(e.Key)
		require.Equal(t, eval.Completed, e.Status)
		require.Equal(t, 2, e.Attempt)
	})
}
