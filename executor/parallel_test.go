//go:build linux

package executor_test

import (
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/executor"
	"github.com/crucible-eval/crucible/pkg/eval"
)

// inParallel is a run of n tests of half a second, as many at once as may be.
func inParallel(id eval.ID, n int) eval.Request {
	return eval.Request{ID: id, Attempt: 1, Program: eval.Program{
		Language: "python", Code: eval.Bytes("import time\ntime.sleep(0.5)"), Tests: make([]eval.Test, n), Parallel: eval.MaxParallel,
	}}
}

func TestTestsInParallelGiveWayToOtherRuns(t *testing.T) {
	l := open(t, executor.Config{Slots: 2, Patience: time.Minute})
	busy := func() int {
		s, err := l.Status(t.Context())
		require.NoError(t, err)
		return s.Busy
	}
	started, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		res, err := l.Run(t.Context(), inParallel("many", 16), func(eval.RunEvent) { close(started) })
		if err == nil && res.Verdict != eval.Accepted {
			t.Errorf("%s: %s", res.Verdict, res.Explanation)
		}
		ended <- err
	}()
	<-started
	require.Eventually(t, func() bool { return busy() == 2 }, 10*time.Second, time.Millisecond, "a spare slot is not used")
	for _, id := range []eval.ID{"one", "two", "three"} {
		_, err := l.Run(t.Context(), eval.Request{ID: id, Attempt: 1, Program: eval.Program{Language: "bash", Code: eval.Bytes("exit 0")}}, nil)
		require.NoError(t, err)
	}
	select {
	case err := <-ended:
		require.Failf(t, "it was first", "%v", err)
	default: // the others did not wait for its end
	}
	require.NoError(t, <-ended)
	require.Zero(t, busy())
}

func TestRunsWithTestsInParallelDoNotWaitForEachOther(t *testing.T) {
	l := open(t, executor.Config{Slots: 2, Patience: time.Minute})
	var all sync.WaitGroup
	for _, id := range []eval.ID{"a", "b", "c"} {
		all.Go(func() {
			res, err := l.Run(t.Context(), inParallel(id, 3), nil)
			if err != nil || res.Verdict != eval.Accepted {
				t.Errorf("%s %v", res.Verdict, err)
			}
		})
	}
	all.Wait()
	s, err := l.Status(t.Context())
	require.NoError(t, err)
	require.Zero(t, s.Busy)
}
