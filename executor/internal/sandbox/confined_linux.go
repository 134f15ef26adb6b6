package sandbox

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/crucible-eval/crucible/executor/internal/sandbox/cgroup"
	"github.com/crucible-eval/crucible/executor/internal/sandbox/filter"
	"github.com/crucible-eval/crucible/executor/internal/sandbox/landlock"
	"github.com/crucible-eval/crucible/executor/internal/sandbox/launcher"
	"github.com/crucible-eval/crucible/executor/internal/sandbox/wire"
)

// confinement is what stands in for namespaces at the levels landlock and
// none: boxes are processes among those of the machine.
type confinement struct {
	landlock int  // version that programs are confined with; 0: they are not
	fence    bool // the kernel can keep signals in, so that a box dies at once
	filter   string
	private  *private
}

func openLandlock(cfg Config) (Runtime, error) {
	abi, err := landlock.ABI()
	if err != nil {
		return nil, fmt.Errorf("%w: level %s: %w", ErrUnsupported, LevelLandlock, err)
	}
	return openConfined(cfg, abi, abi)
}

func openNone(cfg Config) (Runtime, error) {
	cfg.Logger.Warn("programs run unsafely: nothing is between them and this machine but limits", "level", LevelNone)
	abi, _ := landlock.ABI() // to end boxes with, nothing else
	return openConfined(cfg, 0, abi)
}

