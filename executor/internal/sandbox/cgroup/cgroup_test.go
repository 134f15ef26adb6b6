//go:build linux

package cgroup_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/executor/internal/sandbox/cgroup"
)

func TestLocate(t *testing.T) {
	v1 := "4:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc\n2:pids:/\n0::/unified/x\n"
	for _, c := range []struct {
		name, own, mounts string
		want              cgroup.Place
	}{
		{
			"version 1 on a host", v1,
			"31 30 0:1 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n" +
				"32 30 0:2 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n" +
				"33 30 0:3 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n" +
				"34 30 0:4 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n",
			cgroup.Place{Controllers: map[string]string{
				"memory": "/sys/fs/cgroup/memory/docker/abc", "cpuacct": "/sys/fs/cgroup/cpu,cpuacct/docker/abc", "pids": "/sys/fs/cgroup/pids",
			}, Unified: "/sys/fs/cgroup/unified/unified/x"},
		},
		{
			"version 1 in a container", v1,
			"31 30 0:1 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n",
			cgroup.Place{Controllers: map[string]string{"memory": "/sys/fs/cgroup/memory"}},
		},
		{
			"version 2", "0::/user.slice/a b.scope\n",
			"30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n",
			cgroup.Place{Controllers: map[string]string{}, Unified: "/sys/fs/cgroup/user.slice/a b.scope"},
		},
		{
			"version 2 behind a namespace", "0::/../../x\n",
			"30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup rw\n",
			cgroup.Place{Controllers: map[string]string{}, Unified: "/sys/fs/cgroup/x"},
		},
		{"nothing", "", "garbage\n- -\n", cgroup.Place{Controllers: map[string]string{}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			require.Equal(t, c.want, cgroup.Locate(c.own, c.mounts))
		})
	}
}

func FuzzLocate(f *testing.F) {
	f.Add("0::/x\n", "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup rw\n")
	f.Add("4:memory:/a", "31 30 0:1 /a /m ro - cgroup cgroup rw,memory")
	f.Fuzz(func(_ *testing.T, own, mounts string) { cgroup.Locate(own, mounts) })
}

// fake stands in for the kernel: a new folder of a group holds its files.
func fake(files map[string]string) func(string, os.FileMode) error {
	return func(dir string, mode os.FileMode) error {
		if err := os.Mkdir(dir, mode); err != nil {
			return err
		}
		for name, content := range files {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
				return err
			}
		}
		return nil
	}
}

// TestVersion2 drives the group of a box through its life on a tree of plain
// files: this shows what is written and read, not what the kernel does.
func TestVersion2(t *testing.T) {
	parent := filepath.Join(t.TempDir(), "unit")
	files := map[string]string{
		"cgroup.controllers": "cpuset cpu io memory pids\n", "cgroup.subtree_control": "",
		"memory.max": "max\n", "memory.swap.max": "max\n", "memory.oom.group": "0\n", "memory.current": "2000000\n",
		"memory.peak": "2100000\n", "memory.events": "low 0\noom 0\noom_kill 0\noom_group_kill 0\n",
		"pids.max": "max\n", "pids.current": "5\n", "pids.peak": "6\n", "cpu.stat": "usage_usec 3000\nuser_usec 1\n",
	}
	mkdir := fake(files)
	require.NoError(t, mkdir(parent, 0o755))
	tree, err := cgroup.OpenV2(parent, mkdir)
	require.NoError(t, err)
	require.Equal(t, 2, tree.Version())
	own, err := filepath.Glob(filepath.Join(parent, "crucible-*"))
	require.NoError(t, err)
	require.Len(t, own, 1)
	g, err := tree.New()
	require.NoError(t, err)
	dir := filepath.Join(own[0], "1")
	get := func(name string) string {
		b, err := os.ReadFile(filepath.Join(dir, name))
		require.NoError(t, err)
		return strings.TrimSpace(string(b))
	}
	set := func(name, content string) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644))
	}
	require.GreaterOrEqual(t, g.FD(), 0)
	require.Empty(t, g.JoinFDs())

	// Init's own share comes on top of what the program may have: four of its
	// five threads stay when the program has been started.
	require.NoError(t, g.Settle())
	require.NoError(t, g.Limit(64<<20, 10))
	require.Equal(t, "69108864", get("memory.max"))
	require.Equal(t, "0", get("memory.swap.max"))
	require.Equal(t, "1", get("memory.oom.group"))
	require.Equal(t, "15", get("pids.max"))
	require.NoError(t, g.Seal(10))
	require.Equal(t, "14", get("pids.max"))
	n, err := g.Processes()
	require.NoError(t, err)
	require.Equal(t, 1, n)

	set("cpu.stat", "usage_usec 103000\nuser_usec 1\n")
	set("memory.peak", "12000000\n")
	set("memory.events", "low 0\noom 1\noom_kill 3\noom_group_kill 1\n")
	set("pids.peak", "9\n")
	s, err := g.Stats()
	require.NoError(t, err)
	require.Equal(t, cgroup.Stats{CPU: 100 * time.Millisecond, MemoryPeak: 10_000_000, ProcessesPeak: 5, OOMKills: 3}, s)
}

