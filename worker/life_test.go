package worker_test

import (
	"context"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/task"
	"github.com/crucible-eval/crucible/pkg/testkit"
	"github.com/crucible-eval/crucible/worker"
)

func TestASubmittedEvaluationIsCompleted(t *testing.T) {
	onBoth(t, func(t *testing.T, r *rig) {
		w := r.worker(worker.Config{Name: "w1"}, nil)
		e := r.ended(r.submit("hello").Key)
		require.Equal(t, eval.Completed, e.Status)
		require.Equal(t, eval.Accepted, e.Verdict)
		require.Equal(t, "hello\n", string(e.Result.Stdout.Data))
		require.Equal(t, 1, e.Attempt)
		require.Equal(t, "w1", e.Worker)
		require.Equal(t, "script", e.Executor)
		testkit.Eventually(t, func() bool { return w.metric("crucible_worker_attempts_total") == 1 }, "the attempt is counted")
		require.Equal(t, 1, r.script.runs(e.ID))
	})
}

func TestWhatWasNeverEnqueuedRunsAllTheSame(t *testing.T) {
	r := newRig(t, task.RedisConfig{})
	w := r.worker(worker.Config{}, nil)
	e := r.ended(r.create("hello").Key)
	require.Equal(t, eval.Completed, e.Status)
	require.Equal(t, 1.0, w.metric("crucible_reconcile_redispatched_total"))
}

func TestTheExecutorLearnsForWhomItRuns(t *testing.T) {
	r := newRig(t, task.RedisConfig{})
	owners := make(chan string, 2)
	r.script.plays("who", func(_ context.Context, req eval.Request, _ func(eval.RunEvent)) (eval.Result, error) {
		owners <- req.Client
		return eval.Result{Verdict: eval.Accepted}, nil
	})
	spec := eval.Spec{Program: eval.Program{Language: "who", Code: eval.Bytes("-")}, Priority: eval.PriorityDefault}
	for _, client := range []string{"", "alice"} {
		id := eval.ID("of-" + client)
		_, _, err := r.store.Create(t.Context(), eval.Submission{Evaluations: []eval.Evaluation{
			{Key: eval.Key{Project: eval.DefaultProject, ID: id}, Client: client, Spec: spec},
		}})
		require.NoError(t, err)
	}
	r.worker(worker.Config{}, nil)
	require.ElementsMatch(t, []string{"default", "default/alice"}, []string{receive(t, owners), receive(t, owners)},
		"clients share no interpreter and nothing that was compiled")
}

func TestADoubleDispatchRunsOnce(t *testing.T) {
	r := newRig(t, task.RedisConfig{})
	e := r.submit("hello")
	for seq := 2; seq < 4; seq++ {
		again := e.Dispatch()
		again.Seq = seq
		require.NoError(t, r.queue.Enqueue(context.Background(), again))
	}
	w := r.worker(worker.Config{}, nil)
	r.ended(e.Key)
	testkit.Eventually(t, func() bool { return w.metric("crucible_worker_stale_dispatches_total") >= 2 }, "the other dispatches are found stale")
	require.Equal(t, 1, r.script.runs(e.ID))
}

func TestOutputIsSeenBeforeTheProgramEnds(t *testing.T) {
	onBoth(t, func(t *testing.T, r *rig) {
		program := newEndless()
		r.script.plays("endless", program.run)
		r.worker(worker.Config{}, nil)
		e := r.submit("endless")
		receive(t, program.begun)
		chunks, err := r.live.Read(context.Background(), e.Key, "", 10*time.Second)
		require.NoError(t, err)
		require.Len(t, chunks, 1)
		require.Equal(t, "begun\n", string(chunks[0].Data))
		require.Equal(t, "stdout", chunks[0].Stream)
		require.Equal(t, 1, chunks[0].Attempt)
		require.Equal(t, eval.Running, r.get(e.Key).Status)
	})
}

func TestALongStreamIsKeptWholeInBlobs(t *testing.T) {
	r := newRig(t, task.RedisConfig{})
	whole := strings.Repeat("0123456789abcdef", 3<<16) // 3 MiB
	r.script.plays("long", prints(whole))
	r.worker(worker.Config{}, nil)
	e := r.ended(r.submit("long").Key)
	require.Equal(t, eval.Completed, e.Status)
	require.Len(t, e.Result.Stdout.Data, eval.InlineBytes)
	require.EqualValues(t, len(whole), e.Result.Stdout.Bytes)
	content, size, err := r.blobs.Open(context.Background(), e.Result.Stdout.Blob, 0, -1)
	require.NoError(t, err)
	defer func() { require.NoError(t, content.Close()) }()
	got, err := io.ReadAll(content)
	require.NoError(t, err)
	require.EqualValues(t, len(whole), size)
	require.True(t, whole == string(got), "the blob differs from what was printed")
}