// openConfined makes a runtime without namespaces. Programs are confined with
// version abi of Landlock, 0 for not at all; kernel is the version there is.
func openConfined(cfg Config, abi, kernel int) (Runtime, error) {
	base, own := spareIDs()
	r := &runtime{
		level: cfg.Level, log: cfg.Logger, rootless: !own, slots: &slots{base: base}, boxes: map[*box]struct{}{},
		confined: &confinement{landlock: abi, fence: kernel >= landlock.ABIScopes},
	}
	var err error
	if r.groups, err = cgroup.Open(); err != nil && !errors.Is(err, cgroup.ErrUnavailable) {
		return nil, err
	}
	if abi > 0 {
		around := filter.Confined{Landlock: abi, SharedUser: !own, Counted: r.groups != nil}
		if r.confined.filter, err = around.Build(); err != nil {
			return nil, errors.Join(fmt.Errorf("%w: %w", ErrUnsupported, err), r.Close())
		}
	}
	if r.confined.private, err = openPrivate(cfg.Logger, own); err == nil {
		r.exe, err = initProgram(cfg.InitPath)
	}
	if err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

// neededCaps are what it takes to give each box a user of its own.
var neededCaps = []uint{
	unix.CAP_CHOWN, unix.CAP_DAC_OVERRIDE, unix.CAP_FOWNER, unix.CAP_KILL, unix.CAP_SETGID, unix.CAP_SETUID, unix.CAP_SETPCAP,
}

// spareIDs returns the first of the ids that boxes may have for themselves;
// false where the executor may not become another user.
func spareIDs() (base int64, ok bool) {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if unix.Capget(&hdr, &data[0]) != nil {
		return 0, false
	}
	for _, c := range neededCaps {
		if data[0].Effective&(1<<c) == 0 {
			return 0, false
		}
	}
	want := newSlots().base
	uids, gids := mapped("/proc/self/uid_map"), mapped("/proc/self/gid_map")
	if want+slotsPerBlock*idsPerSlot <= min(uids, gids) {
		return want, true
	}
	// In a container with few ids: the highest of them, which are the least used.
	base = min(uids, gids) - slotsPerBlock*idsPerSlot
	return base, base > 1000
}

// mapped returns the first number above the ids of this user namespace.
func mapped(file string) int64 {
	text, err := os.ReadFile(file)
	if err != nil {
		return 0
	}
	var end int64
	for line := range strings.Lines(string(text)) {
		var inside, outside, size int64
		if n, _ := fmt.Sscan(line, &inside, &outside, &size); n == 3 {
			end = max(end, inside+size)
		}
	}
	return end
}

// systemPaths are what every program may see of the machine. Of /etc and
// /proc it is what the C library and language runtimes read at their start.
var systemPaths = []wire.Path{
	{Name: "/usr"}, {Name: "/bin"}, {Name: "/sbin"}, {Name: "/lib"}, {Name: "/lib32"}, {Name: "/lib64"}, {Name: "/libx32"},
	{Name: "/etc/alternatives"}, {Name: "/etc/ld.so.cache"}, {Name: "/etc/localtime"}, {Name: "/etc/nsswitch.conf"},
	{Name: "/etc/ld-musl-x86_64.path"}, {Name: "/etc/ld-musl-aarch64.path"},
	{Name: "/proc/meminfo"}, {Name: "/proc/cpuinfo"}, {Name: "/proc/stat"}, {Name: "/proc/uptime"}, {Name: "/proc/loadavg"},
	{Name: "/proc/version"}, {Name: "/proc/filesystems"}, {Name: "/proc/sys/vm/overcommit_memory"}, {Name: "/proc/sys/kernel/osrelease"},
	{Name: "/dev/null", Access: int64(landlock.Use)}, {Name: "/dev/zero", Access: int64(landlock.Use)},
	{Name: "/dev/full", Access: int64(landlock.Use)}, {Name: "/dev/random"}, {Name: "/dev/urandom"},
}

// confinedBox is what of a box is on the machine where it has no namespaces.
type confinedBox struct {
	names []alias // what the program's names for folders really are
	work  *folder // nil: none
	tmp   *folder
	gone  chan struct{} // closed when init has been waited for

	once   sync.Once
	killer *time.Timer // ends init itself, should it not obey
}

// alias is a path of the box and what it is on the machine.
type alias struct{ box, host string }

// prepareConfined is Prepare without namespaces.
func (r *runtime) prepareConfined(spec BoxSpec) (_ Box, err error) {
	size, inodes, err := scratch("/tmp", spec.TmpBytes, spec.TmpInodes)
	if err != nil {
		return nil, err
	}
	c := &confinedBox{gone: make(chan struct{})}
	b := &box{r: r, confined: c}
	user := int64(0)
	if spec.Workspace != nil {
		w, ok := spec.Workspace.(*workspace)
		if !ok || w.r != r {
			return nil, fmt.Errorf("%w: the workspace is not of this runtime", ErrCommand)
		}
		w.hold()
		b.workspace, c.work, user = w, w.folder, w.hostUID
	} else {
		if b.ownUID, err = r.takeSlot(); err != nil {
			return nil, platform("prepare", err)
		}
		user = b.ownUID
	}
	defer func() {
		if err != nil {
			b.release()
		}
	}()
	if c.tmp, err = r.confined.private.newFolder(programID(user), size, inodes); err != nil {
		return nil, platform("prepare", err)
	}
	setup, err := r.confine(c, &spec, user)
	if err != nil {
		return nil, err
	}
	if err := b.startConfined(setup); err != nil {
		return nil, platform("prepare", err)
	}
	return b, r.keep(b)
}

// programID is the user of the program where its box has a pair of ids.
func programID(hostUID int64) int64 {
	if hostUID == 0 {
		return 0
	}
	return hostUID + 1
}

// confine says what the box's program may, and under which names.
func (r *runtime) confine(c *confinedBox, spec *BoxSpec, user int64) (*wire.Confine, error) {
	work, access := r.confined.private.empty, landlock.Read
	if c.work != nil {
		work = c.work.path
		if !spec.WorkspaceReadOnly {
			access = landlock.Write
		}
	}
	setup := &wire.Confine{
		UID: programID(user), GID: programID(user), Landlock: int64(r.confined.landlock), Fence: r.confined.fence,
		Filter: r.confined.filter, Umask: 0o022,
	}
	if r.rootless && r.confined.landlock > 0 {
		setup.Umask = 0o077 // the only mode that the filter lets it set is of this kind
	}
	setup.Paths = append(slices.Clone(systemPaths),
		wire.Path{Name: work, Access: int64(access)}, wire.Path{Name: c.tmp.path, Access: int64(landlock.Write)})
	if spec.self {
		setup.Paths = append(setup.Paths, wire.Path{Name: "/proc/self/exe"})
	}
	c.names = []alias{{WorkDir, work}, {"/tmp", c.tmp.path}}
	for _, bind := range spec.Binds {
		if err := checkBind(bind); err != nil {
			return nil, err
		}
		if bind.Overlay {
			return nil, fmt.Errorf("%w: overlay at %q: there are none at level %s", ErrCommand, bind.Box, r.level)
		}
		if _, err := os.Stat(bind.Host); err != nil {
			return nil, platform("prepare", err)
		}
		setup.Paths = append(setup.Paths, wire.Path{Name: bind.Host})
		if bind.Box != bind.Host {
			c.names = append(c.names, alias{bind.Box, bind.Host})
		}
	}
	return setup, nil
}

// startConfined starts init, which finds its setup in the socket.
func (b *box) startConfined(setup *wire.Confine) error {
	if b.r.groups != nil {
		g, err := b.r.groups.New()
		if err != nil {
			return err
		}
		b.group = g
	}
	ours, theirs, err := wire.Pair()
	if err != nil {
		return err
	}
	socket := os.NewFile(uintptr(theirs), "init")
	defer func() { _ = socket.Close() }()
	if b.control, err = wire.NewPolled(ours, 1024); err != nil {
		return err
	}
	e := wire.NewEncoder(wire.KindConfine)
	setup.Encode(e)
	cmd := &exec.Cmd{
		Path: fmt.Sprintf("/proc/self/fd/%d", launcher.ExeFD), Args: []string{wire.ConfinedArg}, Env: []string{"GOMAXPROCS=1"},
		Dir: "/", Stderr: os.Stderr, ExtraFiles: []*os.File{socket, b.r.exe},
		SysProcAttr: &syscall.SysProcAttr{Setsid: true},
	}
	var groups []int
	if b.group != nil {
		groups = b.group.JoinFDs()
		if fd := b.group.FD(); fd >= 0 {
			cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, fd
		}
	}
	if err := b.control.Send(e.Bytes(), groups...); err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start init: %w", err)
	}
	// Another than the one which waits: that it does not block is a property of
	// the descriptor, and goes along with its copies.
	pidfd, err := unix.PidfdOpen(cmd.Process.Pid, unix.PIDFD_NONBLOCK)
	go func() {
		_ = cmd.Wait()
		close(b.confined.gone)
	}()
	if err != nil {
		return fmt.Errorf("watch init: %w", err)
	}
	return b.watchInit(pidfd)
}

