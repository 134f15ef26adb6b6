//go:build linux

package abuse_test

import (
	"bytes"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// state is what of the host has to be after a run as it was before, by name.
type state map[string]int

// look counts. Boxes that the executor keeps ready are a part of the state:
// they are as many after a run as before.
func look(t testing.TB, folders ...string) state {
	t.Helper()
	s := state{"goroutines": runtime.NumGoroutine()}
	tree := processTree(t)
	self := os.Getpid()
	s["own descriptors"] = entries(fmt.Sprintf("/proc/%d/fd", self))
	s["own mounts"] = lines(fmt.Sprintf("/proc/%d/mountinfo", self))
	for pid, p := range tree {
		switch depth := tree.below(pid, self); {
		case depth < 1:
			continue
		case p.zombie:
			s["dead processes that nobody buried"]++
		case depth == 1:
			s["launchers"]++ // or inits, where there is no launcher
			if p.name != "sandbox-launch" {
				continue
			}
			s["descriptors of launchers"] += entries(fmt.Sprintf("/proc/%d/fd", pid))
			s["mounts of launchers"] += lines(fmt.Sprintf("/proc/%d/mountinfo", pid))
		case depth == 2:
			s["boxes"]++
		case p.name == "exe" && tree.box(pid, self) != "sandbox-init":
			// gVisor's own processes, of which it starts some when it likes. They end
			// with their box, and no program is one of them.
		default:
			s["programs in boxes"]++
		}
	}
	for pid := range tree {
		// Whoever its parent is.
		if exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid)); err == nil && strings.HasPrefix(exe, made.hostile) {
			s["hostile programs"]++
		}
	}
	for _, pattern := range []string{"/sys/fs/cgroup/*/crucible-%d-*/*", "/sys/fs/cgroup/*/*/crucible-%d-*/*", "/sys/fs/cgroup/crucible-%d-*/*", "/sys/fs/cgroup/*/*/*/crucible-%d-*/*"} {
		names, err := filepath.Glob(fmt.Sprintf(pattern, self))
		require.NoError(t, err)
		for _, name := range names {
			if info, err := os.Stat(name); err == nil && info.IsDir() {
				s["control groups"]++
			}
		}
	}
	for kind, uid := range map[string]int{"shm": 7, "msg": 7, "sem": 4} { // the column of the owner
		s["System V objects"] += ofBoxes("/proc/sysvipc/"+kind, uid)
	}
	for _, dir := range folders {
		_ = filepath.WalkDir(dir, func(string, fs.DirEntry, error) error { s["files"]++; return nil })
	}
	maps.DeleteFunc(s, func(_ string, n int) bool { return n == 0 })
	return s
}

// differs says what is not as in want.
func (s state) differs(want state) string {
	var all []string
	for _, name := range slices.Sorted(maps.Keys(merged(s, want))) {
		if s[name] != want[name] {
			all = append(all, fmt.Sprintf("%s: %d, before %d", name, s[name], want[name]))
		}
	}
	return strings.Join(all, "; ")
}

func merged(a, b state) state {
	m := maps.Clone(a)
	maps.Copy(m, b)
	return m
}

// settle waits until the host is as it was, and returns how long that took.
func settle(t testing.TB, want state, folders ...string) (time.Duration, string) {
	t.Helper()
	began := time.Now()
	for {
		diff := look(t, folders...).differs(want)
		took := time.Since(began)
		if diff == "" || took > 5*time.Second {
			return took, diff
		}
		time.Sleep(min(took/4+time.Millisecond, 20*time.Millisecond))
	}
}

// steady waits until nothing changes any more, and returns what there is.
func steady(t testing.TB, folders ...string) state {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	last, since := look(t, folders...), time.Now()
	for time.Since(since) < 150*time.Millisecond {
		require.True(t, time.Now().Before(deadline), "the host does not become quiet: %v", last)
		time.Sleep(10 * time.Millisecond)
		if now := look(t, folders...); now.differs(last) != "" {
			last, since = now, time.Now()
		}
	}
	return last
}

type process struct {
	name   string
	parent int
	zombie bool
}

type tree map[int]process

// processTree reads who is whose child.
func processTree(t testing.TB) tree {
	t.Helper()
	dir, err := os.Open("/proc")
	require.NoError(t, err)
	names, err := dir.Readdirnames(-1)
	require.NoError(t, err)
	_ = dir.Close()
	all := tree{}
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		stat, err := os.ReadFile("/proc/" + name + "/stat")
		if err != nil {
			continue
		}
		_, name, _ := bytes.Cut(stat[:bytes.LastIndexByte(stat, ')')], []byte("("))
		f := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
		if len(f) < 2 {
			continue
		}
		parent, _ := strconv.Atoi(f[1])
		all[pid] = process{string(name), parent, f[0] == "Z" || f[0] == "X"}
	}
	return all
}

// box is the name of the first process of the box that a process is in.
func (t tree) box(pid, executor int) string {
	for t.below(pid, executor) > 2 {
		pid = t[pid].parent
	}
	return t[pid].name
}

// below is how many generations a process is below another; 0 for none.
func (t tree) below(pid, ancestor int) int {
	for n := 1; n < 100; n++ {
		parent := t[pid].parent
		if parent == ancestor {
			return n
		}
		if parent == 0 {
			return 0
		}
		pid = parent
	}
	return 0
}

func entries(dir string) int {
	list, err := os.ReadDir(dir)
	if err != nil {
		return 0
	}
	return len(list)
}

// ofBoxes counts the lines whose column is the user id of a box. PostgreSQL
// and others on the host have objects, too.
func ofBoxes(file string, column int) int {
	b, err := os.ReadFile(file)
	if err != nil {
		return 0
	}
	n := 0
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > column {
			if uid, err := strconv.ParseInt(f[column], 10, 64); err == nil && uid >= 1_900_000_000 {
				n++
			}
		}
	}
	return n
}

func lines(file string) int {
	b, err := os.ReadFile(file)
	if err != nil {
		return 0
	}
	return bytes.Count(b, []byte("\n"))
}
