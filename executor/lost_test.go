//go:build linux

package executor_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/executor"
	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/testkit"
)

// echo is a small run; its id is new each time.
func echo(i *int) eval.Request {
	*i++
	return eval.Request{ID: eval.ID(fmt.Sprintf("echo-%d-%d", os.Getpid(), *i)), Attempt: 1,
		Program: eval.Program{Language: "bash", Code: eval.Bytes("echo hello")}}
}

// groupsOfMine are the folders of this process's executors in the hierarchy
// of a controller of version 1.
func groupsOfMine(t *testing.T, controller string) []string {
	t.Helper()
	own, err := filepath.Glob(fmt.Sprintf("/sys/fs/cgroup/%s/crucible-%d-*", controller, os.Getpid()))
	require.NoError(t, err)
	deeper, err := filepath.Glob(fmt.Sprintf("/sys/fs/cgroup/%s/*/*/crucible-%d-*", controller, os.Getpid()))
	require.NoError(t, err)
	return append(own, deeper...)
}

// needsGroups skips where limits are not kept by cgroups of version 1.
func needsGroups(t *testing.T, l *executor.Local) {
	t.Helper()
	if st, err := l.Status(t.Context()); err != nil || st.Isolation.Level != "namespaces" || len(groupsOfMine(t, "memory")) == 0 {
		t.Skip("no cgroups of version 1 here")
	}
}

// takeAway removes a folder of groups, as an over-eager manager would: what
// is in them is moved to where the folder was.
func takeAway(t *testing.T, dir string) {
	t.Helper()
	// The executor removes some at the same time.
	testkit.Eventually(t, func() bool {
		groups, err := filepath.Glob(dir + "/*")
		require.NoError(t, err)
		for _, group := range append(groups, dir) {
			ids, _ := os.ReadFile(group + "/tasks")
			for id := range strings.FieldsSeq(string(ids)) {
				_ = os.WriteFile(filepath.Join(filepath.Dir(dir), "tasks"), []byte(id), 0)
			}
			_ = syscall.Rmdir(group)
		}
		_, err = os.Stat(dir)
		return errors.Is(err, os.ErrNotExist)
	}, "the groups are gone")
}

func TestALostControlGroupFailsTheRunAndIsMadeAgain(t *testing.T) {
	l := open(t, quick)
	needsGroups(t, l)
	i := 0
	for range 3 { // boxes lie ready then
		_, err := l.Run(t.Context(), echo(&i), nil)
		require.NoError(t, err)
	}
	before, err := l.Status(t.Context())
	require.NoError(t, err)
	for _, dir := range groupsOfMine(t, "memory") {
		takeAway(t, dir)
	}
	res, err := l.Run(t.Context(), echo(&i), nil)
	require.Equal(t, eval.KindSandbox, eval.KindOf(err), "%v", err)
	require.Equal(t, eval.RetryCounted, eval.KindOf(err).Info().Retry)
	require.Empty(t, res.Stdout.Data, "it did not run without its limit")
	for range 3 {
		res, err = l.Run(t.Context(), echo(&i), nil)
		require.NoError(t, err, "the next run waits for a sandbox that holds")
		require.Equal(t, "hello\n", string(res.Stdout.Data))
		require.Equal(t, "namespaces", res.Isolation.Level)
	}
	after, err := l.Status(t.Context())
	require.NoError(t, err)
	require.Equal(t, before.Isolation.Brief(), after.Isolation.Brief(), "though with other ids")
	require.Len(t, groupsOfMine(t, "memory"), 1)
}

func TestALostControlIsNoticedWithoutARun(t *testing.T) {
	cfg := quick
	cfg.ProveEvery = 50 * time.Millisecond
	l := open(t, cfg)
	needsGroups(t, l)
	gone := groupsOfMine(t, "memory")[0]
	takeAway(t, gone)
	testkit.Eventually(t, func() bool {
		now := groupsOfMine(t, "memory")
		return len(now) == 1 && now[0] != gone && l.Ready(t.Context()) == nil
	}, "there are new groups")
	i := 0
	testkit.Eventually(t, func() bool {
		_, err := l.Run(t.Context(), echo(&i), nil)
		require.NotEqual(t, eval.KindSandbox, eval.KindOf(err), "no run met the lost control: %v", err)
		return err == nil
	}, "a run succeeds")
}

func TestALauncherKilledInMidRunFailsItAsRetryable(t *testing.T) {
	l := open(t, quick)
	ended := make(chan error, 1)
	req := marked("launcher-killed")
	up := make(chan struct{}, 1)
	go func() {
		_, err := l.Run(t.Context(), req, func(e eval.RunEvent) {
			if e.Type == eval.RunStdout {
				up <- struct{}{}
			}
		})
		ended <- err
	}()
	<-up
	for _, pid := range launchers(t) {
		require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
	}
	err := <-ended
	require.Equal(t, eval.KindSandbox, eval.KindOf(err), "%v", err)
	require.Zero(t, alive(t, "launcher-killed"), "its processes are dead when it is told")
	i := 0
	_, err = l.Run(t.Context(), echo(&i), nil)
	require.NoError(t, err)
}

