//go:build linux

package executor_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/executor"
	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/testkit"
)

const orphanRuns = 10

// TestAKilledExecutorLeavesNothing kills an executor that has ten runs under
// way in the rudest way: its programs die with it, and the next executor
// removes what is left.
func TestAKilledExecutorLeavesNothing(t *testing.T) {
	if mark := os.Getenv("CRUCIBLE_TEST_ORPHANS"); mark != "" {
		orphans(t, mark)
		return
	}
	l := open(t, quick) // skips where there is none
	require.NoError(t, l.Close())
	mark := fmt.Sprintf("orphan-%d", time.Now().UnixNano())
	tmp := t.TempDir()
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestAKilledExecutorLeavesNothing$")
	cmd.Env = append(os.Environ(), "CRUCIBLE_TEST_ORPHANS="+mark, "TMPDIR="+tmp)
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	lines := bufio.NewScanner(stdout)
	for n := 0; n < orphanRuns; {
		require.True(t, lines.Scan(), "the victim ended by itself")
		if lines.Text() == "up" {
			n++
		}
	}
	pid := cmd.Process.Pid
	require.GreaterOrEqual(t, alive(t, mark), orphanRuns)
	left := func() []string {
		var found []string
		for _, pattern := range []string{"/sys/fs/cgroup/*/crucible-%d-*", "/sys/fs/cgroup/*/*/*/crucible-%d-*"} {
			names, err := filepath.Glob(fmt.Sprintf(pattern, pid))
			require.NoError(t, err)
			found = append(found, names...)
		}
		return found
	}
	require.NoError(t, cmd.Process.Kill())
	_ = cmd.Wait()
	testkit.EventuallyWithin(t, 5*time.Second, func() bool { return alive(t, mark) == 0 }, "the programs are dead")
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	require.NoError(t, err)
	require.NotContains(t, string(mounts), tmp, "mounts are gone with the launcher")

	next := open(t, quick)
	require.Empty(t, left(), "groups of the dead one")
	i := 0
	_, err = next.Run(t.Context(), echo(&i), nil)
	require.NoError(t, err)
	entries, err := os.ReadDir(tmp)
	require.NoError(t, err)
	for _, e := range entries { // the test binary's own are no concern
		require.False(t, strings.HasPrefix(e.Name(), "crucible"), e.Name())
	}
}

// orphans has ten runs under way until it is killed.
func orphans(t *testing.T, mark string) {
	l, err := executor.Open(t.Context(), executor.Config{Languages: quick.Languages, Slots: orphanRuns}, nil, nil)
	require.NoError(t, err)
	for i := range orphanRuns {
		go func() {
			req := marked(fmt.Sprint(mark, "-", i))
			req.Language, req.Code = "bash", eval.Bytes("echo up; sleep 60")
			_, _ = l.Run(context.Background(), req, func(e eval.RunEvent) {
				if e.Type == eval.RunStdout {
					fmt.Println("up")
				}
			})
		}()
	}
	select {}
}
