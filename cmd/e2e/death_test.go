//go:build e2e && linux

package e2e_test

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/cmd/internal/client"
	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/testkit"
)

func TestKill9LosesNothing(t *testing.T) {
	dir := t.TempDir()
	args := []string{"up", "--listen", "127.0.0.1:0", "--data-dir", dir, "--slots", "2", "--lease", "2s"}
	first := start(t, nil, args...)
	p := target{api: first.client(t), url: first.url}

	// Two run, the rest wait.
	var accepted []client.Evaluation
	for i := range 8 {
		code := fmt.Sprintf("print(%d)", i)
		if i < 2 {
			code = "import time\nprint('started', flush=True)\ntime.sleep(1.5)\nprint('ended')"
		}
		e, err := p.api.Submit(t.Context(), python(code), 0, "")
		require.NoError(t, err)
		accepted = append(accepted, e)
	}
	for _, e := range accepted[:2] {
		p.printed(t, e.ID, "started\n")
	}
	first.signal(t, syscall.SIGKILL)
	<-first.done

	second := start(t, nil, args...)
	p = target{api: second.client(t), url: second.url}
	for i, e := range accepted {
		e = p.await(t, e)
		requireAccepted(t, e)
		want, attempt := fmt.Sprintf("%d\n", i), 1
		if i < 2 {
			want, attempt = "started\nended\n", 2
		}
		require.Equal(t, want, string(e.Result.Stdout.Data))
		require.Equal(t, attempt, e.Attempt)
		require.Equal(t, 1, p.terminalEvents(t, e.ID), "it ends once")
	}
}

// terminalEvents counts how often an evaluation has ended, by its history.
func (p target) terminalEvents(t *testing.T, id eval.ID) int {
	t.Helper()
	n := 0
	err := p.api.Events(t.Context(), "/api/v1/evaluations/"+string(id)+"/events", nil, "", func(ev client.Event) bool {
		if eval.Status(ev.Type).Terminal() {
			n++
		}
		return true
	})
	require.NoError(t, err)
	return n
}

func TestSIGTERMDrains(t *testing.T) {
	dir := t.TempDir()
	args := []string{"up", "--listen", "127.0.0.1:0", "--data-dir", dir}
	first := start(t, nil, args...)
	p := target{api: first.client(t), url: first.url}
	e, err := p.api.Submit(t.Context(), python("import time\nprint('started', flush=True)\ntime.sleep(1)\nprint('ended')"), 0, "")
	require.NoError(t, err)
	p.printed(t, e.ID, "started\n")
	first.signal(t, syscall.SIGTERM)
	require.Equal(t, 0, first.exit(t, 20*time.Second))

	second := start(t, nil, args...)
	p = target{api: second.client(t), url: second.url}
	e, err = p.api.Get(t.Context(), e.ID, 0)
	require.NoError(t, err)
	require.Equal(t, eval.Completed, e.Status, "it ended before the program did")
	require.Equal(t, 1, e.Attempt)
	require.Equal(t, "started\nended\n", string(e.Result.Stdout.Data))
}

func TestSecondInterruptEndsAtOnce(t *testing.T) {
	dir := t.TempDir()
	args := []string{"up", "--listen", "127.0.0.1:0", "--data-dir", dir}
	first := start(t, nil, args...)
	p := target{api: first.client(t), url: first.url}
	e, err := p.api.Submit(t.Context(), limited(python("import time\nprint('started', flush=True)\ntime.sleep(60)"), eval.Limits{WallMS: 90_000}), 0, "")
	require.NoError(t, err)
	p.printed(t, e.ID, "started\n")
	first.signal(t, syscall.SIGINT)
	testkit.Eventually(t, func() bool { return len(first.stderr.String()) > 0 && contains(first, "stopping") }, "it drains")
	first.signal(t, syscall.SIGINT)
	require.NotEqual(t, 0, first.exit(t, 15*time.Second))

	second := start(t, nil, args...)
	p = target{api: second.client(t), url: second.url}
	now, err := p.api.Get(t.Context(), e.ID, 0)
	require.NoError(t, err)
	require.False(t, now.Status.Terminal(), "it is queued again, not lost: %s", now.Status)
	_, err = p.api.Cancel(t.Context(), e.ID, "")
	require.NoError(t, err)
}

func TestSecondInstanceIsRefused(t *testing.T) {
	dir := t.TempDir()
	first := start(t, nil, "up", "--listen", "127.0.0.1:0", "--data-dir", dir)
	second := launch(t, nil, "up", "--listen", "127.0.0.1:0", "--data-dir", dir)
	require.Equal(t, 1, second.exit(t, 20*time.Second))
	require.Contains(t, second.stderr.String(), "in use by another crucible")
	require.Contains(t, second.stderr.String(), fmt.Sprint(first.pid))

	third := launch(t, nil, "up", "--listen", first.url[len("http://"):], "--data-dir", t.TempDir())
	require.Equal(t, 1, third.exit(t, 20*time.Second))
	require.Contains(t, third.stderr.String(), "in use")
}