// TestVersion2BesideAnother starts where an executor that was here before has
// put what lived in the group: it works where that one did.
func TestVersion2BesideAnother(t *testing.T) {
	parent := filepath.Join(t.TempDir(), "unit")
	mkdir := fake(map[string]string{"cgroup.controllers": "memory pids\n", "cgroup.subtree_control": ""})
	require.NoError(t, mkdir(parent, 0o755))
	require.NoError(t, mkdir(filepath.Join(parent, cgroup.SelfName), 0o755))
	_, err := cgroup.OpenV2(filepath.Join(parent, cgroup.SelfName), mkdir)
	require.NoError(t, err)
	own, err := filepath.Glob(filepath.Join(parent, "crucible-*"))
	require.NoError(t, err)
	require.Len(t, own, 1)
}

// TestVersion2OldKernel has no memory.peak, pids.peak, nor swap accounting.
func TestVersion2OldKernel(t *testing.T) {
	g, err := cgroup.NewV2(t.TempDir(), fake(map[string]string{
		"memory.max": "max\n", "memory.oom.group": "0\n", "memory.current": "2000000\n", "memory.events": "oom_kill 0\n",
		"pids.max": "max\n", "pids.current": "5\n", "cpu.stat": "usage_usec 3000\n",
	}))
	require.NoError(t, err)
	require.NoError(t, g.Settle())
	require.NoError(t, g.Limit(1<<20, 1))
	s, err := g.Stats()
	require.NoError(t, err)
	require.Equal(t, cgroup.Stats{}, s)
}

// spare is a controller that nobody needs.
const spare = "hugetlb"

// unified returns a folder in a real hierarchy of version 2, which is there
// without the controllers that boxes need where version 1 has those.
func unified(t *testing.T) string {
	t.Helper()
	own, err := os.ReadFile("/proc/self/cgroup")
	require.NoError(t, err)
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	require.NoError(t, err)
	root := cgroup.Locate(string(own), string(mounts)).Unified
	dir := filepath.Join(root, fmt.Sprintf("test-%d-%d", os.Getpid(), time.Now().UnixNano()))
	if root == "" || os.Mkdir(dir, 0o755) != nil {
		t.Skip("no hierarchy of version 2 can be written here")
	}
	t.Cleanup(func() {
		_ = os.Remove(filepath.Join(dir, cgroup.SelfName))
		require.NoError(t, os.Remove(dir))
		// As it was, unless another test needs it at this moment.
		_ = os.WriteFile(filepath.Join(root, "cgroup.subtree_control"), []byte("-"+spare), 0)
	})
	return dir
}

// spin starts a process that uses CPU time, in a group of version 2.
func spin(t *testing.T, group int) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("sh", "-c", "while :; do :; done")
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: group, Pdeathsig: syscall.SIGKILL}
	require.NoError(t, cmd.Start())
	return cmd
}

