package task_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/hibiken/asynq"
	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/task"
	"github.com/crucible-eval/crucible/pkg/testkit"
)

func TestADispatchThatEndedIsHandedOutAgainWhenAskedFor(t *testing.T) {
	for name, ends := range map[string]error{
		"completed": nil,
		"archived":  &task.Failure{Err: errors.New("given up"), Final: true},
	} {
		t.Run(name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, r *task.Redis) {
				queue, got := task.NewQueue(r), make(chan int, 10)
				serve(t, r, 1, func(_ context.Context, d eval.Dispatch) (string, error) {
					got <- d.Seq
					return "", ends
				})
				require.NoError(t, queue.Enqueue(t.Context(), dispatch("a")))
				require.Equal(t, 1, <-got)
				testkit.Eventually(t, func() bool { i := info(t, r); return i.Active == 0 && i.Completed+i.Archived == 1 }, "the task has ended")
				require.NoError(t, queue.Enqueue(t.Context(), dispatch("a")))
				require.Equal(t, 1, <-got)
			})
		})
	}
}

func TestADispatchInADeadWorkersHandDoesNotBlockItsEvaluation(t *testing.T) {
	onBoth(t, func(t *testing.T, r *task.Redis) {
		queue := task.NewQueue(r)
		first, goOn := make(chan struct{}), make(chan struct{})
		second := make(chan eval.Dispatch, 1)
		serve(t, r, 2, func(_ context.Context, d eval.Dispatch) (string, error) {
			select {
			case <-first:
				second <- d
			default:
				close(first)
				<-goOn // as good as dead
			}
			return "", nil
		})
		defer close(goOn)
		require.NoError(t, queue.Enqueue(t.Context(), dispatch("a")))
		<-first
		began := time.Now()
		require.NoError(t, queue.Enqueue(t.Context(), dispatch("a")))
		require.Equal(t, dispatch("a"), <-second)
		require.Less(t, time.Since(began), 5*time.Second, "asynq by itself takes 108 s")
	})
}

func TestADispatchThatWaitsForItsRetryStartsWhenItIsDue(t *testing.T) {
	onBoth(t, func(t *testing.T, r *task.Redis) {
		queue, got := task.NewQueue(r), make(chan eval.Dispatch, 10)
		serve(t, r, 1, func(_ context.Context, d eval.Dispatch) (string, error) {
			got <- d
			return "", &task.Failure{Err: errors.New("store away"), Delay: time.Hour}
		})
		require.NoError(t, queue.Enqueue(t.Context(), dispatch("a")))
		<-got
		testkit.Eventually(t, func() bool { return info(t, r).Retry == 1 }, "it waits for its retry")
		require.NoError(t, queue.Enqueue(t.Context(), dispatch("a")))
		<-got
	})
}

// TestASuspectThatWaitsAtAWorkerIsNotDispatchedTwice has a worker hold the dispatch of an evaluation that must run
// alone: a second task would have another worker clear all its slots for it, too. When the first worker dies, which its
// lease in the queue tells, it is dispatched again.
func TestASuspectThatWaitsAtAWorkerIsNotDispatchedTwice(t *testing.T) {
	onBoth(t, func(t *testing.T, r *task.Redis) {
		queue, got, end := task.NewQueue(r), make(chan eval.Dispatch, 10), make(chan struct{})
		defer close(end)
		serve(t, r, 2, func(_ context.Context, d eval.Dispatch) (string, error) {
			got <- d
			<-end
			return "", nil
		})
		d := dispatch("a")
		d.Alone = true
		require.NoError(t, queue.Enqueue(t.Context(), d))
		require.Equal(t, d, <-got, "that it must be alone is told")
		require.NoError(t, queue.Enqueue(t.Context(), d))
		require.Zero(t, info(t, r).Pending)
		require.EqualValues(t, 1, info(t, r).Active)
		require.NoError(t, r.Client().Del(t.Context(), "asynq:{default}:lease").Err())
		require.NoError(t, queue.Enqueue(t.Context(), d))
		require.Equal(t, d, <-got)
	})
}

func TestRemainsOfATaskDoNotBlockItsEvaluation(t *testing.T) {
	onBoth(t, func(t *testing.T, r *task.Redis) {
		queue := task.NewQueue(r)
		later := dispatch("a")
		later.RunAt = time.Now().Add(time.Hour)
		require.NoError(t, queue.Enqueue(t.Context(), later))
		require.NoError(t, r.Client().Del(t.Context(), "asynq:{default}:scheduled").Err()) // as an eviction does
		require.NoError(t, queue.Enqueue(t.Context(), dispatch("a")))
		require.Equal(t, dispatch("a"), <-receive(t, r))
	})
}

