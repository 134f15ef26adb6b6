package worker_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/task"
	"github.com/crucible-eval/crucible/pkg/testkit"
	"github.com/crucible-eval/crucible/worker"
)

// suspect makes an evaluation whose worker has vanished once, and waits to be dispatched.
func (r *rig) suspect(language string) eval.Evaluation {
	r.t.Helper()
	ctx := context.Background()
	e := r.create(language)
	_, err := r.store.Claim(ctx, eval.ClaimRequest{Key: e.Key, Worker: "dead", Lease: time.Microsecond})
	require.NoError(r.t, err)
	testkit.Eventually(r.t, func() bool {
		_, err := r.store.Reap(ctx, 10)
		require.NoError(r.t, err)
		e = r.get(e.Key)
		return e.Status == eval.Queued
	}, "its lease has run out")
	require.True(r.t, e.Suspect())
	require.NoError(r.t, r.queue.Enqueue(ctx, e.Dispatch()))
	return e
}

// company watches how many runs are under way at an executor, and which of them were not alone.
type company struct {
	now    atomic.Int64
	beside atomic.Int64 // exclusive runs that were not alone, or that others began beside
	alone  atomic.Bool
}

// watched is the role, and counted.
func (c *company) watched(play role) role {
	return func(ctx context.Context, req eval.Request, sink func(eval.RunEvent)) (eval.Result, error) {
		c.enter(req)
		defer c.leave(req)
		return play(ctx, req, sink)
	}
}

func (c *company) enter(req eval.Request) {
	n := c.now.Add(1)
	if n > 1 && (req.Exclusive || c.alone.Load()) {
		c.beside.Add(1)
	}
	if req.Exclusive {
		c.alone.Store(true)
	}
}

func (c *company) leave(req eval.Request) {
	if req.Exclusive {
		c.alone.Store(false)
	}
	c.now.Add(-1)
}

func TestASuspectRunsAlone(t *testing.T) {
	onBoth(t, func(t *testing.T, r *rig) {
		busy := newEndless()
		var c company
		r.script.plays("endless", c.watched(busy.run))
		r.script.plays("job", c.watched(prints("fine\n")))
		r.worker(worker.Config{Concurrency: 3, Lease: time.Minute}, nil)
		first, second := r.submit("endless"), r.submit("endless")
		receive(t, busy.begun)
		receive(t, busy.begun)
		suspects := []eval.Evaluation{r.suspect("job"), r.suspect("job")} // two must not wait for each other
		var others []eval.Evaluation
		for range 20 {
			others = append(others, r.submit("job"))
		}
		for _, e := range suspects {
			require.Zero(t, r.script.runs(e.ID), "others still run")
		}
		for _, e := range []eval.Evaluation{first, second} {
			_, err := r.store.Cancel(context.Background(), e.Key, "make room")
			require.NoError(t, err)
		}
		for _, e := range append(suspects, others...) {
			require.Equal(t, eval.Completed, r.ended(e.Key).Status)
			require.Equal(t, 1, r.script.runs(e.ID))
		}
		for _, e := range suspects {
			attempts, err := r.store.Attempts(context.Background(), e.Key)
			require.NoError(t, err)
			require.Len(t, attempts, 2)
			require.True(t, attempts[1].Alone)
		}
		require.Zero(t, c.beside.Load())
	})
}

func TestAStopDoesNotWaitForASuspectInLine(t *testing.T) {
	onBoth(t, func(t *testing.T, r *rig) {
		busy := newEndless()
		r.script.plays("endless", busy.run)
		w := r.worker(worker.Config{Concurrency: 2, Lease: time.Minute, Drain: time.Millisecond}, nil)
		r.submit("endless")
		receive(t, busy.begun)
		e := r.suspect("hello")
		testkit.Eventually(t, func() bool {
			queues, err := task.NewInspector(r.redis).Queues(context.Background())
			require.NoError(t, err)
			active := int64(0)
			for _, q := range queues {
				active += q.Active
			}
			return active == 2
		}, "the worker has the suspect in hand")
		began := time.Now()
		require.NoError(t, w.Stop(context.Background()))
		require.Less(t, time.Since(began), 20*time.Second)
		got := r.get(e.Key)
		require.Equal(t, eval.Queued, got.Status)
		require.Equal(t, 1, got.Attempt, "it was not claimed")

		r.script.plays("endless", prints("fine\n"))
		r.worker(worker.Config{}, nil)
		require.Equal(t, eval.Completed, r.ended(e.Key).Status)
	})
}

