//go:build linux

package sandbox_test

import (
	"testing"
	"time"
	"os"
	"os/exec"

	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/executor/internal/sandbox"
)

func TestZZ(t *testing.T) {
	p := os.Getenv("ZZINIT")
	cfg := gvisor(t)
	cfg.InitPath = p
	r, err := sandbox.Open(t.Context(), cfg)
	require.NoError(t, err)
	defer r.Close()
	for range 4 {
		w, err := r.NewWorkspace(t.Context(), sandbox.WorkspaceSpec{})
		require.NoError(t, err)
		box, err := r.Prepare(t.Context(), sandbox.BoxSpec{Workspace: w})
		require.NoError(t, err)
		sandbox.AwaitReady(t, box)
		time.Sleep(100 * time.Millisecond)
		sh, _ := exec.Command("sh", "-c", "for f in /sys/fs/cgroup/memory/crucible-*/[0-9]* /sys/fs/cgroup/memory/*/crucible-*/[0-9]* /sys/fs/cgroup/memory/*/*/crucible-*/[0-9]*; do test -d $f && echo $f $(cat $f/memory.usage_in_bytes) $(grep -c . $f/cgroup.procs) $(grep -E '^(rss|mapped_file|cache|shmem) ' $f/memory.stat | tr '\\n' ' '); done; cat /sys/fs/cgroup/cpuacct/crucible-*/*/cpuacct.usage; for p in $(cat $f/cgroup.procs); do echo $p $(cat /proc/$p/comm) $(grep -E 'VmRSS|Threads' /proc/$p/status); done").CombinedOutput()
		t.Log(string(sh))
		began := time.Now()
		rep, err := box.Run(t.Context(), sandbox.Command{Argv: []string{"/usr/bin/true"}})
		t.Log(time.Since(began), rep.Wall, rep.CPU, rep.MemoryPeak, err)
		began = time.Now()
		box.Close()
		w.Close()
		r.NewWorkspace(t.Context(), sandbox.WorkspaceSpec{})
		t.Log("close", time.Since(began))
	}
}
