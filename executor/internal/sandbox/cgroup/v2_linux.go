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

// controllers are switched on for the children of a folder. CPU time is
// counted without a controller (see cpu.stat in the kernel's cgroup-v2.rst),
// and systemd does not give that one to its users.
const controllers = "+memory +pids"

// selfName is the group into which the executor moves from the one in which
// it was started.
const selfName = "crucible.self"

// hint is what to do where the group is not ours.
const hint = "(systemd: Delegate=yes in the unit, or start with systemd-run --user --scope -p Delegate=yes)"

// OpenV2 makes the executor's folder in parent, the group in which the
// executor runs. mkdir is os.Mkdir, but for tests, whose folders are not made
// by the kernel.
func OpenV2(parent string, mkdir func(string, os.FileMode) error) (Tree, error) {
	// Started by an executor, or by what was moved together with one: the
	// group to work in is where that one works.
	if filepath.Base(parent) == selfName {
		parent = filepath.Dir(parent)
	}
	offered, err := read(parent, "cgroup.controllers")
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	for _, c := range []string{"memory", "pids"} {
		if !strings.Contains(" "+offered+" ", " "+c+" ") {
			return nil, fmt.Errorf("%w: the %s controller is not delegated to %s %s", ErrUnavailable, c, parent, hint)
		}
	}
	if err := delegate(parent, controllers, mkdir); err != nil {
		return nil, fmt.Errorf("%w: %s cannot be used: %w %s", ErrUnavailable, parent, err, hint)
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
// container those that started it. Others may be started meanwhile: then there
// is another try.
func delegate(parent, controllers string, mkdir func(string, os.FileMode) error) error {
	var err error
	for range 10 {
		if err = write(parent, "cgroup.subtree_control", controllers); !errors.Is(err, unix.EBUSY) {
			return err
		}
		self := filepath.Join(parent, selfName)
		if err := mkdir(self, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
		pids, err := os.ReadFile(filepath.Join(parent, "cgroup.procs"))
		if err != nil {
			return err
		}
		for pid := range strings.FieldsSeq(string(pids)) {
			if pid == "0" {
				return errors.New("a process that is not to be seen from here, of another pid namespace, lives in it")
			}
			if err := write(self, "cgroup.procs", pid); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("move process %s out of it: %w", pid, err)
			}
		}
	}
	return err
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
	if err := g.make(t.mkdir); err != nil {
		_ = g.Remove()
		return nil, fmt.Errorf("make cgroup: %w", err)
	}
	return g, nil
}

// v2Group holds the whole box, its init included: what that has is measured
// when it waits for its command, and left out of limits and account.
type v2Group struct {
	dir  string
	fd   int
	peak file  // memory.peak, since Linux 5.19; what is written since 6.12 resets it for this descriptor
	born Stats // what init alone had used, when the command came
	init int   // threads of init, but for the one that ends when it has started the program
}

func (g *v2Group) make(mkdir func(string, os.FileMode) error) error {
	if err := mkdir(g.dir, 0o755); err != nil {
		return err
	}
	var err error
	if g.fd, err = unix.Open(g.dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
		g.fd = -1
		return err
	}
	if g.peak.open(g.dir, "memory.peak", unix.O_RDWR) == nil {
		return nil
	}
	return optional(g.peak.open(g.dir, "memory.peak", unix.O_RDONLY))
}

func (g *v2Group) JoinFDs() []int       { return nil }
func (g *v2Group) FD() int              { return g.fd }
func (g *v2Group) OOM() <-chan struct{} { return nil }

func (g *v2Group) Settle() error {
	var err error
	if g.born.CPU, err = g.CPU(); err != nil {
		return err
	}
	if g.born.MemoryPeak, err = readInt(g.dir, "memory.current"); err != nil {
		return err
	}
	n, err := readInt(g.dir, "pids.current")
	if err != nil {
		return err
	}
	g.init = max(int(n)-1, 0)
	if g.peak.there() {
		_ = g.peak.write(0) // any text; refused by older kernels
	}
	return nil
}

func (g *v2Group) Limit(memory int64, processes int) error {
	if err := write(g.dir, "memory.max", strconv.FormatInt(memory+g.born.MemoryPeak, 10)); err != nil {
		return err
	}
	// Not there where the kernel has no swap accounting. Without swap nothing
	// goes to zswap either.
	if err := optional(write(g.dir, "memory.swap.max", "0")); err != nil {
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
	if g.peak.there() {
		peak, err := g.peak.readInt()
		if err != nil {
			return s, err
		}
		s.MemoryPeak = max(peak-g.born.MemoryPeak, 0)
	}
	events, err := read(g.dir, "memory.events")
	if err != nil {
		return s, err
	}
	s.OOMKills = int(max(field(events, "oom_kill"), field(events, "oom_group_kill")))
	// pids.peak came with Linux 6.8.
	if peak, err := readInt(g.dir, "pids.peak"); err == nil {
		s.ProcessesPeak = max(int(peak)-g.init, 1)
	}
	return s, nil
}

func (g *v2Group) Remove() error {
	if g.fd >= 0 {
		_ = unix.Close(g.fd)
	}
	g.peak.close()
	return removeGroup(g.dir)
}