// kill has init end every process of the box, and itself: alone it could not
// take them along. It does not fail to, unless the machine is in trouble.
func (c *confinedBox) kill(b *box) {
	_ = b.control.Send([]byte{wire.KindKill})
	c.once.Do(func() { c.killer = time.AfterFunc(deathTimeout/2, b.signalInit) })
}

// release gives back the folder of /tmp; every process is dead.
func (c *confinedBox) release(b *box) {
	if c.killer != nil {
		c.killer.Stop()
	}
	if b.pidfd != nil {
		<-c.gone
	}
	if c.tmp != nil {
		b.r.aside(func() { b.r.confined.private.remove(c.tmp) })
	}
}

// translate replaces the box's names of folders in a command by those of the
// machine: where they are all of an argument or stand at its beginning, and in
// variables also between colons.
func (c *confinedBox) translate(cmd *Command) {
	real := func(s string) string {
		for _, n := range c.names {
			if rest, ok := strings.CutPrefix(s, n.box); ok && (rest == "" || rest[0] == '/') {
				return n.host + rest
			}
		}
		return s
	}
	argv := make([]string, len(cmd.Argv))
	for i, arg := range cmd.Argv {
		argv[i] = real(arg)
	}
	env := make([]string, len(cmd.Env))
	for i, kv := range cmd.Env {
		name, value, _ := strings.Cut(kv, "=")
		parts := strings.Split(value, ":")
		for j, part := range parts {
			parts[j] = real(part)
		}
		env[i] = name + "=" + strings.Join(parts, ":")
	}
	cmd.Argv, cmd.Env = argv, env
	if cmd.Dir == "" {
		cmd.Dir = WorkDir
	}
	cmd.Dir = real(cmd.Dir)
	// What a file system in memory would refuse, a limit of the process does.
	most := c.tmp.maxBytes
	if c.work != nil {
		most = max(most, c.work.maxBytes)
	}
	if cmd.Limits.FileBytes == 0 || cmd.Limits.FileBytes > most {
		cmd.Limits.FileBytes = most
	}
}

// attend goes with a command that runs: it gives folders their real names, and
// watches how much is in them until what it returns is called.
func (c *confinedBox) attend(x *run) (stop func()) {
	c.translate(x.cmd)
	over, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		c.watchDisk(over, func() { x.over <- LimitDisk })
	}()
	return func() {
		close(over)
		<-done
	}
}

// watchEvery is how often the folders of a box are measured.
const watchEvery = 25 * time.Millisecond

// watchDisk measures what a program leaves in its folders while it runs, and
// says so once when they are full.
func (c *confinedBox) watchDisk(stop <-chan struct{}, full func()) {
	wait := time.NewTimer(watchEvery)
	defer wait.Stop()
	for {
		select {
		case <-stop:
			return
		case <-wait.C:
		}
		began := time.Now()
		for _, f := range []*folder{c.work, c.tmp} {
			if f != nil && f.overfull() {
				full()
				return
			}
		}
		// A large tree is looked at less often.
		wait.Reset(max(watchEvery, 5*time.Since(began)))
	}
}

// newConfinedWorkspace is NewWorkspace without namespaces.
func (r *runtime) newConfinedWorkspace(size, inodes int64) (*workspace, error) {
	w := &workspace{r: r, holders: 1}
	var err error
	if w.hostUID, err = r.takeSlot(); err != nil {
		return nil, platform("workspace", err)
	}
	if w.folder, err = r.confined.private.newFolder(programID(w.hostUID), size, inodes); err == nil {
		w.root, err = w.folder.open()
	}
	if err != nil {
		w.release()
		return nil, platform("workspace", err)
	}
	return w, nil
}
