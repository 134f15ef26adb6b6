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
	if err := g.make(); err != nil {
		_ = g.Remove()
		return nil, fmt.Errorf("make cgroup: %w", err)
	}
	return g, nil
}

// v1Group has its files open from the start: a run does not wait for paths to
// be looked up.
type v1Group struct {
	memory, pids, cpuacct string // folders
	tasks                 []int

	limit, swap, peak, oomControl file // of memory; swap only where it is accounted
	max, procsPeak                file // of pids; the peak since Linux 6.8
	usage                         file // of cpuacct

	born Stats // what does not count: see Settle
	init int   // processes and threads that do not count

	event   *os.File // wakes the watcher
	oom     chan struct{}
	watcher chan struct{}
}

func (g *v1Group) make() error {
	for _, dir := range g.dirs() {
		if err := unix.Mkdir(dir, 0o755); err != nil {
			return err
		}
		fd, err := unix.Open(dir+"/tasks", unix.O_WRONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		g.tasks = append(g.tasks, fd)
	}
	return errors.Join(
		g.limit.open(g.memory, "memory.limit_in_bytes", unix.O_WRONLY),
		optional(g.swap.open(g.memory, "memory.memsw.limit_in_bytes", unix.O_WRONLY)),
		g.peak.open(g.memory, "memory.max_usage_in_bytes", unix.O_RDWR),
		g.oomControl.open(g.memory, "memory.oom_control", unix.O_RDONLY),
		g.max.open(g.pids, "pids.max", unix.O_WRONLY),
		optional(g.procsPeak.open(g.pids, "pids.peak", unix.O_RDONLY)),
		g.usage.open(g.cpuacct, "cpuacct.usage", unix.O_RDONLY),
		g.watchOOM(),
	)
}

// optional is for files that not every kernel has.
func optional(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

func (g *v1Group) dirs() []string       { return []string{g.memory, g.pids, g.cpuacct} }
func (g *v1Group) JoinFDs() []int       { return g.tasks }
func (g *v1Group) FD() int              { return -1 }
func (g *v1Group) OOM() <-chan struct{} { return g.oom }

func (g *v1Group) Settle() error {
	var err error
	if g.born.CPU, err = g.CPU(); err != nil {
		return err
	}
	if g.born.MemoryPeak, err = readInt(g.memory, "memory.usage_in_bytes"); err != nil {
		return err
	}
	n, err := readInt(g.pids, "pids.current")
	if err != nil {
		return err
	}
	g.init = int(n)
	return g.peak.write(0)
}

func (g *v1Group) Begin() error {
	ns, err := g.usage.readInt()
	if err != nil {
		return err
	}
	g.born.CPU = time.Duration(ns)
	return g.peak.write(0)
}

func (g *v1Group) Limit(memory int64, processes int) error {
	memory += g.born.MemoryPeak
	if err := g.limit.write(memory); err != nil {
		return err
	}
	if g.swap.there() {
		if err := g.swap.write(memory); err != nil {
			return err
		}
	}
	return g.Seal(processes + 1)
}

func (g *v1Group) Seal(processes int) error { return g.max.write(int64(processes + g.init)) }

// watchOOM asks the kernel for a wake-up. The event alone says nothing: it
// comes at removal too, and the counter decides.
func (g *v1Group) watchOOM() error {
	efd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return fmt.Errorf("eventfd: %w", err)
	}
	g.event = os.NewFile(uintptr(efd), "oom-event")
	if err := write(g.memory, "cgroup.event_control", fmt.Sprintf("%d %d", efd, g.oomControl.fd)); err != nil {
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
	text, err := g.oomControl.read()
	return int(field(text, "oom_kill")), err
}

func (g *v1Group) CPU() (time.Duration, error) {
	ns, err := g.usage.readInt()
	return time.Duration(ns) - g.born.CPU, err
}

func (g *v1Group) Processes() (int, error) {
	n, err := readInt(g.pids, "pids.current")
	return int(n) - g.init, err
}

func (g *v1Group) Stats() (Stats, error) {
	var s Stats
	var err error
	if s.CPU, err = g.CPU(); err != nil {
		return s, err
	}
	peak, err := g.peak.readInt()
	if err != nil {
		return s, err
	}
	s.MemoryPeak = max(peak-g.born.MemoryPeak, 0)
	if s.OOMKills, err = g.oomKills(); err != nil {
		return s, err
	}
	if g.procsPeak.there() {
		if peak, err := g.procsPeak.readInt(); err == nil && peak < math.MaxInt32 {
			s.ProcessesPeak = max(int(peak)-g.init, 1)
		}
	}
	return s, nil
}

func (g *v1Group) Remove() error {
	if g.event != nil {
		_ = g.event.Close()
		if g.watcher != nil {
			<-g.watcher
		}
	}
	for _, fd := range g.tasks {
		_ = unix.Close(fd)
	}
	for _, f := range []*file{&g.limit, &g.swap, &g.peak, &g.oomControl, &g.max, &g.procsPeak, &g.usage} {
		f.close()
	}
	var errs []error
	for _, dir := range g.dirs() {
		if err := removeGroup(dir); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