// TestWhatTakesItsWorkerDownEndsAsPoison has a worker die each time it runs a certain program: the store is gone for it,
// and nobody ever hears of it again. Others' evaluations, which it had in hand, are lost once and then complete.
func TestWhatTakesItsWorkerDownEndsAsPoison(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		var victim atomic.Pointer[faulty] // the store as the present worker sees it
		died := make(chan struct{}, 10)
		r.script.plays("poison", func(ctx context.Context, _ eval.Request, _ func(eval.RunEvent)) (eval.Result, error) {
			victim.Load().allDown.Store(true)
			died <- struct{}{}
			<-ctx.Done()
			return eval.Result{}, context.Cause(ctx)
		})
		r.script.plays("job", func(ctx context.Context, _ eval.Request, _ func(eval.RunEvent)) (eval.Result, error) {
			select {
			case <-ctx.Done():
				return eval.Result{}, context.Cause(ctx)
			case <-time.After(5 * time.Second):
				return result("done\n"), nil
			}
		})
		n := 0
		start := func() {
			n++
			store := &faulty{Store: r.store}
			victim.Store(store)
			r.worker(worker.Config{Name: fmt.Sprint("w", n), Concurrency: 4, CheckInterval: 100 * time.Millisecond, Lease: 15 * time.Second, Reconcile: 250 * time.Millisecond}, store)
		}
		start()
		r.settled()
		var jobs []eval.Evaluation
		for range 3 {
			jobs = append(jobs, r.submit("job"))
		}
		for _, e := range jobs { // in hand when the worker dies
			for r.get(e.Key).Status != eval.Running {
				<-time.After(100 * time.Millisecond)
			}
		}
		poison := r.submit("poison")
		rules := eval.DefaultRules()
		for range rules.PoisonAfter + 1 { // the first loss is nobody's fault: others ran beside it
			<-died
			start()
		}
		for _, e := range jobs {
			e = r.wait(e.Key, 5*time.Minute)
			require.Equal(t, eval.Completed, e.Status, "%+v", e.Failure)
			require.Equal(t, 1, e.Lost)
			require.Zero(t, e.Tries, "a lost worker is no try")
			require.Equal(t, "done\n", string(e.Result.Stdout.Data))
		}
		e := r.wait(poison.Key, 5*time.Minute)
		require.Equal(t, eval.Failed, e.Status)
		require.Equal(t, eval.KindPoison, e.Failure.Kind)
		require.Equal(t, rules.PoisonAfter+1, e.Attempt)
		require.Equal(t, rules.PoisonAfter, e.LostAlone)
		require.Zero(t, e.Tries)
	})
}

// TestWhatTakesItsExecutorDownEndsAsPoison is the same with an executor whose connection is cut in the middle of a run.
func TestWhatTakesItsExecutorDownEndsAsPoison(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		lost := make(chan struct{}, 10) // closes over all that runs at the executor
		r.script.plays("poison", func(context.Context, eval.Request, func(eval.RunEvent)) (eval.Result, error) {
			for range 3 {
				select {
				case lost <- struct{}{}:
				default:
				}
			}
			return eval.Result{}, eval.Errorf(eval.KindExecutorLost, "executor x vanished in the middle of the run")
		})
		r.script.plays("job", func(ctx context.Context, req eval.Request, _ func(eval.RunEvent)) (eval.Result, error) {
			if req.Exclusive {
				return result("done\n"), nil
			}
			<-lost
			return eval.Result{}, eval.Errorf(eval.KindExecutorLost, "executor x vanished in the middle of the run")
		})
		r.worker(worker.Config{Concurrency: 4, CheckInterval: 100 * time.Millisecond, Lease: 15 * time.Second, Reconcile: 250 * time.Millisecond}, nil)
		r.settled()
		jobs := []eval.Evaluation{r.submit("job"), r.submit("job"), r.submit("job")}
		for _, e := range jobs {
			for r.get(e.Key).Status != eval.Running {
				<-time.After(100 * time.Millisecond)
			}
		}
		poison := r.submit("poison")
		for _, e := range jobs {
			e = r.wait(e.Key, 5*time.Minute)
			require.Equal(t, eval.Completed, e.Status)
			require.Equal(t, 1, e.Tries, "it counts as a try")
			require.Equal(t, 1, e.Lost, "and as a loss")
		}
		e := r.wait(poison.Key, 5*time.Minute)
		require.Equal(t, eval.Failed, e.Status)
		require.Equal(t, eval.KindPoison, e.Failure.Kind)
		require.Equal(t, 4, e.Attempt)
		require.Equal(t, 3, e.LostAlone)
		attempts, err := r.store.Attempts(context.Background(), e.Key)
		require.NoError(t, err)
		for i, a := range attempts {
			require.Equal(t, i > 0, a.Alone)
			require.True(t, a.Counted)
		}
	})
}

func TestAFinishWhoseAnswerWasLostIsNotAnother(t *testing.T) {
	r := newRig(t, task.RedisConfig{})
	store := &faulty{Store: r.store}
	store.finishMute.Store(true)
	w := r.worker(worker.Config{Lease: time.Minute}, store)
	e := r.ended(r.submit("hello").Key)
	require.Equal(t, eval.Completed, e.Status)
	testkit.Eventually(t, func() bool { return w.metric("crucible_worker_attempts_total") == 1 }, "the worker has its answer")
	require.Zero(t, w.metric("crucible_worker_dropped_results_total"))
	require.EqualValues(t, 3, r.get(e.Key).EventSeq, "queued, running, completed")
	require.Equal(t, 1, r.script.runs(e.ID))
}
