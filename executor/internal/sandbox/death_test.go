//go:build linux

package sandbox_test

import (
	"bufio"
	"bytes"
	"cmp"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/executor/internal/sandbox"
	"github.com/crucible-eval/crucible/executor/internal/sandbox/wire"
	"github.com/crucible-eval/crucible/pkg/testkit"
)

// processesNamed are the processes below this one with a first argument.
func processesNamed(t *testing.T, name string) []int {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	require.NoError(t, err)
	var pids []int
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil || !bytes.HasPrefix(b, []byte(name+"\x00")) {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(f)))
		require.NoError(t, err)
		pids = append(pids, pid)
	}
	return pids
}

// childOf tells whether a process has a parent.
func childOf(pid, parent int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	return f[0] != "Z" && f[1] == strconv.Itoa(parent)
}

func TestLauncherDies(t *testing.T) {
	l := level{Runtime: open(t, sandbox.Config{})}
	w := l.workspace(t, sandbox.WorkspaceSpec{})
	b := l.box(t, w)
	out := &signalWriter{seen: make(chan struct{})}
	done := make(chan error, 1)
	go func() {
		_, err := b.Run(t.Context(), sandbox.Command{Argv: []string{"/payload", "sleep"}, Stdout: out})
		done <- err
	}()
	<-out.seen
	for _, pid := range processesNamed(t, wire.LauncherArg) {
		if childOf(pid, os.Getpid()) {
			require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
		}
	}
	require.ErrorIs(t, <-done, sandbox.ErrPlatform, "the run in flight can be tried again")
	require.NoError(t, b.Close())

	// The next box gets a new launcher; what the old one held is gone.
	require.Eventually(t, func() bool {
		b, err := l.Prepare(t.Context(), sandbox.BoxSpec{})
		if err != nil {
			require.ErrorIs(t, err, sandbox.ErrPlatform)
			return false
		}
		return run(t, b, sandbox.Command{Argv: []string{"echo", "again"}}).out == "again\n"
	}, 5*time.Second, time.Millisecond)
	_, err := l.Prepare(t.Context(), sandbox.BoxSpec{Workspace: w})
	require.ErrorIs(t, err, sandbox.ErrPlatform)
}

// victimEnv names the level at which TestExecutorDies has a box running, in
// the process that is to be killed.
const victimEnv = "CRUCIBLE_TEST_VICTIM"

// TestExecutorDies kills a process that has a box running, in the rudest way,
// and finds nothing left of it.
func TestExecutorDies(t *testing.T) {
	switch os.Getenv(victimEnv) {
	case "":
		t.Run("strongest", func(t *testing.T) { executorDies(t, sandbox.Config{}) })
		t.Run("gvisor", func(t *testing.T) { executorDies(t, gvisor(t)) })
	case sandbox.LevelGVisor:
		victim(t, gvisor(t))
	case sandbox.LevelLandlock:
		victim(t, sandbox.Config{Level: sandbox.LevelLandlock})
	default:
		victim(t, sandbox.Config{})
	}
}

// startVictim starts this test binary as an executor, in a folder and with
// more variables, and returns it when a program runs in it.
func startVictim(t *testing.T, dir string, env ...string) *exec.Cmd {
	t.Helper()
	exe, err := os.Open("/proc/self/exe")
	require.NoError(t, err)
	defer func() { _ = exe.Close() }()
	cmd := &exec.Cmd{
		Path: "/proc/self/fd/3", Args: []string{"sandbox.test", "-test.run=^TestExecutorDies$"},
		Env: append(os.Environ(), env...), Dir: dir, ExtraFiles: []*os.File{exe}, Stderr: os.Stderr,
	}
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	line, err := bufio.NewReader(stdout).ReadString('\n')
	require.NoError(t, err)
	if !strings.HasPrefix(line, "running") {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		skip(t, "no boxes here: "+line)
	}
	return cmd
}

func executorDies(t *testing.T, cfg sandbox.Config) {
	dir, err := os.Getwd()
	require.NoError(t, err)
	cmd := startVictim(t, dir, victimEnv+"="+cmp.Or(cfg.Level, "strongest"))
	family := descendants(t, cmd.Process.Pid)
	require.GreaterOrEqual(t, len(family), 3, "launcher, init and program")
	require.NoError(t, cmd.Process.Kill())
	_ = cmd.Wait()
	for _, pid := range family {
		require.Eventually(t, func() bool { return syscall.Kill(pid, 0) == syscall.ESRCH }, 5*time.Second, time.Millisecond)
	}

	r, err := sandbox.Open(t.Context(), cfg)
	require.NoError(t, err)
	require.NoError(t, r.Close())
	left, err := filepath.Glob(fmt.Sprintf("/sys/fs/cgroup/*/crucible-%d-*", cmd.Process.Pid))
	require.NoError(t, err)
	require.Empty(t, left, "groups of the dead executor")
}

