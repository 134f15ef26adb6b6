package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

type v2Tree struct {
	dir   string
	held  locks
	mkdir func(string, os.FileMode) error
	next  atomic.Int64
}

// controllers are switched on for the children of a folder.
const controllers = "+memory +pids +cpu"

// OpenV2 makes the executor's folder in parent, the group in which the
// executor runs. mkdir is os.Mkdir, but for tests, whose folders are not made
// by the kernel.
func OpenV2(parent string, mkdir func(string, os.FileMode) error) (Tree, error) {
	offered, err := read(parent, "cgroup.controllers")
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	for _, c := range []string{"memory", "pids", "cpu"} {
		if !strings.Contains(" "+offered+" ", " "+c+" ") {
			return nil, fmt.Errorf("%w: the %s controller is not delegated to %s "+
				"(systemd: start with Delegate=yes, e.g. systemd-run --user --scope -p Delegate=yes)", ErrUnavailable, c, parent)
		}
	}
	if err := delegate(parent, mkdir); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	reclaim([]string{parent})
	name, held, err := claim([]string{parent}, mkdir)
	if err != nil {
		return nil, err
	}
	t := &v2Tree{dir: filepath.Join(parent, name), held: held, mkdir: mkdir}
	if err := write(t.dir, "cgroup.subtree_control", controllers); err != nil {
		_ = t.Close()
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return t, nil
}

// delegate switches the controllers on for the children of parent. The
// kernel refuses while processes live in parent itself (but for the real
// root), so they move into a child beside ours: the executor's own, and in a
// container those that started it.
func delegate(parent string, mkdir func(string, os.FileMode) error) error {
	err := write(parent, "cgroup.subtree_control", controllers)
	if !errors.Is(err, unix.EBUSY) {
		return err
	}
	self := filepath.Join(parent, "crucible.self")
	if err := mkdir(self, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	pids, err := os.ReadFile(filepath.Join(parent, "cgroup.procs"))
	if err != nil {
		return err
	}
	for pid := range strings.FieldsSeq(string(pids)) {
		if err := write(self, "cgroup.procs", pid); err != nil && !errors.Is(err, unix.ESRCH) {
			return err
		}
	}
	return write(parent, "cgroup.subtree_control", controllers)
}

func (t *v2Tree) Version() int { return 2 }

func (t *v2Tree) Close() error {
	err := removeAll(t.dir)
	if errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	return errors.Join(err, t.held.Close())
}

func (t *v2Tree) New() (Group, error) {
	g := &v2Group{dir: filepath.Join(t.dir, strconv.FormatInt(t.next.Add(1), 10)), fd: -1}
	if err := t.mkdir(g.dir, 0o755); err != nil {
		return nil, fmt.Errorf("make cgroup: %w", err)
	}
	fd, err := unix.Open(g.dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		_ = g.Remove()
		return nil, fmt.Errorf("make cgroup: %w", err)
	}
	g.fd = fd
	return g, nil
}

// v2Group holds the whole box, its init included: that costs the program
// about two megabytes of its limit, and init's threads count as processes.
type v2Group struct {
	dir  string
	fd   int
	born Stats // what init alone had used, when the command came
	init int   // threads of init
}

func (g *v2Group) JoinFDs() []int       { return nil }
func (g *v2Group) FD() int              { return g.fd }
func (g *v2Group) OOM() <-chan struct{} { return nil }

// Settle is a part of Limit here, as init always is in the group.
func (g *v2Group) Settle() error { return nil }

func (g *v2Group) Limit(memory int64, processes int) error {
	if used, err := readInt(g.dir, "memory.current"); err == nil {
		g.born.MemoryPeak = used
	}
	if n, err := readInt(g.dir, "pids.current"); err == nil {
		g.init = int(n)
	}
	g.born.CPU, _ = g.CPU()
	if err := write(g.dir, "memory.max", strconv.FormatInt(memory+g.born.MemoryPeak, 10)); err != nil {
		return err
	}
	// Not there where the kernel has no swap accounting.
	if err := write(g.dir, "memory.swap.max", "0"); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := write(g.dir, "memory.oom.group", "1"); err != nil {
		return err
	}
	return g.Seal(processes + 1)
}

// Begin implements Group: Limit has begun the account.
func (g *v2Group) Begin() error { return nil }

func (g *v2Group) Seal(processes int) error {
	return write(g.dir, "pids.max", strconv.Itoa(processes+g.init))
}

func (g *v2Group) CPU() (time.Duration, error) {
	text, err := read(g.dir, "cpu.stat")
	if err != nil {
		return 0, err
	}
	return time.Duration(field(text, "usage_usec"))*time.Microsecond - g.born.CPU, nil
}

func (g *v2Group) Processes() (int, error) {
	n, err := readInt(g.dir, "pids.current")
	return int(n) - g.init, err
}

func (g *v2Group) Stats() (Stats, error) {
	var s Stats
	var err error
	if s.CPU, err = g.CPU(); err != nil {
		return s, err
	}
	// memory.peak came with Linux 5.19.
	if peak, err := readInt(g.dir, "memory.peak"); err == nil {
		s.MemoryPeak = max(peak-g.born.MemoryPeak, 0)
	}
	events, err := read(g.dir, "memory.events")
	if err != nil {
		return s, err
	}
	s.OOMKills = int(max(field(events, "oom_kill"), field(events, "oom_group_kill")))
	if peak, err := readInt(g.dir, "pids.peak"); err == nil {
		s.ProcessesPeak = max(int(peak)-g.init, 1)
	}
	return s, nil
}

func (g *v2Group) Remove() error {
	if g.fd >= 0 {
		_ = unix.Close(g.fd)
	}
	return removeGroup(g.dir)
}
