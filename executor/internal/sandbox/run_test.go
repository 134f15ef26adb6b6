//go:build linux

package sandbox_test

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/executor/internal/sandbox"
)

func TestSmoke(t *testing.T) {
	r, err := sandbox.Open(t.Context(), sandbox.Config{})
	require.NoError(t, err)
	defer r.Close()
	w, err := r.NewWorkspace(t.Context(), sandbox.WorkspaceSpec{})
	require.NoError(t, err)
	require.NoError(t, w.WriteFile("a/b.sh", []byte("id; pwd; ls -la / /w /dev /tmp /proc; cat /proc/self/mountinfo /proc/self/status; echo err >&2; ps aux; exit 3"), 0o644))
	b, err := r.Prepare(t.Context(), sandbox.BoxSpec{Workspace: w})
	require.NoError(t, err)
	var out, errb bytes.Buffer
	rep, err := b.Run(t.Context(), sandbox.Command{Argv: []string{"sh", "a/b.sh"}, Env: []string{"PATH=/usr/bin:/bin"}, Stdout: &out, Stderr: &errb})
	t.Log(out.String(), errb.String())
	t.Logf("%+v", rep)
	require.NoError(t, err)
	require.NoError(t, b.Close())
	require.NoError(t, w.Close())
}