func TestWithoutDescriptorsRunsFailAsRetryableUntilThereAreSome(t *testing.T) {
	l := open(t, quick)
	i := 0
	_, err := l.Run(t.Context(), echo(&i), nil)
	require.NoError(t, err)
	var had syscall.Rlimit
	require.NoError(t, syscall.Getrlimit(syscall.RLIMIT_NOFILE, &had))
	t.Cleanup(func() { require.NoError(t, syscall.Setrlimit(syscall.RLIMIT_NOFILE, &had)) })
	require.NoError(t, syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: 3, Max: had.Max}))
	_, err = l.Run(t.Context(), echo(&i), nil)
	require.Equal(t, eval.KindSandbox, eval.KindOf(err), "%v", err)
	_, err = l.Run(t.Context(), echo(&i), nil)
	require.Equal(t, eval.KindUnavailable, eval.KindOf(err), "%v", err)
	require.ErrorContains(t, l.Ready(t.Context()), "too many open files")
	require.NoError(t, syscall.Setrlimit(syscall.RLIMIT_NOFILE, &had))
	testkit.EventuallyWithin(t, 15*time.Second, func() bool { return l.Ready(t.Context()) == nil }, "the sandbox is proven again")
	_, err = l.Run(t.Context(), echo(&i), nil)
	require.NoError(t, err)
}

func TestWithoutProcessesRunsFailAsRetryableUntilThereAreSome(t *testing.T) {
	l := open(t, quick)
	needsGroups(t, l)
	i := 0
	_, err := l.Run(t.Context(), echo(&i), nil)
	require.NoError(t, err)
	// A group around the launcher, which has no room for one more process.
	dir := fmt.Sprintf("/sys/fs/cgroup/pids/lost-%d", os.Getpid())
	require.NoError(t, os.Mkdir(dir, 0o755))
	t.Cleanup(func() {
		testkit.Eventually(t, func() bool {
			pids, _ := os.ReadFile(dir + "/cgroup.procs")
			for pid := range strings.FieldsSeq(string(pids)) {
				_ = os.WriteFile("/sys/fs/cgroup/pids/cgroup.procs", []byte(pid), 0)
			}
			return os.Remove(dir) == nil
		}, "the group is empty")
	})
	for _, pid := range launchers(t) {
		require.NoError(t, os.WriteFile(dir+"/cgroup.procs", fmt.Append(nil, pid), 0))
	}
	require.NoError(t, os.WriteFile(dir+"/pids.max", []byte("1"), 0))
	failed := false
	for range 20 { // boxes that lie ready run
		if _, err = l.Run(t.Context(), echo(&i), nil); err != nil {
			failed = true
			require.Contains(t, []eval.Kind{eval.KindSandbox, eval.KindUnavailable}, eval.KindOf(err), "%v", err)
			break
		}
	}
	require.True(t, failed)
	require.NoError(t, os.WriteFile(dir+"/pids.max", []byte("max"), 0))
	testkit.EventuallyWithin(t, 15*time.Second, func() bool {
		_, err = l.Run(t.Context(), echo(&i), nil)
		return err == nil
	}, "a run succeeds")
}

// TestReadOnlyControlGroups runs in a mount namespace of its own, where the
// groups of memory become read-only under the executor.
func TestReadOnlyControlGroups(t *testing.T) {
	if os.Getenv("CRUCIBLE_TEST_OWN_MOUNTS") == "" {
		if os.Geteuid() != 0 {
			t.Skip("only root can take them away")
		}
		cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^TestReadOnlyControlGroups$", "-test.v")
		cmd.Env = append(os.Environ(), "CRUCIBLE_TEST_OWN_MOUNTS=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, string(out))
		if strings.Contains(string(out), "--- SKIP") {
			t.Skip("no cgroups of version 1 here")
		}
		return
	}
	require.NoError(t, syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""))
	l := open(t, quick)
	needsGroups(t, l)
	s, client := serve(t, l)
	i := 0
	_, err := l.Run(t.Context(), echo(&i), nil)
	require.NoError(t, err)
	const memory = "/sys/fs/cgroup/memory"
	require.NoError(t, syscall.Mount(memory, memory, "", syscall.MS_BIND, ""))
	require.NoError(t, syscall.Mount("", memory, "", syscall.MS_REMOUNT|syscall.MS_BIND|syscall.MS_RDONLY, ""))
	for range 10 { // boxes that lie ready have their groups, and may run
		if _, err = l.Run(t.Context(), echo(&i), nil); err != nil {
			break
		}
	}
	require.Equal(t, eval.KindSandbox, eval.KindOf(err), "%v", err)
	_, err = l.Run(t.Context(), echo(&i), nil)
	require.Equal(t, eval.KindUnavailable, eval.KindOf(err), "%v", err)
	require.ErrorContains(t, err, "read-only file system")
	refused := post(t, t.Context(), client, s.URL(), echo(&i), "")
	require.Equal(t, 503, refused.StatusCode)
	require.NotEmpty(t, refused.Header.Get("Retry-After"))
	ready, err := client.Get(s.URL() + "/readyz")
	require.NoError(t, err)
	require.NoError(t, ready.Body.Close())
	require.Equal(t, 503, ready.StatusCode)
	st, err := l.Status(t.Context())
	require.NoError(t, err)
	require.Contains(t, st.Problem, "read-only file system")
	require.Equal(t, "namespaces", st.Isolation.Level, "it does not make do with less")

	require.NoError(t, syscall.Mount("", memory, "", syscall.MS_REMOUNT|syscall.MS_BIND, ""))
	testkit.EventuallyWithin(t, 15*time.Second, func() bool { return l.Ready(t.Context()) == nil }, "the sandbox is proven again")
	_, err = l.Run(t.Context(), echo(&i), nil)
	require.NoError(t, err)
}
