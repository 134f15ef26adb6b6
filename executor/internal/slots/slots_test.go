package slots_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/crucible-eval/crucible/executor/internal/slots"
	"github.com/crucible-eval/crucible/pkg/eval"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func busy(s *slots.Slots) int { return s.Load().Busy }

func bytes(n int64) slots.Want { return slots.Want{Memory: n} }

func TestAFreedSlotGoesToWhoWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := slots.New(1, 0, time.Second)
		release, err := s.Take(t.Context(), bytes(0))
		require.NoError(t, err)
		got := make(chan func())
		go func() {
			next, err := s.Take(t.Context(), bytes(0))
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
		_, err := s.Take(t.Context(), bytes(0))
		require.NoError(t, err)
		began := time.Now()
		_, err = s.Take(t.Context(), bytes(0))
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
		_, err := s.Take(t.Context(), bytes(0))
		require.NoError(t, err)
		go func() { _, _ = s.Take(t.Context(), bytes(0)) }()
		synctest.Wait()
		began := time.Now()
		_, err = s.Take(t.Context(), bytes(0))
		require.Equal(t, eval.KindFull, eval.KindOf(err))
		require.Zero(t, time.Since(began))
		time.Sleep(2 * time.Second) // of the bubble: the one in line gives up
	})
}

func TestMemory(t *testing.T) {
	s := slots.New(4, 100, 0)
	first, err := s.Take(t.Context(), bytes(60))
	require.NoError(t, err)
	_, err = s.Take(t.Context(), bytes(60))
	require.Equal(t, eval.KindFull, eval.KindOf(err))
	second, err := s.Take(t.Context(), bytes(40))
	require.NoError(t, err)
	first()
	second()
	alone, err := s.Take(t.Context(), bytes(1000))
	require.NoError(t, err, "what needs more than there is runs alone")
	_, err = s.Take(t.Context(), bytes(1))
	require.Equal(t, eval.KindFull, eval.KindOf(err))
	alone()
}

func TestDrain(t *testing.T) {
	s := slots.New(2, 0, time.Hour)
	release, err := s.Take(t.Context(), bytes(0))
	require.NoError(t, err)
	idle := s.Drain()
	_, err = s.Take(t.Context(), bytes(0))
	require.Equal(t, eval.KindStopping, eval.KindOf(err))
	select {
	case <-idle:
		require.Fail(t, "a run is under way")
	default:
	}
	require.True(t, s.Load().Draining)
	release()
	<-idle
	<-s.Drain()
}

func TestWhoWaitsIsToldAtOnceThatTheExecutorStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := slots.New(1, 0, time.Hour)
		release, err := s.Take(t.Context(), bytes(0))
		require.NoError(t, err)
		told := make(chan error)
		go func() {
			_, err := s.Take(t.Context(), bytes(0))
			told <- err
		}()
		synctest.Wait()
		require.Equal(t, 1, s.Load().Waiting)
		began := time.Now()
		s.Drain()
		require.Equal(t, eval.KindStopping, eval.KindOf(<-told))
		require.Zero(t, time.Since(began))
		require.Zero(t, s.Load().Waiting)
		release()
	})
}

func TestALargeRunIsNotOvertaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := slots.New(3, 100, 100*time.Millisecond)
		small, err := s.Take(t.Context(), bytes(50))
		require.NoError(t, err)
		order := make(chan string, 2)
		var work sync.WaitGroup
		work.Go(func() {
			release, err := s.Take(t.Context(), bytes(95))
			require.NoError(t, err, "it waits ten times longer, because it needs most of the memory")
			order <- "large"
			time.Sleep(20 * time.Millisecond)
			release()
		})
		synctest.Wait()
		require.Nil(t, s.TryTake(bytes(10)), "somebody waits")
		time.Sleep(900 * time.Millisecond)
		work.Go(func() {
			release, err := s.Take(t.Context(), bytes(10))
			require.NoError(t, err)
			order <- "small"
			release()
		})
		synctest.Wait()
		small()
		work.Wait()
		require.Equal(t, "large", <-order)
		require.Equal(t, "small", <-order)
		extra := s.TryTake(bytes(10))
		require.NotNil(t, extra)
		extra()
	})
}

func TestALargeRunThatGivesUpLetsTheOthersIn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := slots.New(3, 100, time.Second)
		_, err := s.Take(t.Context(), bytes(50))
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		var work sync.WaitGroup
		work.Go(func() {
			_, err := s.Take(ctx, bytes(90))
			require.ErrorIs(t, err, context.Canceled)
		})
		synctest.Wait()
		work.Go(func() {
			_, err := s.Take(t.Context(), bytes(10))
			require.NoError(t, err)
		})
		synctest.Wait()
		require.Equal(t, 2, s.Load().Waiting)
		cancel()
		work.Wait()
		require.Equal(t, eval.Load{Slots: 3, Busy: 2, MemoryBytes: 100, ReservedBytes: 60}, s.Load())
	})
}

func exclusive(longest time.Duration) slots.Want {
	return slots.Want{Memory: 10, Longest: longest, Exclusive: true}
}

