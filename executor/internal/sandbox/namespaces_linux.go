package sandbox

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/crucible-eval/crucible/executor/internal/sandbox/cgroup"
	"github.com/crucible-eval/crucible/executor/internal/sandbox/filter"
)

// Ids of the program, inside.
const (
	insideUID = 1000
	insideGID = 1000
)

// openNamespaces makes a runtime of one of the two levels with namespaces, and
// starts its launcher.
func openNamespaces(cfg Config) (Runtime, error) {
	r, err := openBoxes(cfg, nil)
	if err != nil {
		return nil, err
	}
	return r, nil
}

// openBoxes does it, with gVisor in each box where g is not nil. runsc is the
// runtime's from there on, even if there is an error.
func openBoxes(cfg Config, g *gvisor) (*runtime, error) {
	r := &runtime{level: cfg.Level, log: cfg.Logger, rootless: os.Geteuid() != 0, slots: newSlots(), boxes: map[*box]struct{}{}, gvisor: g}
	var err error
	if r.filter, err = filter.Build(cfg.Level == LevelNamespaces); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnsupported, err)
	}
	if cfg.Level == LevelNamespaces {
		r.groups, err = cgroup.Open()
		if errors.Is(err, cgroup.ErrUnavailable) {
			err = fmt.Errorf("%w: %w; level %s does without", ErrUnsupported, err, LevelNamespacesRlimit)
		}
		if err != nil {
			return nil, errors.Join(err, r.Close())
		}
	}
	if r.exe, err = initProgram(cfg.InitPath); err == nil {
		r.procMask, r.procRO = procCovers()
		_, err = r.launcher()
	}
	if err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

// runtime is every level but gvisor. The two with namespaces differ in whether
// there are groups; the two without have confined set, and no launcher.
type runtime struct {
	level    string
	confined *confinement // nil: namespaces
	log      *slog.Logger
	rootless bool
	exe      *os.File
	filter   string
	procMask []string
	procRO   []string
	groups   cgroup.Tree // nil: limits are approximated
	slots    *slots
	gvisor   *gvisor // nil: programs run on the host's kernel

	fresh atomic.Pointer[Isolation] // what Open has just seen

	mu         sync.Mutex
	client     *client
	closed     bool
	boxes      map[*box]struct{}
	workspaces int64
	background sync.WaitGroup // boxes and workspaces on their way out
}

// launcher returns the running launcher, and starts another if it died.
func (r *runtime) launcher() (*client, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil, ErrClosed
	}
	if r.client != nil {
		if r.client.alive() {
			return r.client, nil
		}
		r.log.Warn("sandbox launcher died, starting another")
		r.client.close()
		r.client = nil
	}
	c, err := startLauncher(r.exe, r.rootless)
	if err != nil {
		return nil, err
	}
	r.client = c
	return c, nil
}

// aside gives f to a goroutine that Close waits for, so that a run's answer
// does not wait for tidying up. When closing already, it is done at once.
func (r *runtime) aside(f func()) {
	r.mu.Lock()
	closed := r.closed
	if !closed {
		r.background.Go(f)
	}
	r.mu.Unlock()
	if closed {
		f()
	}
}

func (r *runtime) Close() error {
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		return nil
	}
	r.closed = true
	c := r.client
	boxes := make([]*box, 0, len(r.boxes))
	for b := range r.boxes {
		boxes = append(boxes, b)
	}
	r.mu.Unlock()
	for _, b := range boxes {
		_ = b.Close()
	}
	r.background.Wait()
	if c != nil {
		c.close()
	}
	var err error
	if r.groups != nil {
		err = r.groups.Close()
	}
	if r.confined != nil && r.confined.private != nil {
		err = errors.Join(err, r.confined.private.close())
	}
	if r.exe != nil {
		err = errors.Join(err, r.exe.Close())
	}
	if r.gvisor != nil {
		err = errors.Join(err, r.gvisor.runsc.Close())
	}
	return err
}

// procCovers returns what of /proc is covered with /dev/null and what is made
// read-only, as far as this kernel has it. Most of it is root's alone anyway,
// and root of the host is nobody in a box: this is the second lock.
func procCovers() (mask, readOnly []string) {
	for _, name := range []string{
		"kcore", "keys", "key-users", "kmsg", "kallsyms", "timer_list", "sched_debug", "sysrq-trigger",
		"config.gz", "modules", "interrupts", "kpagecount", "kpageflags", "kpagecgroup",
	} {
		if unix.Access("/proc/"+name, unix.F_OK) == nil {
			mask = append(mask, "/proc/"+name)
		}
	}
	for _, name := range []string{"sys", "irq", "bus", "fs", "acpi", "scsi"} {
		if unix.Access("/proc/"+name, unix.F_OK) == nil {
			readOnly = append(readOnly, "/proc/"+name)
		}
	}
	return mask, readOnly
}
