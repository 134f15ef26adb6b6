package evaltest

import (
	"context"
	"fmt"
	"math"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/pkg/eval"
)

func (r runner) refusals(t *testing.T) {
	file := func(path string) func(*eval.Request) {
		return func(q *eval.Request) { q.Code, q.Files = nil, map[string]eval.Bytes{path: eval.Bytes("x")} }
	}
	for _, c := range []struct {
		name  string
		spoil func(*eval.Request)
		field string
	}{
		{"no id", func(q *eval.Request) { q.ID = "" }, "id"},
		{"no attempt", func(q *eval.Request) { q.Attempt = 0 }, "attempt"},
		{"unknown language", func(q *eval.Request) { q.Language = "klingon" }, "language"},
		{"no language", func(q *eval.Request) { q.Language = "" }, "language"},
		{"no code", func(q *eval.Request) { q.Code = nil }, "code"},
		{"parent folder", file("../../x"), "files"},
		{"absolute path", file("/abs"), "files"},
		{"hidden parent", file("a/../../b"), "files"},
		{"NUL in a path", file("a\x00b"), "files"},
		{"long path", file(strings.Repeat("a", 4096)), "files"},
		{"deep path", file(strings.Repeat("a/", 100) + "x"), "files"},
		{"folder", file("a/"), "files"},
		{"NUL in args", func(q *eval.Request) { q.Args = []string{"a\x00"} }, "args"},
		{"bad env", func(q *eval.Request) { q.Env = map[string]string{"A=B": "c"} }, "env"},
		{"negative limit", func(q *eval.Request) { q.Limits.WallMS = -1 }, "limits.wall_ms"},
		{"absurd limit", func(q *eval.Request) { q.Limits.MemoryBytes = math.MaxInt64 }, "limits.memory_bytes"},
		{"unknown checker", func(q *eval.Request) { q.Tests = []eval.Test{{Checker: eval.Checker{Type: "psychic"}}} }, "tests[0].checker"},
		{"unknown isolation", func(q *eval.Request) { q.MinIsolation = "perfect" }, "min_isolation"},
	} {
		t.Run(c.name, func(t *testing.T) {
			req := request("python", "print(1)")
			c.spoil(&req)
			_, err := r.Run(t.Context(), req, nil)
			require.Equal(t, eval.KindInvalid, eval.KindOf(err), "%v", err)
			require.ErrorContains(t, err, c.field)
		})
	}
	t.Run("weaker than asked for", func(t *testing.T) {
		s, err := r.Status(t.Context())
		require.NoError(t, err)
		levels := eval.IsolationLevels()
		if s.Isolation.Level == levels[0] {
			t.Skip("nothing is stronger")
		}
		req := request("python", "print(1)")
		req.MinIsolation = levels[0]
		_, err = r.Run(t.Context(), req, nil)
		require.Equal(t, eval.KindIsolation, eval.KindOf(err), "%v", err)
		req.MinIsolation = s.Isolation.Level
		_, err = r.Run(t.Context(), req, nil)
		require.NoError(t, err)
	})
	t.Run("Stop of nothing", func(t *testing.T) {
		err := r.Stop(t.Context(), "no-such-run")
		require.Equal(t, eval.KindNotFound, eval.KindOf(err), "%v", err)
	})
}

func (r runner) attempts(t *testing.T) {
	t.Run("a higher one kills the older run", func(t *testing.T) {
		req := request("python", sleeper)
		_, end := r.started(t, req)
		newer := req
		newer.Attempt, newer.Code = 2, eval.Bytes("print('newer')")
		res := r.run(t, newer)
		require.Equal(t, "newer\n", string(res.Stdout.Data))
		_, err := end()
		require.Equal(t, eval.KindConflict, eval.KindOf(err), "%v", err)
		_, err = r.Run(t.Context(), req, nil)
		require.Equal(t, eval.KindConflict, eval.KindOf(err), "%v", err)
	})
	t.Run("the same one twice", func(t *testing.T) {
		req := request("python", sleeper)
		cancel, end := r.started(t, req)
		_, err := r.Run(t.Context(), req, nil)
		require.Equal(t, eval.KindConflict, eval.KindOf(err), "%v", err)
		cancel(nil)
		_, err = end()
		require.ErrorIs(t, err, context.Canceled)
	})
}

func (r runner) full(t *testing.T) {
	r.idle(t)
	s, err := r.Status(t.Context())
	require.NoError(t, err)
	require.Positive(t, s.Slots)
	var cancels []context.CancelCauseFunc
	var ends []func() (eval.Result, error)
	for range s.Slots {
		cancel, end := r.started(t, request("python", sleeper))
		cancels, ends = append(cancels, cancel), append(ends, end)
	}
	s, err = r.Status(t.Context())
	require.NoError(t, err)
	require.Equal(t, s.Slots, s.Busy)
	began := time.Now()
	_, err = r.Run(t.Context(), request("python", "print(1)"), nil)
	require.Equal(t, eval.KindFull, eval.KindOf(err), "%v", err)
	require.Less(t, time.Since(began), time.Second)
	var e *eval.Error
	require.ErrorAs(t, err, &e)
	require.Positive(t, e.RetryAfter)
	for i, cancel := range cancels {
		cancel(nil)
		_, err := ends[i]()
		require.ErrorIs(t, err, context.Canceled)
	}
	r.idle(t)

	t.Run("an exclusive run waits until nothing else runs, and runs alone", func(t *testing.T) {
		cancel, end := r.started(t, request("python", sleeper))
		alone := request("python", sleeper)
		alone.Exclusive = true
		began := make(chan struct{})
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() {
			_, err := r.Run(ctx, alone, func(e eval.RunEvent) {
				if e.Type == eval.RunStarted {
					close(began)
				}
			})
			ended <- err
		}()
		require.Eventually(t, func() bool { s, err := r.Status(t.Context()); return err == nil && s.Waiting == 1 }, 5*time.Second, 5*time.Millisecond)
		cancel(nil)
		_, err := end()
		require.ErrorIs(t, err, context.Canceled)
		select {
		case <-began:
		case <-time.After(20 * time.Second):
			require.Fail(t, "the exclusive run does not start")
		}
		_, err = r.Run(t.Context(), request("python", "print(1)"), nil)
		require.Equal(t, eval.KindFull, eval.KindOf(err), "nothing runs beside it: %v", err)
		stop()
		require.ErrorIs(t, <-ended, context.Canceled)
		r.idle(t)
		r.run(t, request("python", "print(1)"))
	})
	t.Run("slots are exact after many runs, some of them ended", func(t *testing.T) {
		const each = 15
		var work sync.WaitGroup
		for worker := range s.Slots {
			work.Go(func() {
				for i := range each {
					ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
					if i%3 == 0 {
						ctx, cancel = context.WithTimeout(t.Context(), time.Duration(i)*time.Millisecond)
					}
					_, _ = r.Run(ctx, request("bash", fmt.Sprintf("exit %d", worker)), nil)
					cancel()
				}
			})
		}
		work.Wait()
		r.idle(t)
	})
}