func TestAnExclusiveRunIsAloneAndIsNotOvertaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := slots.New(3, 100, 100*time.Millisecond)
		first, err := s.Take(t.Context(), slots.Want{Longest: 10 * time.Second})
		require.NoError(t, err)
		got := make(chan func())
		go func() {
			release, err := s.Take(t.Context(), exclusive(time.Second))
			require.NoError(t, err, "it waits for as long as the first may run")
			got <- release
		}()
		synctest.Wait()
		for range 5 { // nobody gets in before it, however many try
			require.Nil(t, s.TryTake(bytes(0)))
			_, err = s.Take(t.Context(), bytes(0))
			require.Equal(t, eval.KindFull, eval.KindOf(err))
			require.ErrorContains(t, err, "a run that must be alone waits")
		}
		time.Sleep(9 * time.Second)
		first()
		release := <-got
		require.Equal(t, 1, busy(s))
		_, err = s.Take(t.Context(), bytes(0))
		require.ErrorContains(t, err, "taken by a run that must be alone")
		require.Nil(t, s.TryTake(exclusive(time.Second)), "its own tests run one after the other")
		release()
		for range 3 {
			release, err := s.Take(t.Context(), bytes(0))
			require.NoError(t, err)
			defer release()
		}
	})
}

func TestAnExclusiveRunDoesNotStarveTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := slots.New(2, 0, 100*time.Millisecond)
		_, err := s.Take(t.Context(), slots.Want{Longest: time.Hour})
		require.NoError(t, err)
		began := time.Now()
		_, err = s.Take(t.Context(), exclusive(time.Second))
		require.Equal(t, eval.KindFull, eval.KindOf(err))
		require.ErrorContains(t, err, "1 others of this executor have not ended")
		require.Equal(t, time.Minute, time.Since(began), "a minute at most")
		e, _ := errors.AsType[*eval.Error](err)
		require.Positive(t, e.RetryAfter)
		release, err := s.Take(t.Context(), bytes(0))
		require.NoError(t, err, "until it comes again there is room for others")
		release()
	})
}

func TestTwoExclusiveRunsFollowEachOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := slots.New(4, 0, time.Second)
		var most, now atomic.Int64
		var work sync.WaitGroup
		for range 3 {
			work.Go(func() {
				release, err := s.Take(t.Context(), exclusive(5*time.Second))
				require.NoError(t, err)
				most.Store(max(most.Load(), now.Add(1)))
				time.Sleep(300 * time.Millisecond)
				now.Add(-1)
				release()
			})
		}
		work.Wait()
		require.EqualValues(t, 1, most.Load())
		require.Zero(t, busy(s))
	})
}

// TestRetryAfterComesFromWhatRuns refuses runs in known situations, on a
// clock that moves as the test says.
func TestRetryAfterComesFromWhatRuns(t *testing.T) {
	refused := func(t *testing.T, s *slots.Slots, want slots.Want) time.Duration {
		t.Helper()
		_, err := s.Take(t.Context(), want)
		e, ok := errors.AsType[*eval.Error](err)
		require.True(t, ok)
		require.Equal(t, eval.KindFull, e.Kind)
		return e.RetryAfter
	}
	take := func(t *testing.T, s *slots.Slots, want slots.Want) func() {
		t.Helper()
		release, err := s.Take(t.Context(), want)
		require.NoError(t, err)
		return release
	}
	const second = time.Second
	synctest.Test(t, func(t *testing.T) {
		s := slots.New(2, 100, 0)
		take(t, s, slots.Want{Memory: 10, Longest: 300 * time.Millisecond})
		take(t, s, slots.Want{Memory: 10, Longest: 90 * second})
		require.Equal(t, 300*time.Millisecond, refused(t, s, bytes(1)), "the first has to end by its limit")
		time.Sleep(250 * time.Millisecond)
		require.Equal(t, 50*time.Millisecond, refused(t, s, bytes(1)))
		require.Equal(t, 750*time.Millisecond, refused(t, s, bytes(95)), "it needs the memory of both; nothing has ended yet, and a second is the guess")
	})
	synctest.Test(t, func(t *testing.T) {
		s := slots.New(1, 0, 0)
		release := take(t, s, slots.Want{Longest: 300 * second})
		require.Equal(t, second, refused(t, s, bytes(0)))
		time.Sleep(20 * second)
		require.Equal(t, 20*second, refused(t, s, bytes(0)), "what is old grows older")
		time.Sleep(200 * second)
		require.Equal(t, 60*second, refused(t, s, bytes(0)), "a minute at most")
		release()
		for range 40 {
			release := take(t, s, bytes(0))
			time.Sleep(4 * second)
			release()
		}
		take(t, s, bytes(0))
		require.InDelta(t, 4*second, refused(t, s, bytes(0)), float64(second), "it has learned what is typical")
	})
	synctest.Test(t, func(t *testing.T) {
		s := slots.New(1, 0, time.Minute)
		take(t, s, bytes(0))
		ctx, cancel := context.WithCancel(t.Context())
		var work sync.WaitGroup
		work.Go(func() { _, _ = s.Take(ctx, bytes(0)) })
		synctest.Wait()
		require.Equal(t, 2*second, refused(t, s, bytes(0)), "the line is full; one is under way, and one before this")
		cancel()
		work.Wait()
	})
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
					want := bytes(int64(rand.IntN(600)))
					want.Exclusive = rand.IntN(10) == 0
					release, err := s.Take(ctx, want)
					if n := busy(s); n > total {
						t.Errorf("%d of %d slots are taken", n, total)
					}
					if err == nil && want.Exclusive && busy(s) != 1 {
						t.Errorf("an exclusive run is one of %d", busy(s))
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
			_, err := s.Take(t.Context(), bytes(1))
			require.NoError(t, err)
		}
	})
}
