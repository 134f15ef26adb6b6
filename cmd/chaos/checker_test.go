//go:build chaos && linux

package chaos_test

import (
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/cmd/internal/client"
	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/testkit"
)

// A checker that finds nothing has to be one that can find something.

func TestAnOrphanIsSeen(t *testing.T) {
	out, err := exec.Command("sh", "-c", "sleep 61.5 >/dev/null 2>&1 & echo $!").Output()
	require.NoError(t, err)
	pid, err := strconv.Atoi(strings.TrimSpace(string(out)))
	require.NoError(t, err)
	testkit.Eventually(t, func() bool { return strings.Contains(strings.Join(orphans(), "\n"), "sleep 61.5") }, "the orphan is found")
	require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
	_, err = syscall.Wait4(pid, nil, 0, nil)
	require.NoError(t, err)
	require.Empty(t, orphans())
}

func TestABrokenHistoryIsSeen(t *testing.T) {
	event := func(seq int64, kind eval.EventType, status eval.Status, attempt int) eval.Event {
		return eval.Event{Seq: seq, Type: kind, Status: status, Attempt: attempt}
	}
	queued, running := event(1, eval.EventQueued, eval.Queued, 0), event(2, eval.EventRunning, eval.Running, 1)
	done := event(3, eval.EventCompleted, eval.Completed, 1)
	require.NoError(t, broken([]eval.Event{queued, running, done}))
	for name, events := range map[string][]eval.Event{
		"none":             nil,
		"not ended":        {queued, running},
		"a gap":            {queued, event(3, eval.EventRunning, eval.Running, 1)},
		"accepted twice":   {queued, event(2, eval.EventQueued, eval.Queued, 0)},
		"ended twice":      {queued, running, done, event(4, eval.EventCompleted, eval.Completed, 1)},
		"on after its end": {queued, running, done, event(4, eval.EventRunning, eval.Running, 2)},
		"same attempt":     {queued, running, event(3, eval.EventRequeued, eval.Queued, 1), event(4, eval.EventRunning, eval.Running, 1), event(5, eval.EventCompleted, eval.Completed, 1)},
	} {
		require.Error(t, broken(events), name)
	}
}

func TestProgressIsAClaimOrAnEndAfterTheFault(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	event := func(after int, kind eval.EventType, status eval.Status) eval.Event {
		return eval.Event{Type: kind, Status: status, At: at.Add(time.Duration(after) * time.Second)}
	}
	queued, running := event(-2, eval.EventQueued, eval.Queued), event(-1, eval.EventRunning, eval.Running)
	_, _, ok := progress([]eval.Event{queued, running, event(1, eval.EventRequeued, eval.Queued)}, at)
	require.False(t, ok, "back in the queue is not on its way")
	moved, over, ok := progress([]eval.Event{queued, running, event(1, eval.EventRequeued, eval.Queued), event(4, eval.EventRunning, eval.Running)}, at)
	require.True(t, ok && !over)
	require.Equal(t, 4*time.Second, moved.Sub(at))
	_, over, ok = progress([]eval.Event{queued, event(-1, eval.EventCompleted, eval.Completed)}, at)
	require.True(t, ok && over)
}

func TestOutputOfTwoRunsIsSeen(t *testing.T) {
	one, other := strings.Repeat("ab", nonceBytes), strings.Repeat("cd", nonceBytes)
	require.NoError(t, sameRun("begin NONCE\n7\nend NONCE\n", []byte("begin "+one+"\n7\nend "+one+"\n")))
	require.Error(t, sameRun("begin NONCE\n7\nend NONCE\n", []byte("begin "+one+"\n7\nend "+other+"\n")))
	require.Error(t, sameRun("begin NONCE\n7\nend NONCE\n", []byte("begin "+one+"\n7\nend "+one+"\nbegin "+other+"\n")))
	require.Error(t, sameRun("begin NONCE\n", []byte("begin\n")))
	require.Error(t, cancelled(client.Evaluation{Status: eval.Completed}))
}
