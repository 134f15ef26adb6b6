package cgroup

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

type v1Tree struct {
	memory, pids, cpuacct string // folders of this executor
	dirs                  []string
	held                  locks
	next                  atomic.Int64
}

func openV1(controllers map[string]string) (Tree, error) {
	parents := []string{controllers["memory"], controllers["pids"], controllers["cpuacct"]}
	reclaim(parents)
	name, held, err := claim(parents, os.Mkdir)
	if err != nil {
		return nil, err
	}
	t := &v1Tree{
		memory:  filepath.Join(parents[0], name),
		pids:    filepath.Join(parents[1], name),
		cpuacct: filepath.Join(parents[2], name),
		held:    held,
	}
	t.dirs = []string{t.memory, t.pids, t.cpuacct}
	return t, nil
}

func (t *v1Tree) Version() int { return 1 }

func (t *v1Tree) Close() error {
	var errs []error
	for _, dir := range t.dirs {
		if err := removeAll(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(append(errs, t.held.Close())...)
}

func (t *v1Tree) New() (Group, error) {
	name := "/" + strconv.FormatInt(t.next.Add(1), 10)
	g := &v1Group{memory: t.memory + name, pids: t.pids + name, cpuacct: t.cpuacct + name}
	for _, dir := range g.dirs() {
		err := unix.Mkdir(dir, 0o755)
		if err == nil {
			var fd int
			fd, err = unix.Open(dir+"/tasks", unix.O_WRONLY|unix.O_CLOEXEC, 0)
			if err == nil {
				g.tasks = append(g.tasks, fd)
			}
		}
		if err != nil {
			_ = g.Remove()
			return nil, fmt.Errorf("make cgroup: %w", err)
		}
	}
	if err := g.watchOOM(); err != nil {
		_ = g.Remove()
		return nil, err
	}
	return g, nil
}

type v1Group struct {
	memory, pids, cpuacct string
	tasks                 []int
	event                 *os.File // wakes the watcher
	oomFile               int
	oom                   chan struct{}
	watcher               chan struct{}
}

func (g *v1Group) dirs() []string       { return []string{g.memory, g.pids, g.cpuacct} }
func (g *v1Group) JoinFDs() []int       { return g.tasks }
func (g *v1Group) FD() int              { return -1 }
func (g *v1Group) OOM() <-chan struct{} { return g.oom }

func (g *v1Group) Limit(memory int64, processes int) error {
	value := strconv.FormatInt(memory, 10)
	if err := write(g.memory, "memory.limit_in_bytes", value); err != nil {
		return err
	}
	// Not there where the kernel does not account swap.
	if err := write(g.memory, "memory.memsw.limit_in_bytes", value); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return g.Seal(processes + 1)
}

func (g *v1Group) Seal(processes int) error {
	return write(g.pids, "pids.max", strconv.Itoa(processes))
}

// watchOOM asks the kernel for a wake-up. The event alone says nothing: it
// comes at removal too, and the counter decides.
func (g *v1Group) watchOOM() error {
	efd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return fmt.Errorf("eventfd: %w", err)
	}
	g.event = os.NewFile(uintptr(efd), "oom-event")
	g.oomFile, err = unix.Open(g.memory+"/memory.oom_control", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		g.oomFile = -1
		return fmt.Errorf("cgroup memory.oom_control: %w", err)
	}
	if err := write(g.memory, "cgroup.event_control", fmt.Sprintf("%d %d", efd, g.oomFile)); err != nil {
		return err
	}
	g.oom, g.watcher = make(chan struct{}), make(chan struct{})
	go func() {
		defer close(g.watcher)
		var b [8]byte
		for {
			if _, err := g.event.Read(b[:]); err != nil {
				return
			}
			// The event comes before the killing. Wait for the count, a little.
			for range 50 {
				if n, err := g.oomKills(); err != nil {
					return
				} else if n > 0 {
					close(g.oom)
					return
				}
				time.Sleep(time.Millisecond)
			}
		}
	}()
	return nil
}

func (g *v1Group) oomKills() (int, error) {
	text, err := read(g.memory, "memory.oom_control")
	return int(field(text, "oom_kill")), err
}

func (g *v1Group) CPU() (time.Duration, error) {
	ns, err := readInt(g.cpuacct, "cpuacct.usage")
	return time.Duration(ns), err
}

func (g *v1Group) Stats() (Stats, error) {
	var s Stats
	var err error
	if s.CPU, err = g.CPU(); err != nil {
		return s, err
	}
	if s.MemoryPeak, err = readInt(g.memory, "memory.max_usage_in_bytes"); err != nil {
		return s, err
	}
	if s.OOMKills, err = g.oomKills(); err != nil {
		return s, err
	}
	if peak, err := readInt(g.pids, "pids.peak"); err == nil && peak < math.MaxInt32 {
		s.ProcessesPeak = int(peak)
	}
	return s, nil
}

func (g *v1Group) Remove() error {
	if g.event != nil {
		_ = g.event.Close()
		if g.watcher != nil {
			<-g.watcher
		}
		if g.oomFile >= 0 {
			_ = unix.Close(g.oomFile)
		}
	}
	for _, fd := range g.tasks {
		_ = unix.Close(fd)
	}
	var errs []error
	for _, dir := range g.dirs() {
		if err := removeGroup(dir); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
