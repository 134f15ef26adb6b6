//go:build linux

package sandbox_test

import (
	"os"
	"os/exec"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestRootless runs this package's tests again as a user without any
// privilege.
func TestRootless(t *testing.T) {
	if os.Getenv(rootlessEnv) != "" || os.Geteuid() != 0 {
		t.Skip("already an ordinary user")
	}
	exe, err := os.Open("/proc/self/exe")
	require.NoError(t, err)
	defer func() { _ = exe.Close() }()
	tmp, err := os.MkdirTemp("", "rootless")
	require.NoError(t, err)
	defer func() { _ = os.RemoveAll(tmp) }()
	require.NoError(t, os.Chown(tmp, 65534, 65534))
	cmd := &exec.Cmd{
		Path: "/proc/self/fd/3",
		Args: []string{"sandbox.test", "-test.short=true", "-test.v=true"},
		Env:  append(os.Environ(), rootlessEnv+"=1", "TMPDIR="+tmp, "HOME="+tmp),
		Dir:  "/", ExtraFiles: []*os.File{exe},
		SysProcAttr: &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}},
	}
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, string(out))
	t.Logf("%s", out)
}
