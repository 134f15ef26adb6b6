package slots_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/crucible-eval/crucible/executor/internal/slots"
	"github.com/crucible-eval/crucible/pkg/eval"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func busy(s *slots.Slots) int { _, n, _ := s.State(); return n }

func TestAFreedSlotGoesToWhoWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := slots.New(1, 0, time.Second)
		release, err := s.Take(t.Context(), 0)
		require.NoError(t, err)
		got := make(chan func())
		go func() {
			next, err := s.Take(t.Context(), 0)
			require.NoError(t, err)
			got <- next
		}()
		synctest.Wait()
		release()
		release() // twice is fine
		next := <-got
		require.Equal(t, 1, busy(s))
		next()
		require.Zero(t, busy(s))
	})
}

func TestFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := slots.New(1, 0, 100*time.Millisecond)
		_, err := s.Take(t.Context(), 0)
		require.NoError(t, err)
		began := time.Now()
		_, err = s.Take(t.Context(), 0)
		require.Equal(t, 100*time.Millisecond, time.Since(began))
		require.Equal(t, eval.KindFull, eval.KindOf(err))
		e, ok := errors.AsType[*eval.Error](err)
		require.True(t, ok)
		require.Positive(t, e.RetryAfter)
	})
}

func TestTheLineIsShort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := slots.New(1, 0, time.Second)
		_, err := s.Take(t.Context(), 0)
		require.NoError(t, err)
		go func() { _, _ = s.Take(t.Context(), 0) }()
		synctest.Wait()
		began := time.Now()
		_, err = s.Take(t.Context(), 0)
		require.Equal(t, eval.KindFull, eval.KindOf(err))
		require.Zero(t, time.Since(began))
		time.Sleep(2 * time.Second) // of the bubble: the one in line gives up
	})
}

func TestMemory(t *testing.T) {
	s := slots.New(4, 100, 0)
	first, err := s.Take(t.Context(), 60)
	require.NoError(t, err)
	_, err = s.Take(t.Context(), 60)
	require.Equal(t, eval.KindFull, eval.KindOf(err))
	second, err := s.Take(t.Context(), 40)
	require.NoError(t, err)
	first()
	second()
	alone, err := s.Take(t.Context(), 1000)
	require.NoError(t, err, "what needs more than there is runs alone")
	_, err = s.Take(t.Context(), 1)
	require.Equal(t, eval.KindFull, eval.KindOf(err))
	alone()
}

func TestDrain(t *testing.T) {
	s := slots.New(2, 0, time.Hour)
	release, err := s.Take(t.Context(), 0)
	require.NoError(t, err)
	idle := s.Drain()
	_, err = s.Take(t.Context(), 0)
	require.Equal(t, eval.KindStopping, eval.KindOf(err))
	select {
	case <-idle:
		require.Fail(t, "a run is under way")
	default:
	}
	release()
	<-idle
	<-s.Drain()
}

func TestSlotsAreExactWhateverHappens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const total = 3
		s := slots.New(total, 1000, 5*time.Millisecond)
		var work sync.WaitGroup
		for range 50 {
			work.Go(func() {
				for range 100 {
					ctx, cancel := context.WithTimeout(t.Context(), time.Duration(rand.IntN(8))*time.Millisecond)
					release, err := s.Take(ctx, int64(rand.IntN(600)))
					if n := busy(s); n > total {
						t.Errorf("%d of %d slots are taken", n, total)
					}
					if err == nil {
						time.Sleep(time.Duration(rand.IntN(4)) * time.Millisecond)
						release()
					}
					cancel()
				}
			})
		}
		work.Wait()
		require.Zero(t, busy(s))
		for range total {
			_, err := s.Take(t.Context(), 1)
			require.NoError(t, err)
		}
	})
}
