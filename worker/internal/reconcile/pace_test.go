package reconcile_test

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/memory"
	"github.com/crucible-eval/crucible/worker/internal/reconcile"
)

// around is what a reconciler has around it besides the store: a Redis that is well, and a worker that takes what comes.
type around struct {
	eval.Scheduler
	mu     sync.Mutex
	asked  int // how often the store was asked who is next
	window int // as it was told last
	queue  []eval.Dispatch
	others []eval.WorkerInfo
}

func (*around) Lost(context.Context) (bool, error) { return false, nil }
func (*around) Found(context.Context) error        { return nil }
func (*around) Heal(context.Context) error         { return nil }

func (a *around) Workers(context.Context) ([]eval.WorkerInfo, error) { return a.others, nil }

func (a *around) Due(ctx context.Context, r eval.DueRequest) ([]eval.Dispatch, error) {
	a.mu.Lock()
	a.asked++
	a.window = r.Window
	a.mu.Unlock()
	return a.Scheduler.Due(ctx, r)
}

func (a *around) EnqueueAll(_ context.Context, all []eval.Dispatch) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.queue = append(a.queue, all...)
	return nil
}

func (a *around) next() (d eval.Dispatch, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.queue) == 0 {
		return d, false
	}
	d, a.queue = a.queue[0], a.queue[1:]
	return d, true
}

func (a *around) told() (asked, window int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	asked, a.asked = a.asked, 0
	return asked, a.window
}

func TestTheQueueIsFedAtTheWorkersPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := memory.NewStore(memory.Options{})
		a := &around{Scheduler: store, others: []eval.WorkerInfo{{ID: "me", Slots: 4}, {ID: "other", Slots: 4}, {ID: "gone", Slots: 50, Lost: true}}}
		r := reconcile.New(
			reconcile.Config{Every: 250 * time.Millisecond, Again: time.Hour, Worker: "me", Slots: 4, Window: 8},
			reconcile.Deps{Store: a, Queue: a, Redis: a, Roster: a, Logger: slog.New(slog.DiscardHandler), Registry: prometheus.NewRegistry()})
		ctx, stop := context.WithCancel(t.Context())
		var loop sync.WaitGroup
		loop.Go(func() { _ = r.Run(ctx) })
		defer loop.Wait()
		defer stop()

		time.Sleep(10 * time.Second)
		asked, window := a.told()
		require.InDelta(t, 40, asked, 10, "an idle worker asks four times a second")
		require.Equal(t, 16, window, "two for each slot of those alive")

		// Claims without a backlog ask little more.
		for range 1000 {
			r.Claimed()
			time.Sleep(time.Millisecond)
		}
		asked, window = a.told()
		require.Less(t, asked, 60, "at most one question in 20 ms, and the rounds")
		require.InDelta(t, 500, window, 60, "two workers take 1,000 a second each")
		time.Sleep(5 * time.Second)
		_, window = a.told()
		require.Equal(t, 16, window, "a pace that falls is followed")

		// With a backlog, a worker that takes one each millisecond never waits for a round.
		for i := range 2 {
			var sub eval.Submission
			for j := range 1000 {
				sub.Evaluations = append(sub.Evaluations, eval.Evaluation{Key: eval.Key{Project: "p", ID: eval.ID(fmt.Sprintf("%d-%04d", i, j))}})
			}
			created, _, err := store.Create(ctx, sub)
			require.NoError(t, err)
			for _, e := range created {
				if e.Dispatched() {
					require.NoError(t, a.EnqueueAll(ctx, []eval.Dispatch{e.Dispatch()}))
				}
			}
		}
		began, empty := time.Now(), 0
		for taken := 0; taken < 2000; time.Sleep(time.Millisecond) {
			d, ok := a.next()
			if !ok {
				empty++
				continue
			}
			_, err := store.Claim(ctx, eval.ClaimRequest{Key: d.Key, Seq: d.Seq, Worker: "me", Lease: time.Hour})
			require.NoError(t, err)
			r.Claimed()
			taken++
		}
		t.Logf("2,000 taken in %v; the queue was empty %d times", time.Since(began), empty)
		require.Less(t, empty, 50, "found empty while a backlog waited")
	})
}