func TestALongArtifactIsKeptWholeInBlobs(t *testing.T) {
	r := newRig(t, task.RedisConfig{})
	whole := strings.Repeat("artifact", 1<<15) // 256 KiB
	r.script.plays("files", func(context.Context, eval.Request, func(eval.RunEvent)) (eval.Result, error) {
		res := result("")
		res.Artifacts = []eval.Artifact{
			{Path: "long", SHA256: "x", Content: eval.Stream{Data: []byte(whole), Bytes: int64(len(whole))}},
			{Path: "huge", Error: "is too large", Content: eval.Stream{Bytes: 1 << 40}},
			{Path: "short", SHA256: "y", Content: eval.Stream{Data: []byte("s"), Bytes: 1}},
		}
		return res, nil
	})
	r.worker(worker.Config{}, nil)
	e := r.ended(r.submit("files").Key)
	require.Equal(t, eval.Completed, e.Status)
	long := e.Result.Artifacts[0].Content
	require.Len(t, long.Data, eval.InlineBytes)
	content, size, err := r.blobs.Open(context.Background(), long.Blob, 0, -1)
	require.NoError(t, err)
	defer func() { require.NoError(t, content.Close()) }()
	got, err := io.ReadAll(content)
	require.NoError(t, err)
	require.EqualValues(t, len(whole), size)
	require.True(t, whole == string(got), "the blob differs from the file")
	require.Equal(t, "s", string(e.Result.Artifacts[2].Content.Data))
	require.Empty(t, e.Result.Artifacts[2].Content.Blob)
}

func TestRunAtIsNeverEarly(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.worker(worker.Config{}, nil)
		r.settled()
		at := time.Now().Add(1200 * time.Millisecond)
		e := r.wait(r.submit("hello", func(s *eval.Spec) { s.RunAt = &at }).Key, time.Minute)
		require.Equal(t, eval.Completed, e.Status)
		require.False(t, e.StartedAt.Before(at.Truncate(time.Microsecond)), "started %v before its run_at", at.Sub(*e.StartedAt))
		require.Less(t, e.StartedAt.Sub(at), time.Second)
	})
}

func TestTheRosterShowsTheWorker(t *testing.T) {
	r := newRig(t, task.RedisConfig{})
	program := newEndless()
	r.script.plays("endless", program.run)
	w := r.worker(worker.Config{Name: "w1", Version: "1.2.3", Concurrency: 3}, nil)
	r.submit("endless")
	receive(t, program.begun)
	var workers []eval.WorkerInfo
	testkit.Eventually(t, func() bool {
		var err error
		workers, err = r.live.Workers(context.Background())
		require.NoError(t, err)
		return len(workers) == 1 && len(workers[0].Running) == 1
	}, "the roster shows what runs")
	require.Equal(t, "w1", workers[0].ID)
	require.Equal(t, 3, workers[0].Slots)
	require.Equal(t, "endless", workers[0].Running[0].Language)
	require.Equal(t, []eval.ExecutorContact{{Name: "script", InFlight: 1}}, workers[0].Executors)

	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	require.NoError(t, w.Stop(ctx))
	workers, err := r.live.Workers(context.Background())
	require.NoError(t, err)
	require.Empty(t, workers)
}

func TestAWorkerRefusesSettingsThatCannotWork(t *testing.T) {
	r := newRig(t, task.RedisConfig{})
	deps := worker.Deps{Store: r.store, Blobs: r.blobs, Redis: r.redis, Executors: []worker.NamedExecutor{{Name: "s", Executor: r.script}}}
	for name, cfg := range map[string]worker.Config{
		"beat too slow":        {Lease: 3 * time.Second, Beat: 2 * time.Second},
		"negative lease":       {Lease: -1},
		"lease of nothing":     {Lease: time.Millisecond},
		"beat beyond lease":    {Lease: 3 * time.Second, Beat: time.Minute},
		"reconcile always":     {Reconcile: 1},
		"negative drain":       {Drain: -1},
		"negative beat":        {Beat: -1},
		"negative concurrency": {Concurrency: -1},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := worker.New(cfg, deps)
			require.Error(t, err)
		})
	}
}
