package live_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/api/internal/live"
	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/memory"
)

// counted is a store that counts how often its feed is read.
type counted struct {
	eval.Store
	feeds atomic.Int64
}

func (c *counted) Feed(ctx context.Context, project string, after int64, limit int) ([]eval.Event, error) {
	c.feeds.Add(1)
	return c.Store.Feed(ctx, project, after, limit)
}

func hub(t *testing.T) (*live.Hub, *counted) {
	t.Helper()
	store := &counted{Store: memory.NewStore(memory.Options{})}
	h := live.NewHub(store, nil, eval.DefaultProject, nil)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- h.Run(ctx) }()
	t.Cleanup(func() { cancel(); require.NoError(t, <-ended) })
	synctest.Wait()
	return h, store
}

func key(n int) eval.Key {
	return eval.Key{Project: eval.DefaultProject, ID: eval.ID(fmt.Sprintf("01890a5d-ac96-774b-bcce-%012d", n))}
}

func create(t *testing.T, s eval.Store, k eval.Key) {
	t.Helper()
	spec, _ := eval.DefaultPolicy().Validate(eval.Spec{Program: eval.Program{Language: "python", Code: eval.Bytes("1")}}, time.Now(), nil)
	_, _, err := s.Create(t.Context(), eval.Submission{Evaluations: []eval.Evaluation{{Key: k, Spec: spec}}})
	require.NoError(t, err)
}

func TestNobodyWaitsNobodyAsks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, store := hub(t)
		time.Sleep(time.Hour)
		synctest.Wait()
		require.Zero(t, store.feeds.Load())
	})
}

func TestWithoutNoticesAWaiterIsWokenWithinASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, store := hub(t)
		create(t, store, key(1))
		woken := make(chan time.Duration, 1)
		go func() {
			began := time.Now()
			e, err := h.Await(t.Context(), key(1), time.Hour, nil)
			if err == nil && e.Status.Terminal() {
				woken <- time.Since(began)
			}
		}()
		time.Sleep(10 * time.Minute)
		_, err := store.Cancel(t.Context(), key(1), "")
		require.NoError(t, err)
		require.LessOrEqual(t, <-woken, 10*time.Minute+time.Second)
	})
}

// A thousand waiters ask the store for their own evaluation now and then,
// but its feed is read once for all of them.
func TestManyWaitersShareOneFollower(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, store := hub(t)
		for n := range 1000 {
			create(t, store.Store, key(n))
			w := h.Wait(key(n))
			defer w.Close()
		}
		synctest.Wait()
		require.Equal(t, 1000, h.Waiters())
		time.Sleep(time.Minute)
		synctest.Wait()
		require.LessOrEqual(t, store.feeds.Load(), int64(125), "twice a second")
	})
}

func TestAwaitEndsWithItsLimitItsStopAndItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, store := hub(t)
		create(t, store, key(1))
		began := time.Now()
		e, err := h.Await(t.Context(), key(1), 3*time.Second, nil)
		require.NoError(t, err)
		require.Equal(t, eval.Queued, e.Status)
		require.Equal(t, 3*time.Second, time.Since(began))

		stop := make(chan struct{})
		close(stop)
		e, err = h.Await(t.Context(), key(1), time.Hour, stop)
		require.NoError(t, err)
		require.Equal(t, eval.Queued, e.Status)

		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err = h.Await(ctx, key(1), time.Hour, nil)
		require.ErrorIs(t, err, context.Canceled)
		_, err = h.Await(t.Context(), key(2), time.Hour, nil)
		require.True(t, eval.IsKind(err, eval.KindNotFound))
		require.Zero(t, h.Waiters())
	})
}

// A reader of the feed sees each event once and in order, whether it comes
// from memory or, when the reader is far behind, from the store.
func TestAfterSkipsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, store := hub(t)
		w := h.WaitAll()
		defer w.Close()
		synctest.Wait()
		const n = 3000 // more than the hub remembers
		var cursor int64
		var seen []eval.ID
		read := func() {
			for {
				events, err := h.After(t.Context(), cursor, 100)
				require.NoError(t, err)
				for _, e := range events {
					require.Greater(t, e.Cursor, cursor)
					cursor = e.Cursor
					seen = append(seen, e.ID)
				}
				if len(events) < 100 {
					return
				}
			}
		}
		for i := range n {
			create(t, store, key(i))
			if i < 20 || i%700 == 0 {
				time.Sleep(time.Second)
				read()
			}
		}
		time.Sleep(time.Second)
		synctest.Wait()
		read()
		require.Len(t, seen, n)
		for i, id := range seen {
			require.Equal(t, key(i).ID, id)
		}
	})
}
