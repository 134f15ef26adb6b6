package task_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/eval/evaltest"
	"github.com/crucible-eval/crucible/pkg/live"
	"github.com/crucible-eval/crucible/pkg/task"
	"github.com/crucible-eval/crucible/pkg/testkit"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func connect(t *testing.T, url string) *task.Redis {
	t.Helper()
	r, err := task.Open(t.Context(), task.RedisConfig{URL: url}, nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, r.Close()) })
	return r
}

// serve starts a server that ends with the test.
func serve(t *testing.T, r *task.Redis, concurrency int, h task.Handler) *task.Server {
	t.Helper()
	s := task.NewServer(r, task.ServerConfig{Concurrency: concurrency}, h, nil)
	require.NoError(t, s.Start(t.Context()))
	t.Cleanup(func() { require.NoError(t, s.Stop(context.Background())) })
	return s
}

// receive starts a server that takes one dispatch after the other.
func receive(t *testing.T, r *task.Redis) <-chan eval.Dispatch {
	got := make(chan eval.Dispatch, 1000)
	serve(t, r, 1, func(_ context.Context, d eval.Dispatch) (string, error) {
		got <- d
		return "seen", nil
	})
	return got
}

func bench(t *testing.T, r *task.Redis) evaltest.QueueBench {
	l := live.New(r.Client(), nil)
	t.Cleanup(func() { require.NoError(t, l.Close()) })
	return evaltest.QueueBench{
		Queue: task.NewQueue(r), Notices: l,
		Receive: func(t *testing.T) <-chan eval.Dispatch { return receive(t, r) },
	}
}

func TestQueueEmbedded(t *testing.T) {
	evaltest.TestQueue(t, func(t *testing.T) evaltest.QueueBench { return bench(t, connect(t, "")) })
}

func TestQueueRedis(t *testing.T) {
	server := testkit.Redis(t)
	evaltest.TestQueue(t, func(t *testing.T) evaltest.QueueBench {
		r := connect(t, server.URL)
		require.NoError(t, r.Client().FlushAll(t.Context()).Err())
		return bench(t, r)
	})
}

// onBoth runs a test on the embedded and on a real Redis.
func onBoth(t *testing.T, test func(t *testing.T, r *task.Redis)) {
	t.Run("embedded", func(t *testing.T) { test(t, connect(t, "")) })
	t.Run("redis", func(t *testing.T) { test(t, connect(t, testkit.Redis(t).URL)) })
}

func dispatch(id string) eval.Dispatch {
	return eval.Dispatch{Key: eval.Key{Project: "default", ID: eval.ID(id)}, Seq: 1, Priority: eval.PriorityDefault}
}

// info returns the numbers of the default queue.
func info(t *testing.T, r *task.Redis) task.QueueInfo {
	t.Helper()
	all, err := task.NewInspector(r).Queues(t.Context())
	require.NoError(t, err)
	for _, q := range all {
		if q.Name == "default" {
			return q
		}
	}
	require.Fail(t, "there is no default queue")
	return task.QueueInfo{}
}
