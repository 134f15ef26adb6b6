package pool_test

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/testkit"
	"github.com/crucible-eval/crucible/worker/internal/pool"
)

// executor answers as it is told.
type executor struct {
	slots int
	err   error // of Run and Status
	begin bool  // the program starts before err
	hold  chan struct{}

	mu   sync.Mutex
	runs int
}

func (e *executor) Run(ctx context.Context, _ eval.Request, sink func(eval.RunEvent)) (eval.Result, error) {
	e.mu.Lock()
	e.runs++
	e.mu.Unlock()
	if e.begin {
		sink(eval.RunEvent{Type: eval.RunStarted})
	}
	if e.hold != nil {
		<-e.hold
	}
	return eval.Result{}, e.err
}

func (e *executor) Status(context.Context) (eval.ExecutorStatus, error) {
	return eval.ExecutorStatus{Load: eval.Load{Slots: e.slots}}, e.err
}

func (e *executor) Stop(context.Context, eval.ID) error { return nil }

func (e *executor) count() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.runs
}

func of(a, b *executor) *pool.Pool {
	return pool.New([]pool.Member{{Name: "a", Executor: a}, {Name: "b", Executor: b}})
}

func run(p *pool.Pool) (string, error) {
	_, name, err := p.Run(context.Background(), eval.Request{}, func(eval.RunEvent) {})
	return name, err
}

func TestTheSmallestShareOfSlotsIsChosen(t *testing.T) {
	hold := make(chan struct{})
	a, b := &executor{slots: 1, hold: hold}, &executor{slots: 3, hold: hold}
	p := of(a, b)
	slots, unknown := p.Refresh(t.Context())
	require.Equal(t, 4, slots)
	require.Zero(t, unknown)
	var wg sync.WaitGroup
	for n := range 4 {
		wg.Go(func() { _, _ = run(p) })
		testkit.Eventually(t, func() bool { return a.count()+b.count() == n+1 }, "the run has begun")
	}
	require.Equal(t, 1, a.count())
	require.Equal(t, 3, b.count())
	require.Equal(t, []eval.ExecutorContact{{Name: "a", InFlight: 1}, {Name: "b", InFlight: 3}}, p.Contacts())
	close(hold)
	wg.Wait()
	require.Equal(t, []eval.ExecutorContact{{Name: "a"}, {Name: "b"}}, p.Contacts())
}

func TestTheNextOneIsTriedOnceWhenNothingHasStarted(t *testing.T) {
	for _, kind := range []eval.Kind{eval.KindUnavailable, eval.KindStopping, eval.KindFull} {
		t.Run(string(kind), func(t *testing.T) {
			a, b := &executor{slots: 1, err: eval.Errorf(kind, "no")}, &executor{slots: 1}
			name, err := run(of(a, b))
			require.NoError(t, err)
			require.Equal(t, "b", name)
			require.Equal(t, 1, a.count())
		})
	}
}

func TestAProgramThatHasStartedIsNotStartedElsewhere(t *testing.T) {
	a, b := &executor{slots: 1, err: eval.Errorf(eval.KindUnavailable, "cut"), begin: true}, &executor{slots: 1}
	name, err := run(of(a, b))
	require.True(t, eval.IsKind(err, eval.KindUnavailable))
	require.Equal(t, "a", name)
	require.Zero(t, b.count())
}

func TestARefusalIsFinal(t *testing.T) {
	a, b := &executor{slots: 1, err: eval.Errorf(eval.KindInvalid, "no such language")}, &executor{slots: 1}
	_, err := run(of(a, b))
	require.True(t, eval.IsKind(err, eval.KindInvalid))
	require.Zero(t, b.count())
}

func TestOneThatWasNotReachedIsLeftAloneForAMoment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := &executor{slots: 1, err: eval.Errorf(eval.KindUnavailable, "down")}, &executor{slots: 1}
		p := of(a, b)
		for range 10 {
			_, err := run(p)
			require.NoError(t, err)
		}
		require.Equal(t, 1, a.count())
		require.Equal(t, "down", p.Contacts()[0].Problem)
		<-time.After(2 * time.Second)
		a.err = nil
		_, err := run(p)
		require.NoError(t, err)
		require.Equal(t, 2, a.count())
		require.Empty(t, p.Contacts()[0].Problem)
	})
}

func TestAFullPoolIsTriedForAMomentAndThenSaysSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		full := &eval.Error{Kind: eval.KindFull, RetryAfter: 7 * time.Second}
		a, b := &executor{slots: 1, err: full}, &executor{slots: 1, err: full}
		began := time.Now()
		_, err := run(of(a, b))
		require.ErrorIs(t, err, full)
		require.Less(t, time.Since(began), 500*time.Millisecond)
		require.Equal(t, a.count(), b.count())
	})
}

func TestExecutorsThatDoNotAnswerAreCounted(t *testing.T) {
	slots, unknown := of(&executor{slots: 2}, &executor{slots: 2, err: eval.Errorf(eval.KindUnavailable, "down")}).Refresh(t.Context())
	require.Equal(t, 2, slots)
	require.Equal(t, 1, unknown)
}
