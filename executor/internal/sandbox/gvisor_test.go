//go:build linux

package sandbox_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/executor/internal/sandbox"
	"github.com/crucible-eval/crucible/pkg/testkit"
)

// fakeRunsc is a runsc that cannot start anything.
func fakeRunsc(what string) int {
	if what == "--version" {
		fmt.Println("runsc version fake")
		return 0
	}
	fmt.Fprintln(os.Stderr, "this platform cannot be had")
	return 128
}

func TestOpenSaysWhyGVisorCannotBeHad(t *testing.T) {
	gvisor(t) // skips where namespaces would be the reason
	runsc := filepath.Join(t.TempDir(), "runsc")
	self, err := os.Executable()
	require.NoError(t, err)
	require.NoError(t, os.Symlink(self, runsc))
	notRunsc, err := filepath.EvalSymlinks("/bin/true")
	require.NoError(t, err)
	for path, why := range map[string]string{
		"/nowhere/runsc": "no such file",
		notRunsc:         "does not say that it is runsc",
		runsc:            "this platform cannot be had",
	} {
		_, err := sandbox.Open(t.Context(), sandbox.Config{Level: sandbox.LevelGVisor, RunscPath: path})
		require.ErrorIs(t, err, sandbox.ErrUnsupported, path)
		require.ErrorContains(t, err, why)
	}
}

func TestMountsInGVisorNameNoHostPath(t *testing.T) {
	l := level{Runtime: open(t, gvisor(t))}
	o := l.run(t, nil, sandbox.Limits{}, "cat", "/proc/self/mountinfo", "/proc/mounts")
	require.Zero(t, o.ExitCode, o.err)
	require.Contains(t, o.out, " /tmp ")
	require.NotContains(t, o.out, filepath.Dir(testkit.Program("payload")))
}
