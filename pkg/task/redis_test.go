package task_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/task"
	"github.com/crucible-eval/crucible/pkg/testkit"
)

func TestARedisThatMayEvictIsRefused(t *testing.T) {
	server := testkit.Redis(t, testkit.WithSetting("maxmemory-policy", "allkeys-lru"))
	_, err := task.Open(t.Context(), task.RedisConfig{URL: server.URL}, nil)
	require.ErrorContains(t, err, "maxmemory-policy noeviction")
}

func TestAManagedRedisWithoutConfigIsCheckedToo(t *testing.T) {
	server := testkit.Redis(t)
	root := connect(t, server.URL).Client()
	require.NoError(t, root.ConfigSet(t.Context(), "maxmemory-policy", "volatile-lru").Err())
	require.NoError(t, root.Do(t.Context(), "ACL", "SETUSER", "app", "on", ">pw", "~*", "&*", "+@all", "-config").Err())
	_, err := task.Open(t.Context(), task.RedisConfig{URL: "redis://app:pw@" + server.Addr}, nil)
	require.ErrorContains(t, err, "maxmemory-policy noeviction")
}

func TestARedisThatComesLateIsCheckedThen(t *testing.T) {
	server := testkit.Redis(t, testkit.WithSetting("maxmemory-policy", "allkeys-lru"))
	server.Stop()
	r := connect(t, server.URL)
	require.True(t, eval.IsKind(r.Ready(t.Context()), eval.KindUnavailable))
	queue := task.NewQueue(r)
	require.True(t, eval.IsKind(queue.Enqueue(t.Context(), dispatch("a")), eval.KindUnavailable))
	server.Start()
	testkit.Eventually(t, func() bool {
		err := r.Ready(t.Context())
		return err != nil && strings.Contains(err.Error(), "noeviction")
	}, "readiness says what to set")
	require.Error(t, queue.Enqueue(t.Context(), dispatch("a")))
	require.NoError(t, r.Client().ConfigSet(t.Context(), "maxmemory-policy", "noeviction").Err())
	testkit.Eventually(t, func() bool { return r.Ready(t.Context()) == nil }, "it is used once it is set")
	require.NoError(t, queue.Enqueue(t.Context(), dispatch("a")))
}

func TestAWrongURLIsRefusedWithoutItsPassword(t *testing.T) {
	for _, url := range []string{"http://u:secret@host", "redis://u:secret@host:port/0", "redis://u:secret@h/zero"} {
		_, err := task.Open(t.Context(), task.RedisConfig{URL: url}, nil)
		require.True(t, eval.IsKind(err, eval.KindInvalid), "%s: %v", url, err)
		require.NotContains(t, err.Error(), "secret")
	}
}

func TestALostQueueIsNoticed(t *testing.T) {
	lost := func(t *testing.T, r *task.Redis) bool {
		t.Helper()
		l, err := r.Lost(context.Background())
		require.NoError(t, err)
		return l
	}
	onBoth(t, func(t *testing.T, r *task.Redis) {
		require.True(t, lost(t, r), "a Redis that nobody has seen")
		require.NoError(t, r.Found(t.Context()))
		require.False(t, lost(t, r))
		require.NoError(t, r.Client().FlushAll(t.Context()).Err())
		require.True(t, lost(t, r))
		require.NoError(t, r.Found(t.Context()))
		require.False(t, lost(t, r))
	})
	t.Run("another Redis took over with an old copy", func(t *testing.T) {
		server := testkit.Redis(t, testkit.WithAOF())
		r := connect(t, server.URL)
		require.NoError(t, r.Found(t.Context()))
		server.Stop()
		server.Start()
		testkit.Eventually(t, func() bool { return r.Ready(t.Context()) == nil }, "Redis is back")
		require.NotZero(t, r.Client().Exists(t.Context(), "crucible:epoch").Val())
		require.True(t, lost(t, r))
	})
}

func TestBrokenEntriesAreRemoved(t *testing.T) {
	onBoth(t, func(t *testing.T, r *task.Redis) {
		ctx, client := t.Context(), r.Client()
		require.NoError(t, task.NewQueue(r).Enqueue(ctx, dispatch("whole")))
		for _, list := range []string{"pending", "active"} {
			require.NoError(t, client.LPush(ctx, "asynq:{default}:"+list, "no-task-"+list).Err())
		}
		for _, set := range []string{"scheduled", "retry", "archived", "completed"} {
			require.NoError(t, client.ZAdd(ctx, "asynq:{default}:"+set, redis.Z{Score: 1, Member: "no-task"}).Err())
		}
		// Taken by a worker long ago, and never given back.
		require.NoError(t, client.LPush(ctx, "asynq:{default}:active", "stuck").Err())
		require.NoError(t, client.ZAdd(ctx, "asynq:{default}:lease", redis.Z{Score: float64(time.Now().Add(-time.Hour).Unix()), Member: "stuck"}).Err())
		require.NoError(t, client.HSet(ctx, "asynq:{default}:t:stuck", "msg", "not a message", "state", "active").Err())

		require.NoError(t, r.Heal(ctx))
		i := info(t, r)
		require.Equal(t, task.QueueInfo{Name: "default", Weight: 3, Pending: 1}, i)
		require.Zero(t, client.Exists(ctx, "asynq:{default}:t:stuck", "asynq:{default}:lease").Val())
		require.Equal(t, dispatch("whole"), <-receive(t, r))
	})
}