// descendants are the children of a process, and theirs.
func descendants(t *testing.T, pid int) []int {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/stat")
	require.NoError(t, err)
	var pids []int
	for _, f := range files {
		child, err := strconv.Atoi(filepath.Base(filepath.Dir(f)))
		require.NoError(t, err)
		if childOf(child, pid) {
			pids = append(append(pids, child), descendants(t, child)...)
		}
	}
	return pids
}

// TestExecutorDiesWithoutNamespaces: the kernel ends nothing by itself then,
// and init does it; the folders are removed by the next executor.
func TestExecutorDiesWithoutNamespaces(t *testing.T) {
	tmp := open755(t)
	cmd := startVictim(t, "/", victimEnv+"="+sandbox.LevelLandlock, "TMPDIR="+tmp)
	var pids []int
	for _, init := range processesNamed(t, wire.ConfinedArg) {
		for _, program := range processesNamed(t, testkit.Program("payload")) {
			if childOf(init, cmd.Process.Pid) && childOf(program, init) {
				pids = append(pids, init, program)
			}
		}
	}
	require.Len(t, pids, 2, "init and the program")
	require.NoError(t, cmd.Process.Kill())
	_ = cmd.Wait()
	for _, pid := range pids {
		require.Eventually(t, func() bool { return syscall.Kill(pid, 0) == syscall.ESRCH }, 5*time.Second, time.Millisecond)
	}

	left, err := filepath.Glob(filepath.Join(tmp, "crucible-boxes-*"))
	require.NoError(t, err)
	require.Len(t, left, 1)
	require.NoError(t, os.MkdirAll(filepath.Join(left[0], "a/b/c"), 0o700))
	long := time.Now().Add(-time.Hour)
	require.NoError(t, os.Chtimes(left[0], long, long))
	t.Setenv("TMPDIR", tmp)
	r, err := sandbox.Open(t.Context(), sandbox.Config{Level: sandbox.LevelLandlock, Logger: quiet(t)})
	require.NoError(t, err)
	_, err = os.Stat(left[0])
	require.ErrorIs(t, err, os.ErrNotExist, "what the dead executor had")
	require.NoError(t, r.Close())
	left, err = filepath.Glob(filepath.Join(tmp, "*"))
	require.NoError(t, err)
	require.Empty(t, left, "what the living one had")
}

func victim(t *testing.T, cfg sandbox.Config) {
	r, err := sandbox.Open(t.Context(), cfg)
	if err != nil {
		fmt.Println(err)
		return
	}
	if forks, ok := r.(sandbox.Warmer); ok && forks.CanFork() && cfg.Level == "" {
		z, _ := zygote(t, r)
		waitingCopy(t, r, z)
	}
	b, err := r.Prepare(t.Context(), sandbox.BoxSpec{Binds: payloadBind()})
	require.NoError(t, err)
	read, write := io.Pipe()
	go func() {
		_, _ = read.Read(make([]byte, 1))
		fmt.Println("running")
	}()
	_, err = b.Run(t.Context(), sandbox.Command{Argv: []string{"/payload", "sleep"}, Stdout: write, Limits: sandbox.Limits{Wall: time.Minute}})
	require.NoError(t, err)
}

func TestCloseKillsWhatRuns(t *testing.T) {
	r, err := sandbox.Open(t.Context(), sandbox.Config{})
	if err != nil {
		skip(t, err.Error())
	}
	l := level{Runtime: r}
	b := l.box(t, nil)
	out := &signalWriter{seen: make(chan struct{})}
	done := make(chan error, 1)
	go func() {
		_, err := b.Run(t.Context(), sandbox.Command{Argv: []string{"/payload", "sleep"}, Stdout: out})
		done <- err
	}()
	<-out.seen
	_ = l.box(t, nil) // and one that only waits
	require.NoError(t, r.Close())
	require.Error(t, <-done)
	require.NoError(t, r.Close(), "twice is fine")
	_, err = r.Prepare(t.Context(), sandbox.BoxSpec{})
	require.ErrorIs(t, err, sandbox.ErrClosed)
}