func TestVersion2CountsCPUTimeWithoutAController(t *testing.T) {
	g, err := cgroup.NewV2(unified(t), os.Mkdir)
	require.NoError(t, err)
	cmd := spin(t, g.FD())
	require.Eventually(t, func() bool {
		used, err := g.CPU()
		require.NoError(t, err)
		return used > 50*time.Millisecond
	}, 10*time.Second, time.Millisecond)
	require.NoError(t, g.Remove(), "what is left is killed")
	require.ErrorContains(t, cmd.Wait(), "signal: killed")
}

// TestVersion2LeavesItsGroupToTheControllers has a controller switched on in
// a group that holds a process, which the kernel refuses at first.
func TestVersion2LeavesItsGroupToTheControllers(t *testing.T) {
	dir := unified(t)
	if err := os.WriteFile(filepath.Join(filepath.Dir(dir), "cgroup.subtree_control"), []byte("+"+spare), 0); err != nil {
		t.Skip("no spare controller here: ", err)
	}
	f, err := os.Open(dir)
	require.NoError(t, err)
	defer func() { _ = f.Close() }()
	cmd := spin(t, int(f.Fd()))
	defer func() { _, _ = cmd.Process.Kill(), cmd.Wait() }()
	require.ErrorIs(t, os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+spare), 0), syscall.EBUSY)
	require.NoError(t, cgroup.Delegate(dir, "+"+spare, os.Mkdir))
	require.NoError(t, cgroup.Delegate(dir, "+"+spare, os.Mkdir), "twice is fine")
	moved, err := os.ReadFile(filepath.Join(dir, cgroup.SelfName, "cgroup.procs"))
	require.NoError(t, err)
	require.Equal(t, strconv.Itoa(cmd.Process.Pid), strings.TrimSpace(string(moved)))
}

func TestVersion2NotDelegated(t *testing.T) {
	parent := filepath.Join(t.TempDir(), "unit")
	mkdir := fake(map[string]string{"cgroup.controllers": "cpu io\n", "cgroup.subtree_control": ""})
	require.NoError(t, mkdir(parent, 0o755))
	_, err := cgroup.OpenV2(parent, mkdir)
	require.ErrorIs(t, err, cgroup.ErrUnavailable)
	require.ErrorContains(t, err, "memory")
}

// openTree opens a tree, or skips where none can be; as root with
// REQUIRE_SERVICES=1 that is a failure.
func openTree(t *testing.T) cgroup.Tree {
	t.Helper()
	tree, err := cgroup.Open()
	if err != nil {
		if os.Getenv("REQUIRE_SERVICES") == "1" && os.Geteuid() == 0 {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	return tree
}

// TestManyExecutors opens trees at the same time, each of which takes the
// others' for abandoned until they are locked: none may lose its own.
func TestManyExecutors(t *testing.T) {
	tree := openTree(t)
	require.NoError(t, tree.Close())
	errs := make(chan error, 8)
	for range cap(errs) {
		go func() {
			errs <- func() error {
				for range 20 {
					tree, err := cgroup.Open()
					if err != nil {
						return err
					}
					g, err := tree.New()
					if err != nil {
						return err
					}
					if err := g.Limit(1<<20, 1); err != nil {
						return err
					}
					if err := g.Remove(); err != nil {
						return err
					}
					if err := tree.Close(); err != nil {
						return err
					}
				}
				return nil
			}()
		}()
	}
	for range cap(errs) {
		require.NoError(t, <-errs)
	}
}

// TestExecutorsThatShareSomeHierarchies reclaims as an executor does that is
// in the same groups as a living one except for memory.
func TestExecutorsThatShareSomeHierarchies(t *testing.T) {
	tree := openTree(t)
	defer func() { require.NoError(t, tree.Close()) }()
	if tree.Version() != 1 {
		t.Skip("there is one hierarchy only")
	}
	own, err := os.ReadFile("/proc/self/cgroup")
	require.NoError(t, err)
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	require.NoError(t, err)
	place := cgroup.Locate(string(own), string(mounts))
	cgroup.Reclaim([]string{t.TempDir(), place.Controllers["pids"], place.Controllers["cpuacct"]})
	g, err := tree.New()
	require.NoError(t, err, "the living executor lost its folders")
	require.NoError(t, g.Remove())
}
