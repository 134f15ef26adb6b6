//go:build linux

package executor_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/testkit"
)

// launchers are the children of this process that make boxes.
func launchers(t *testing.T) []int {
	t.Helper()
	names, err := filepath.Glob("/proc/[0-9]*/stat")
	require.NoError(t, err)
	var pids []int
	for _, name := range names {
		stat, err := os.ReadFile(name)
		if err != nil {
			continue
		}
		_, rest, _ := strings.Cut(string(stat), ") ")
		fields := strings.Fields(rest)
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(name))); err == nil && len(fields) > 1 && fields[0] != "Z" && fields[1] == strconv.Itoa(os.Getpid()) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// TestADeadLauncherCostsNoRun kills what makes boxes, and with it the boxes
// that lie ready: the next run does not notice.
func TestADeadLauncherCostsNoRun(t *testing.T) {
	l := open(t, quick)
	hello := func(i int) {
		res, err := l.Run(t.Context(), eval.Request{ID: eval.ID(fmt.Sprint("run-", i)), Attempt: 1, Program: eval.Program{Language: "bash", Code: eval.Bytes("echo hello")}}, nil)
		require.NoError(t, err)
		require.Equal(t, "hello\n", string(res.Stdout.Data))
	}
	for i := range 5 {
		hello(i)
	}
	pids := launchers(t)
	require.NotEmpty(t, pids)
	for _, pid := range pids {
		require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
	}
	testkit.Eventually(t, func() bool {
		for _, pid := range launchers(t) {
			if slices.Contains(pids, pid) {
				return false
			}
		}
		return true
	}, "the launcher is dead")
	for i := range 5 {
		hello(100 + i)
	}
}