func TestACancelWithTheQueuesOwnToolsIsTold(t *testing.T) {
	onBoth(t, func(t *testing.T, r *task.Redis) {
		queue, tools := task.NewQueue(r), asynq.NewInspectorFromRedisClient(r.Client())
		begun, goOn, asked := make(chan eval.Dispatch), make(chan struct{}), make(chan eval.Dispatch, 10)
		s := task.NewServer(r, task.ServerConfig{Concurrency: 2, Cancel: func(_ context.Context, d eval.Dispatch) { asked <- d }},
			func(_ context.Context, d eval.Dispatch) (string, error) {
				select {
				case begun <- d:
					<-goOn
				case <-goOn:
				}
				return "", nil
			}, nil)
		require.NoError(t, s.Start(t.Context()))
		t.Cleanup(func() { require.NoError(t, s.Stop(context.Background())) })
		defer close(goOn)
		d := dispatch("a")
		d.Seq, d.Priority = 3, eval.PriorityHigh
		require.NoError(t, queue.Enqueue(t.Context(), d))
		require.Equal(t, d, <-begun)
		require.NoError(t, tools.CancelProcessing("nobody:1"))
		testkit.Eventually(t, func() bool {
			require.NoError(t, tools.CancelProcessing("a:3")) // again, until the server listens
			return len(asked) > 0
		}, "the cancel is told")
		require.Equal(t, d, <-asked)
	})
}

func TestManyAreEnqueuedAtOnceWithoutDoubles(t *testing.T) {
	onBoth(t, func(t *testing.T, r *task.Redis) {
		queue := task.NewQueue(r)
		var all []eval.Dispatch
		for n := range 20 {
			all = append(all, dispatch(string(rune('a'+n))))
		}
		require.NoError(t, queue.EnqueueAll(t.Context(), all[:10]))
		require.NoError(t, queue.EnqueueAll(t.Context(), all))
		require.NoError(t, queue.EnqueueAll(t.Context(), nil))
		require.EqualValues(t, len(all), info(t, r).Pending)
		got := receive(t, r)
		for _, d := range all {
			require.Equal(t, d, <-got)
		}
	})
}

func TestUrgentWorkComesFirstAndNothingStarves(t *testing.T) {
	onBoth(t, func(t *testing.T, r *task.Redis) {
		queue := task.NewQueue(r)
		const each = 60
		for _, p := range eval.Priorities() {
			for n := range each {
				d := dispatch(string(p) + "-" + string(rune('A'+n)))
				d.Priority = p
				require.NoError(t, queue.Enqueue(t.Context(), d))
			}
		}
		got := receive(t, r)
		when, low, waiting := map[eval.Priority]int{}, 0, each
		for i := range 4 * each {
			d := <-got
			when[d.Priority] += i
			if d.Priority == eval.PriorityDefault {
				waiting--
			}
			if d.Priority == eval.PriorityLow && waiting > 0 {
				low++
			}
		}
		// asynq draws by weight, so that single ones change places: halves are seven standard deviations apart.
		require.Less(t, when[eval.PriorityCritical]+when[eval.PriorityHigh], when[eval.PriorityDefault]+when[eval.PriorityLow])
		require.Positive(t, low, "low work moves while there is more urgent work")
	})
}

func TestAnOutageDoesNotSlowThoseWhoSubmit(t *testing.T) {
	for name, hurt := range map[string]func(*testkit.RedisServer){
		"stopped": func(s *testkit.RedisServer) { s.Stop() },
		"frozen":  func(s *testkit.RedisServer) { s.Pause() },
	} {
		t.Run(name, func(t *testing.T) {
			server := testkit.Redis(t)
			r := connect(t, server.URL)
			queue := task.NewQueue(r)
			require.NoError(t, queue.Enqueue(t.Context(), dispatch("a")))
			hurt(server)
			began := time.Now()
			for range 200 {
				err := queue.Enqueue(t.Context(), dispatch("b"))
				require.True(t, eval.IsKind(err, eval.KindUnavailable), "%v", err)
			}
			require.Less(t, time.Since(began), 10*time.Second)
			server.Resume()
			server.Start()
			testkit.Eventually(t, func() bool { return queue.Enqueue(t.Context(), dispatch("b")) == nil }, "the queue is back")
			require.Equal(t, eval.ID("b"), lastOf(receive(t, r)).ID)
		})
	}
}

// lastOf takes until b comes; a is gone with a Redis that was stopped.
func lastOf(got <-chan eval.Dispatch) eval.Dispatch {
	d := <-got
	if d.ID == "a" {
		d = <-got
	}
	return d
}
