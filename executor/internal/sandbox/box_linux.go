package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/crucible-eval/crucible/executor/internal/sandbox/cgroup"
	"github.com/crucible-eval/crucible/executor/internal/sandbox/wire"
)

// deathTimeout is how long killed processes may take to be gone. The kernel
// needs a millisecond, unless the machine is in trouble.
const deathTimeout = 30 * time.Second

type box struct {
	r         *runtime
	client    *client
	workspace *workspace   // nil: none
	ownUID    int64        // 0: the workspace's, or rootless
	confined  *confinedBox // nil: it has namespaces
	group     cgroup.Group
	control   *wire.Conn
	pidfd     *os.File
	pidRaw    syscall.RawConn
	guest     *guest   // nil: the program runs on the host's kernel
	warm      *Warm    // an interpreter waits in it
	stdio     *stdio   // of that, until it runs
	zygote    *zygote  // the interpreter is a copy of that one
	gate      *os.File // where the copy waits
	breeds    *os.File // it is a zygote: the end of its socket that it has
	nicer     bool     // see charge

	mu     sync.Mutex
	used   bool
	closed bool
	idle   sync.WaitGroup // a Run
}

func (r *runtime) Prepare(ctx context.Context, spec BoxSpec) (Box, error) {
	if r.confined != nil {
		return r.prepareConfined(spec)
	}
	tree, setup, err := r.describe(&spec)
	if err != nil {
		return nil, err
	}
	c, err := r.launcher()
	if err != nil {
		return nil, platform("prepare", err)
	}
	if spec.Zygote != nil {
		return r.prepareCopy(ctx, &spec, setup)
	}
	b := &box{r: r, client: c, warm: spec.Warm}
	request := wire.BoxRequest{Tree: *tree}
	if spec.Workspace != nil {
		w, ok := spec.Workspace.(*workspace)
		if !ok || w.r != r {
			return nil, fmt.Errorf("%w: the workspace is not of this runtime", ErrCommand)
		}
		if w.client != c {
			return nil, platform("prepare", errors.New("the workspace went with its launcher"))
		}
		w.hold()
		b.workspace = w
		request.Workspace, request.ReadOnly, request.HostUID = w.id, spec.WorkspaceReadOnly, w.hostUID
	} else {
		if b.ownUID, err = r.takeSlot(); err != nil {
			return nil, platform("prepare", err)
		}
		request.HostUID = b.ownUID
	}
	if spec.breeds != nil {
		b.breeds = spec.breeds
		request.Lend, request.LendCount = r.slots.block()
		setup.Zygote, setup.ProcMask, setup.ProcRO = true, nil, nil
	}
	if err := b.start(ctx, &request, setup); err != nil {
		b.release()
		return nil, platform("prepare", err)
	}
	if err := r.keep(b); err != nil {
		return nil, err
	}
	return b, nil
}

// keep makes the runtime close the box, if nobody else does.
func (r *runtime) keep(b *box) error {
	r.mu.Lock()
	closed := r.closed
	if !closed {
		r.boxes[b] = struct{}{}
		r.background.Add(1)
	}
	r.mu.Unlock()
	if closed {
		b.end()
		return ErrClosed
	}
	return nil
}

// describe checks a spec and splits it into what boxes share and what init
// does for this one.
func (r *runtime) describe(spec *BoxSpec) (*wire.Tree, *wire.Setup, error) {
	if spec.Warm != nil {
		if err := r.checkWarm(spec.Warm); err != nil {
			return nil, nil, err
		}
	}
	tree := &wire.Tree{Hostname: spec.Hostname, WorkDir: WorkDir, UID: insideUID, GID: insideGID}
	if tree.Hostname == "" {
		tree.Hostname = "sandbox"
	}
	size, inodes, err := scratch("/tmp", spec.TmpBytes, spec.TmpInodes)
	if err != nil {
		return nil, nil, err
	}
	setup := &wire.Setup{
		WorkDir: WorkDir, Workspace: spec.Workspace != nil, TmpBytes: size, TmpInodes: inodes,
		ProcMask: r.procMask, ProcRO: r.procRO, UID: insideUID, GID: insideGID,
		KeepGroups: r.rootless, Filter: r.filter,
	}
	for _, b := range spec.Binds {
		if err := checkBind(b); err != nil {
			return nil, nil, err
		}
		tree.Binds = append(tree.Binds, wire.Bind(b))
		if b.Overlay {
			setup.Overlays = append(setup.Overlays, b.Box)
		}
	}
	return tree, setup, nil
}

func checkBind(b Bind) error {
	for _, p := range []string{b.Host, b.Box} {
		if !path.IsAbs(p) || path.Clean(p) != p || p == "/" || strings.ContainsRune(p, 0) {
			return fmt.Errorf("%w: bind of %q at %q: paths are absolute and clean", ErrCommand, b.Host, b.Box)
		}
	}
	for _, taken := range []string{"/proc", "/tmp", WorkDir} {
		if b.Box == taken || strings.HasPrefix(b.Box, taken+"/") {
			return fmt.Errorf("%w: bind at %q: %s is the box's own", ErrCommand, b.Box, taken)
		}
	}
	// The layer's options are one string, with commas and colons between them.
	if b.Overlay && strings.ContainsAny(b.Box, ",:\\") {
		return fmt.Errorf("%w: overlay at %q: no comma, colon or backslash", ErrCommand, b.Box)
	}
	return nil
}

