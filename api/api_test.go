package api_test

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/api"
	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/live"
	"github.com/crucible-eval/crucible/pkg/memory"
	"github.com/crucible-eval/crucible/pkg/task"
)

// platform is an API over a real store, a real queue and a Redis inside the
// process. Tests play the worker.
type platform struct {
	t     testing.TB
	api   *api.Service
	store eval.Store
	blobs eval.Blobs
	live  *live.Live
	redis *task.Redis
	queue *recordingQueue
	exec  *executor
	url   string
}

type option func(*api.Config, *api.Deps)

func start(t testing.TB, options ...option) *platform {
	t.Helper()
	ctx := t.Context()
	redis, err := task.Open(ctx, task.RedisConfig{}, nil)
	require.NoError(t, err)
	t.Cleanup(func() { _ = redis.Close() })
	l := live.New(redis.Client(), slog.New(slog.DiscardHandler))
	t.Cleanup(func() { _ = l.Close() })
	p := &platform{t: t, live: l, redis: redis, blobs: memory.NewBlobs(1 << 30), exec: newExecutor(),
		queue: &recordingQueue{Queue: task.NewQueue(redis)}}
	p.store = live.Announcing(memory.NewStore(memory.Options{}), l)
	cfg := api.Config{Listen: "127.0.0.1:0"}
	deps := api.Deps{
		Store: p.store, Blobs: p.blobs, Queue: p.queue, Notices: l, Output: l, Roster: l, Redis: redis,
		Executors: []api.NamedExecutor{{Name: "local", Executor: p.exec}}, Version: "v0-test",
	}
	for _, o := range options {
		o(&cfg, &deps)
	}
	p.api, err = api.New(cfg, deps)
	require.NoError(t, err)
	require.NoError(t, p.api.Start(ctx))
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		require.NoError(t, p.api.Stop(ctx))
	})
	p.url = p.api.URL()
	return p
}
