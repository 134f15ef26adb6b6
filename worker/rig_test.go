package worker_test

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/live"
	"github.com/crucible-eval/crucible/pkg/memory"
	"github.com/crucible-eval/crucible/pkg/task"
	"github.com/crucible-eval/crucible/pkg/testkit"
	"github.com/crucible-eval/crucible/worker"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rig is a platform without its doors: a store, a queue and a scripted executor. Workers are added by the test.
type rig struct {
	t      testing.TB
	redis  *task.Redis
	queue  eval.Queue
	live   *live.Live
	store  eval.Store
	blobs  eval.Blobs
	script *script
	logger *slog.Logger
}

func newRig(t testing.TB, cfg task.RedisConfig) *rig {
	t.Helper()
	logger := slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelInfo}))
	redis, err := task.Open(context.Background(), cfg, logger)
	require.NoError(t, err)
	t.Cleanup(func() { _ = redis.Close() })
	l := live.New(redis.Client(), logger)
	t.Cleanup(func() { _ = l.Close() })
	rules := eval.DefaultRules()
	rules.FirstLook = time.Second
	store := memory.NewStore(memory.Options{Rules: rules})
	return &rig{
		t: t, redis: redis, queue: task.NewQueue(redis), live: l, logger: logger, script: newScript(),
		store: live.Announcing(store, l), blobs: memory.NewBlobs(0),
	}
}

// running is a worker that a test has started.
type running struct {
	*worker.Worker
	t        testing.TB
	registry *prometheus.Registry
}

// worker starts a worker on the rig's store, or on another one in front of it.
func (r *rig) worker(cfg worker.Config, store eval.Store) *running {
	r.t.Helper()
	if store == nil {
		store = r.store
	}
	if cfg.Lease == 0 {
		cfg.Lease = 2 * time.Second
	}
	if cfg.Reconcile == 0 {
		cfg.Reconcile = 50 * time.Millisecond
	}
	registry := prometheus.NewRegistry()
	w, err := worker.New(cfg, worker.Deps{
		Store: store, Blobs: r.blobs, Redis: r.redis, Live: r.live, Logger: r.logger, Registry: registry,
		Executors: []worker.NamedExecutor{{Name: "script", Executor: r.script}},
	})
	require.NoError(r.t, err)
	require.NoError(r.t, w.Start(context.Background()))
	r.t.Cleanup(func() { // before Redis goes
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		require.NoError(r.t, w.Stop(ctx))
	})
	return &running{w, r.t, registry}
}

// metric sums a metric of the worker over its labels.
func (w *running) metric(name string) float64 {
	w.t.Helper()
	families, err := w.registry.Gather()
	require.NoError(w.t, err)
	sum := 0.0
	for _, f := range families {
		if f.GetName() == name {
			for _, m := range f.GetMetric() {
				sum += value(m)
			}
		}
	}
	return sum
}

func value(m *dto.Metric) float64 { return m.GetCounter().GetValue() + m.GetGauge().GetValue() }

// create writes an evaluation as the API does, and does not enqueue it.
func (r *rig) create(language string, change ...func(*eval.Spec)) eval.Evaluation {
	r.t.Helper()
	id, err := uuid.NewV7()
	require.NoError(r.t, err)
	spec := eval.Spec{Program: eval.Program{Language: language, Code: eval.Bytes("-")}, Priority: eval.PriorityDefault, RetryPolicy: eval.PolicyDefault}
	spec.Limits.WallMS = 1000
	for _, c := range change {
		c(&spec)
	}
	created, _, err := r.store.Create(context.Background(), eval.Submission{Evaluations: []eval.Evaluation{
		{Key: eval.Key{Project: eval.DefaultProject, ID: eval.ID(id.String())}, Spec: spec},
	}})
	require.NoError(r.t, err)
	return created[0]
}

// submit creates an evaluation and enqueues it.
func (r *rig) submit(language string, change ...func(*eval.Spec)) eval.Evaluation {
	r.t.Helper()
	e := r.create(language, change...)
	if e.Dispatched() {
		require.NoError(r.t, r.queue.Enqueue(context.Background(), e.Dispatch()))
	}
	return e
}

// untilReconciled returns when a worker's first round is over: it takes an empty Redis for one that was lost, and
// dispatches what it finds queued once more.
func (r *rig) untilReconciled() {
	r.t.Helper()
	testkit.Eventually(r.t, func() bool { return r.redis.Client().Exists(context.Background(), "crucible:epoch").Val() == 1 }, "the first round is over")
}

func (r *rig) get(key eval.Key) eval.Evaluation {
	r.t.Helper()
	e, err := r.store.Get(context.Background(), key)
	require.NoError(r.t, err)
	return e
}

// until waits for the evaluation to be so.
func (r *rig) until(key eval.Key, what string, so func(eval.Evaluation) bool) eval.Evaluation {
	r.t.Helper()
	var e eval.Evaluation
	testkit.Eventually(r.t, func() bool { e = r.get(key); return so(e) }, what)
	return e
}

// ended waits for the end.
func (r *rig) ended(key eval.Key) eval.Evaluation {
	r.t.Helper()
	return r.until(key, "the evaluation has ended", func(e eval.Evaluation) bool { return e.Status.Terminal() })
}

// receive waits for a value.
func receive[T any](t testing.TB, ch <-chan T) T {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	select {
	case v := <-ch:
		return v
	case <-ctx.Done():
		t.Fatal("nothing came for 30 seconds")
		panic("unreachable")
	}
}

// onBoth runs a test on the embedded and on a real Redis.
func onBoth(t *testing.T, test func(t *testing.T, r *rig)) {
	t.Run("embedded", func(t *testing.T) { test(t, newRig(t, task.RedisConfig{})) })
	t.Run("redis", func(t *testing.T) { test(t, newRig(t, task.RedisConfig{URL: testkit.Redis(t).URL})) })
}