// start has the launcher clone init, and gives it its setup meanwhile.
func (b *box) start(ctx context.Context, request *wire.BoxRequest, setup *wire.Setup) error {
	ours, theirs, err := wire.Pair()
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(theirs) }()
	if b.control, err = wire.NewPolled(ours, 1024); err != nil {
		return err
	}
	fds := []int{theirs}
	born := b.r.groups != nil && b.r.groups.Version() == 2
	if born {
		if err := b.makeGroup(); err != nil {
			return err
		}
		request.CgroupFD = true
		fds = append(fds, b.group.FD())
	}
	equipped := make(chan error, 1)
	go func() {
		// On version 1 only the program enters the group, at the end.
		if b.r.groups != nil && !born {
			if err := b.makeGroup(); err != nil {
				equipped <- err
				return
			}
		}
		if b.r.gvisor != nil {
			equipped <- b.sendGuest(request, setup)
		} else {
			err := b.sendSetup(setup)
			if err == nil && b.warm != nil {
				err = b.sendInterpreter()
			}
			equipped <- err
		}
	}()
	pidfd, err := b.client.call(ctx, wire.KindBox, request.Encode, fds...)
	if notEquipped := <-equipped; err == nil && notEquipped != nil {
		_ = unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, 0)
		_ = unix.Close(pidfd)
		err = notEquipped
	}
	if err != nil {
		return err
	}
	return b.watchInit(pidfd)
}

// watchInit takes over the descriptor of init's process.
func (b *box) watchInit(pidfd int) error {
	if err := unix.SetNonblock(pidfd, true); err != nil {
		_ = unix.Close(pidfd)
		return err
	}
	var err error
	b.pidfd = os.NewFile(uintptr(pidfd), "box")
	b.pidRaw, err = b.pidfd.SyscallConn()
	return err
}

func (b *box) makeGroup() error {
	g, err := b.r.groups.New()
	if err != nil {
		return err
	}
	b.group = g
	return nil
}

// sendSetup leaves the setup in the socket, where init finds it when it wakes.
func (b *box) sendSetup(setup *wire.Setup) error {
	e := wire.NewEncoder(wire.KindSetup)
	setup.Encode(e)
	return b.control.Send(e.Bytes(), b.joinFDs()...)
}

func (b *box) joinFDs() []int {
	if b.group == nil {
		return nil
	}
	return b.group.JoinFDs()
}

// kill ends every process of the box: init is one that the kernel lets no
// other survive.
func (b *box) kill() {
	if b.confined != nil {
		b.confined.kill(b)
		return
	}
	b.signalInit()
}

func (b *box) signalInit() {
	_ = b.pidRaw.Control(func(fd uintptr) {
		_ = unix.PidfdSendSignal(int(fd), unix.SIGKILL, nil, 0)
	})
}

// awaitDeath waits until init is dead, and so the whole box.
func (b *box) awaitDeath() error {
	if err := b.pidfd.SetReadDeadline(time.Now().Add(deathTimeout)); err != nil {
		return fmt.Errorf("watch process: %w", err)
	}
	err := b.pidRaw.Read(func(fd uintptr) bool {
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(poll, 0)
		return err == nil && n > 0
	})
	if err != nil {
		return fmt.Errorf("processes do not die: %w", err)
	}
	return nil
}

func (b *box) Close() error {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return nil
	}
	b.closed = true
	b.mu.Unlock()
	b.kill()
	go func() {
		defer b.r.background.Done()
		b.idle.Wait()
		b.end()
		b.r.mu.Lock()
		delete(b.r.boxes, b)
		b.r.mu.Unlock()
	}()
	return nil
}

// end waits for the box's death and gives everything back.
func (b *box) end() {
	b.kill()
	if err := b.awaitDeath(); err != nil {
		b.r.log.Error("sandbox box left behind", "error", err)
	}
	_ = b.pidfd.Close()
	b.release()
}

func (b *box) release() {
	if b.control != nil {
		_ = b.control.Close()
	}
	if b.stdio != nil {
		b.stdio.close()
	}
	if b.gate != nil {
		_ = b.gate.Close()
	}
	if b.zygote != nil {
		b.zygote.let(b)
	}
	if b.guest != nil && b.guest.stdio != nil {
		b.guest.stdio.close()
	}
	if b.confined != nil {
		b.confined.release(b)
	}
	if b.group != nil {
		if err := b.group.Remove(); err != nil {
			b.r.log.Error("sandbox cgroup left behind", "error", err)
		}
	}
	switch {
	case b.workspace != nil:
		b.workspace.release()
	case b.ownUID != 0:
		b.r.slots.give(b.ownUID)
	}
}

// check refuses commands that cannot be run in any box.
func (c *Command) check() error {
	if len(c.Argv) == 0 || c.Argv[0] == "" {
		return fmt.Errorf("%w: no program", ErrCommand)
	}
	size := 0
	for _, s := range slices.Concat(c.Argv, c.Env, []string{c.Dir}) {
		if strings.IndexByte(s, 0) >= 0 {
			return fmt.Errorf("%w: an argument or variable holds a NUL byte", ErrCommand)
		}
		size += len(s) + 1
	}
	if size > maxCommandBytes {
		return fmt.Errorf("%w: arguments and environment of %d bytes, at most %d are allowed", ErrCommand, size, maxCommandBytes)
	}
	return c.Limits.check()
}

// maxCommandBytes bounds argv and env, which travel in one message.
const maxCommandBytes = 128 << 10
