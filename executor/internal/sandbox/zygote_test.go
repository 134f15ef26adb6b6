//go:build linux

package sandbox_test

import (
	"bytes"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/executor/internal/sandbox"
)

// zygote starts one of this machine's Python.
func zygote(t testing.TB, r sandbox.Runtime) (sandbox.Zygote, sandbox.ZygoteSpec) {
	t.Helper()
	w, ok := r.(sandbox.Warmer)
	if !ok || !w.CanFork() {
		if _, err := os.Stat("/sys/fs/cgroup/memory"); err == nil && os.Geteuid() == 0 {
			skip(t, "no forked interpreters here")
		}
		t.Skip("forked interpreters need root and cgroups of version 1")
	}
	out, err := exec.Command("python3", "-c", "import os, sys; print(os.path.realpath(sys.executable)); print(sys.base_prefix)").Output()
	if err != nil {
		skip(t, "no python3 here: "+err.Error())
	}
	python, prefix, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	argv := []string{python, "/w/main.py"}
	spec := sandbox.ZygoteSpec{
		Warm:  &sandbox.Warm{Start: argv, Args: argv, Env: []string{"PATH=/usr/bin:/bin"}, Gate: []string{"PYTHONPATH=" + sandbox.GateDir + "/python"}},
		Binds: []sandbox.Bind{{Host: prefix, Box: prefix}},
	}
	z, err := w.NewZygote(t.Context(), spec)
	require.NoError(t, err)
	t.Cleanup(z.Close)
	return z, spec
}

func TestACopyOfAnInterpreterRunsTheProgram(t *testing.T) {
	r := open(t, sandbox.Config{})
	z, spec := zygote(t, r)
	for range 3 {
		runCopy(t, waitingCopy(t, r, z), spec)
	}
	require.True(t, z.Alive())
}

func TestAZygoteStaysUntilItsLastCopyIsGone(t *testing.T) {
	r := open(t, sandbox.Config{})
	z, spec := zygote(t, r)
	first, second := waitingCopy(t, r, z), waitingCopy(t, r, z)
	z.Close()
	require.False(t, z.Alive())
	runCopy(t, first, spec)
	runCopy(t, second, spec)
	w, err := r.NewWorkspace(t.Context(), sandbox.WorkspaceSpec{})
	require.NoError(t, err)
	_, err = r.Prepare(t.Context(), sandbox.BoxSpec{Workspace: w, Zygote: z})
	require.ErrorIs(t, err, sandbox.ErrPlatform)
	require.NoError(t, w.Close())
}

// copied is a box with a copy that waits, and its workspace.
type copied struct {
	sandbox.Box
	w sandbox.Workspace
}

func waitingCopy(t testing.TB, r sandbox.Runtime, z sandbox.Zygote) copied {
	t.Helper()
	w, err := r.NewWorkspace(t.Context(), sandbox.WorkspaceSpec{})
	require.NoError(t, err)
	b, err := r.Prepare(t.Context(), sandbox.BoxSpec{Workspace: w, Zygote: z})
	require.NoError(t, err)
	return copied{b, w}
}

func runCopy(t testing.TB, b copied, spec sandbox.ZygoteSpec) {
	t.Helper()
	require.NoError(t, b.w.WriteFile("main.py", []byte("import sys; print(__file__, sys.argv); sys.exit(3)"), 0o644))
	var out, errs bytes.Buffer
	rep, err := b.Run(t.Context(), sandbox.Command{Argv: append(spec.Warm.Args, "x"), Env: spec.Warm.Env, Stdout: &out, Stderr: &errs})
	require.NoError(t, err)
	require.Equal(t, "/w/main.py ['/w/main.py', 'x']\n", out.String())
	require.Empty(t, errs.String())
	require.Equal(t, 3, rep.ExitCode)
	require.NoError(t, b.Close())
	require.NoError(t, b.w.Close())
}