func TestTheEmbeddedRedisForgetsInTime(t *testing.T) {
	r := connect(t, "")
	require.True(t, r.Embedded())
	require.NoError(t, r.Client().Set(t.Context(), "k", "v", 500*time.Millisecond).Err())
	testkit.Eventually(t, func() bool { return r.Client().Exists(t.Context(), "k").Val() == 0 }, "the key has expired")
}

func TestTheEmbeddedRedisIsForThisProcessOnly(t *testing.T) {
	r := connect(t, "")
	other, err := task.Open(t.Context(), task.RedisConfig{URL: "redis://" + r.Addr()}, nil)
	if err == nil {
		defer func() { require.NoError(t, other.Close()) }()
		err = other.Client().Set(t.Context(), "k", "v", 0).Err()
	}
	require.ErrorContains(t, err, "NOAUTH")
}

func TestQueuesArePausedAndResumed(t *testing.T) {
	onBoth(t, func(t *testing.T, r *task.Redis) {
		inspector, queue, got := task.NewInspector(r), task.NewQueue(r), receive(t, r)
		require.NoError(t, inspector.Pause(t.Context(), "default"))
		require.NoError(t, inspector.Pause(t.Context(), "default"), "twice is fine")
		require.True(t, info(t, r).Paused)
		require.NoError(t, queue.Enqueue(t.Context(), dispatch("a")))
		urgent := dispatch("b")
		urgent.Priority = eval.PriorityHigh
		require.NoError(t, queue.Enqueue(t.Context(), urgent))
		require.Equal(t, urgent, <-got, "the other queues go on")
		require.EqualValues(t, 1, info(t, r).Pending)
		require.NoError(t, inspector.Resume(t.Context(), "default"))
		require.NoError(t, inspector.Resume(t.Context(), "default"), "twice is fine")
		require.Equal(t, dispatch("a"), <-got)
		testkit.Eventually(t, func() bool { i := info(t, r); return i.Completed == 1 && i.ProcessedToday == 1 && i.Pending == 0 }, "the numbers move")
		require.True(t, eval.IsKind(inspector.Pause(t.Context(), "urgent"), eval.KindNotFound))
		require.True(t, eval.IsKind(inspector.Resume(t.Context(), "urgent"), eval.KindNotFound))
	})
}

func TestQueueDepthsAreMetrics(t *testing.T) {
	server := testkit.Redis(t)
	r := connect(t, server.URL)
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(task.NewInspector(r))
	require.NoError(t, task.NewQueue(r).Enqueue(t.Context(), dispatch("a")))
	values := func() map[string]float64 {
		families, err := registry.Gather()
		require.NoError(t, err)
		all := map[string]float64{}
		for _, f := range families {
			for _, m := range f.GetMetric() {
				name := []string{f.GetName()}
				for _, l := range m.GetLabel() {
					name = append(name, l.GetValue())
				}
				all[strings.Join(name, "/")] = m.GetGauge().GetValue()
			}
		}
		return all
	}
	require.EqualValues(t, 1, values()["crucible_queue_tasks/default/pending"])
	require.EqualValues(t, 1, values()["crucible_queue_up"])
	server.Stop()
	require.Equal(t, map[string]float64{"crucible_queue_up": 0}, values(), "no numbers rather than old ones")
}

func TestAMessageThatIsNotOursIsArchived(t *testing.T) {
	r := connect(t, "")
	got := receive(t, r)
	d := dispatch("") // no id: nobody could run it
	queue := task.NewQueue(r)
	require.NoError(t, queue.Enqueue(t.Context(), d))
	require.NoError(t, queue.Enqueue(t.Context(), dispatch("a")))
	require.Equal(t, dispatch("a"), <-got)
	testkit.Eventually(t, func() bool { return info(t, r).Archived == 1 }, "it is archived")
}

func TestAPanicInAHandlerIsTriedAgain(t *testing.T) {
	r := connect(t, "")
	calls := make(chan int, 10)
	n := 0
	serve(t, r, 1, func(context.Context, eval.Dispatch) (string, error) {
		n++
		calls <- n
		if n == 1 {
			panic("a bug")
		}
		return "", nil
	})
	require.NoError(t, task.NewQueue(r).Enqueue(t.Context(), dispatch("a")))
	require.Equal(t, 1, <-calls)
	require.Equal(t, 2, <-calls)
}
