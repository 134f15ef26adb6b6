package cache_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/pkg/cache"
	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/eval/evaltest"
	"github.com/crucible-eval/crucible/pkg/memory"
	"github.com/crucible-eval/crucible/pkg/testkit"
)

// promising is a store that keeps what has ended for a while, and counts who asks.
type promising struct {
	*memory.Store
	now   func() time.Time
	kept  eval.Retention
	asked atomic.Int64
}

func (p *promising) GetKept(ctx context.Context, key eval.Key) (eval.Evaluation, time.Duration, error) {
	p.asked.Add(1)
	e, err := p.Store.Get(ctx, key)
	return e, p.kept.Kept(e, p.now()), err
}

func (p *promising) Attempts(ctx context.Context, key eval.Key) ([]eval.Attempt, error) {
	p.asked.Add(1)
	return p.Store.Attempts(ctx, key)
}

func (p *promising) Events(ctx context.Context, key eval.Key, after int64, limit int) ([]eval.Event, error) {
	p.asked.Add(1)
	return p.Store.Events(ctx, key, after, limit)
}

func newPromising(now func() time.Time, kept eval.Retention) *promising {
	return &promising{Store: memory.NewStore(memory.Options{Now: now}), now: now, kept: kept}
}

func cached(t testing.TB, store eval.Store, o cache.Options) eval.Store {
	t.Helper()
	s, err := cache.New(store, o)
	require.NoError(t, err)
	return s
}

func TestStore(t *testing.T) {
	evaltest.TestStore(t, func(t *testing.T, now func() time.Time) eval.Store {
		return cached(t, newPromising(now, eval.Retention{}), cache.Options{})
	})
}

func TestAStoreThatPromisesNothingIsPassedThrough(t *testing.T) {
	store := memory.NewStore(memory.Options{})
	require.Same(t, store, cached(t, store, cache.Options{}))
}

func key(n int) eval.Key {
	return eval.Key{Project: eval.DefaultProject, ID: eval.ID(fmt.Sprint(n))}
}

// ended makes an evaluation that was cancelled while it ran.
func ended(t testing.TB, s eval.Store, n, size int) {
	t.Helper()
	_, _, err := s.Create(t.Context(), eval.Submission{Evaluations: []eval.Evaluation{
		{Key: key(n), Spec: eval.Spec{Program: eval.Program{Language: "c", Code: make([]byte, size)}}}}})
	require.NoError(t, err)
	_, err = s.Claim(t.Context(), eval.ClaimRequest{Key: key(n), Worker: "w", Lease: time.Minute})
	require.NoError(t, err)
	_, err = s.Cancel(t.Context(), key(n), "")
	require.NoError(t, err)
	_, err = s.Finish(t.Context(), eval.Lease{Key: key(n), Attempt: 1}, eval.Outcome{Cancelled: true})
	require.NoError(t, err)
}

func get(t testing.TB, s eval.Store, n int) eval.Evaluation {
	t.Helper()
	e, err := s.Get(t.Context(), key(n))
	require.NoError(t, err)
	return e
}

func TestWhatHasEndedIsAskedForOnce(t *testing.T) {
	reg := prometheus.NewRegistry()
	store := newPromising(time.Now, eval.Retention{})
	s := cached(t, store, cache.Options{Registry: reg})
	_, _, err := s.Create(t.Context(), eval.Submission{Evaluations: []eval.Evaluation{{Key: key(0)}}})
	require.NoError(t, err)
	for range 2 {
		require.Equal(t, eval.Queued, get(t, s, 0).Status)
	}
	require.EqualValues(t, 2, store.asked.Swap(0), "it may change")

	ended(t, s, 1, 10)
	first := get(t, s, 1)
	attempts, err := s.Attempts(t.Context(), key(1))
	require.NoError(t, err)
	events, err := s.Events(t.Context(), key(1), 0, 100)
	require.NoError(t, err)
	require.EqualValues(t, 3, store.asked.Swap(0))
	for range 3 {
		again := get(t, s, 1)
		require.Equal(t, first, again)
		again.Spec.Code[0]++ // the caller's own
		got, err := s.Attempts(t.Context(), key(1))
		require.NoError(t, err)
		require.Equal(t, attempts, got)
		for after := range 5 {
			for limit := range 5 {
				want, err := store.Store.Events(t.Context(), key(1), int64(after), limit)
				require.NoError(t, err)
				got, err := s.Events(t.Context(), key(1), int64(after), limit)
				require.NoError(t, err)
				require.ElementsMatch(t, want, got)
			}
		}
	}
	require.Len(t, events, 4)
	require.Zero(t, store.asked.Load())
	require.InDelta(t, 1, testkit.Metric(t, reg, "crucible_cache_misses_total"), 0)
	require.InDelta(t, 3+3+75, testkit.Metric(t, reg, "crucible_cache_hits_total"), 0)
	require.InDelta(t, 1, testkit.Metric(t, reg, "crucible_cache_evaluations"), 0)
}

func TestTheCacheIsBounded(t *testing.T) {
	reg := prometheus.NewRegistry()
	store := newPromising(time.Now, eval.Retention{})
	const most = 200_000
	s := cached(t, store, cache.Options{MaxEvaluations: 20, MaxBytes: most, Registry: reg})
	for n := range 60 {
		ended(t, s, n, 100+1000*(n%30))
		get(t, s, n)
		require.LessOrEqual(t, testkit.Metric(t, reg, "crucible_cache_evaluations"), 20.0)
		require.LessOrEqual(t, testkit.Metric(t, reg, "crucible_cache_bytes"), float64(most))
	}
	require.Greater(t, testkit.Metric(t, reg, "crucible_cache_bytes"), float64(most)/2)
	store.asked.Store(0)
	get(t, s, 50)
	require.Zero(t, store.asked.Load(), "the newest stay")
	get(t, s, 0)
	require.EqualValues(t, 1, store.asked.Load(), "the oldest go")
	ended(t, s, 100, most/4)
	get(t, s, 100)
	get(t, s, 100)
	require.EqualValues(t, 3, store.asked.Load(), "what is large is not worth the others")
}

// Nothing is shown that a sweep could have removed, in whatever process.
func TestNothingIsShownThatIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newPromising(time.Now, eval.Retention{Ended: time.Hour})
		one, other := cached(t, store, cache.Options{}), cached(t, store, cache.Options{})
		ended(t, one, 1, 10)
		for range 65 * 10 {
			_, there := store.Store.Get(t.Context(), key(1))
			for _, s := range []eval.Store{one, other} {
				_, err := s.Get(t.Context(), key(1))
				require.Equal(t, eval.KindOf(there), eval.KindOf(err))
				attempts, err := s.Attempts(t.Context(), key(1))
				require.NoError(t, err)
				require.Equal(t, there == nil, len(attempts) == 1)
				events, err := s.Events(t.Context(), key(1), 0, 100)
				require.NoError(t, err)
				require.Equal(t, there == nil, len(events) == 4)
			}
			time.Sleep(6 * time.Second)
			if _, err := store.Sweep(t.Context(), store.kept, 100); err != nil {
				require.NoError(t, err)
			}
		}
		require.Less(t, store.asked.Load(), int64(2*3*65+2*3*50+100), "about once a minute while it was there")
		_, err := one.Get(t.Context(), key(1))
		require.Equal(t, eval.KindNotFound, eval.KindOf(err))
	})
}
