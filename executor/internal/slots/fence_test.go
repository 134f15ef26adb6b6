package slots_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/executor/internal/slots"
	"github.com/crucible-eval/crucible/pkg/eval"
)

func TestOnlyTheNewestAttemptRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := slots.NewFence()
		old, pass, err := f.Enter(t.Context(), "a", 1)
		require.NoError(t, err)
		_, _, err = f.Enter(t.Context(), "a", 1)
		require.Equal(t, eval.KindConflict, eval.KindOf(err), "it is running")

		entered := make(chan *slots.Pass)
		go func() {
			_, newer, err := f.Enter(t.Context(), "a", 2)
			require.NoError(t, err)
			entered <- newer
		}()
		<-old.Done()
		require.Equal(t, eval.KindConflict, eval.KindOf(context.Cause(old)))
		synctest.Wait() // the newer one waits for the older to be gone
		pass.Leave()
		newer := <-entered
		_, _, err = f.Enter(t.Context(), "a", 1)
		require.Equal(t, eval.KindConflict, eval.KindOf(err))
		newer.Leave()
		newer.Leave()
		_, again, err := f.Enter(t.Context(), "a", 2)
		require.NoError(t, err, "the same attempt, after it has ended")
		again.Leave()
	})
}

func TestStop(t *testing.T) {
	f := slots.NewFence()
	ctx, pass, err := f.Enter(t.Context(), "a", 3)
	require.NoError(t, err)
	require.Equal(t, eval.KindNotFound, eval.KindOf(f.Stop("b", 0)))
	require.Equal(t, eval.KindNotFound, eval.KindOf(f.Stop("a", 2)))
	require.NoError(t, ctx.Err())
	require.NoError(t, f.Stop("a", 3))
	require.ErrorIs(t, context.Cause(ctx), slots.ErrStopped)
	pass.Leave()
	require.Equal(t, eval.KindNotFound, eval.KindOf(f.Stop("a", 0)))
}

func TestARunWhoseCallerIsSilentEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := slots.NewFence()
		ctx, pass, err := f.Enter(t.Context(), "a", 2)
		require.NoError(t, err)
		pass.Watch(8 * time.Second)
		for range 10 {
			time.Sleep(9 * time.Second) // late, but within the quarter
			require.NoError(t, ctx.Err())
			require.NoError(t, f.Heard("a", 2))
		}
		require.Equal(t, eval.KindNotFound, eval.KindOf(f.Heard("a", 1)), "another attempt's caller says nothing about this one")
		began := time.Now()
		<-ctx.Done()
		require.Equal(t, 10*time.Second, time.Since(began))
		require.Equal(t, eval.KindUnavailable, eval.KindOf(context.Cause(ctx)))
		pass.Leave()
		require.Equal(t, eval.KindNotFound, eval.KindOf(f.Heard("a", 2)))
	})
}

func TestStopAll(t *testing.T) {
	f := slots.NewFence()
	ctx, pass, err := f.Enter(t.Context(), "a", 1)
	require.NoError(t, err)
	defer pass.Leave()
	why := eval.Errorf(eval.KindStopping, "bye")
	f.StopAll(why)
	require.ErrorIs(t, context.Cause(ctx), why)
}

func TestWhatWasSeenLongAgoIsForgotten(t *testing.T) {
	f := slots.NewFence()
	enter := func(id string, attempt int) error {
		_, pass, err := f.Enter(t.Context(), eval.ID(id), attempt)
		if err == nil {
			pass.Leave()
		}
		return err
	}
	require.NoError(t, enter("first", 5))
	require.Error(t, enter("first", 4))
	for i := range 20_000 {
		require.NoError(t, enter(fmt.Sprint(i), 1))
	}
	require.NoError(t, enter("first", 4), "its memory is bounded")
}

func TestARunIsListedFromItsSlotToItsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := slots.NewFence()
		require.Empty(t, f.Running())
		_, first, err := f.Enter(t.Context(), "a", 3)
		require.NoError(t, err)
		_, second, err := f.Enter(t.Context(), "b", 1)
		require.NoError(t, err)
		require.Empty(t, f.Running(), "they wait for slots")
		second.Begin("python")
		began := time.Now().UTC()
		time.Sleep(time.Second)
		first.Begin("go")
		require.Equal(t, []eval.RunningInfo{
			{ID: "b", Language: "python", Attempt: 1, Since: began},
			{ID: "a", Language: "go", Attempt: 3, Since: began.Add(time.Second)},
		}, f.Running())
		second.Leave()
		require.Len(t, f.Running(), 1)
		first.Leave()
		require.Empty(t, f.Running())
	})
}
