package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/crucible-eval/crucible/executor/internal/sandbox/gate"
	"github.com/crucible-eval/crucible/executor/internal/sandbox/wire"
)

const (
	// zygoteMemory and zygoteProcesses bound a zygote and the first processes of
	// its copies, which are its own. Their programs have groups of their own.
	zygoteMemory    = 512 << 20
	zygoteProcesses = 256
	// zygoteTimeout is how long one may take to start, or to make a copy.
	zygoteTimeout = 10 * time.Second
)

// zygote is an interpreter in a box of its own, without network, files or
// secrets, that makes boxes: see crucible_zygote.py.
type zygote struct {
	box  *box
	spec ZygoteSpec
	conn *wire.Conn
	turn sync.Mutex // one request at a time

	mu     sync.Mutex
	copies map[*box]struct{}
	closed bool
	dead   bool
}

// CanFork implements Warmer. A copy enters its groups by itself, and has ids of
// its own among those that the zygote was lent.
func (r *runtime) CanFork() bool { return r.CanWarm() && !r.rootless }

// NewZygote implements Warmer.
func (r *runtime) NewZygote(ctx context.Context, spec ZygoteSpec) (Zygote, error) {
	if !r.CanFork() {
		return nil, fmt.Errorf("%w: forked interpreters need root and a cgroup of version 1", ErrUnsupported)
	}
	ours, theirs, err := wire.Pair()
	if err != nil {
		return nil, platform("zygote", err)
	}
	end := os.NewFile(uintptr(theirs), "zygote")
	defer func() { _ = end.Close() }()
	conn, err := wire.NewPolled(ours, 4096)
	if err != nil {
		return nil, platform("zygote", err)
	}
	b, err := r.Prepare(ctx, BoxSpec{Warm: spec.Warm, Binds: spec.Binds, Hostname: spec.Hostname, breeds: end})
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	_ = end.Close()
	z := &zygote{box: b.(*box), spec: spec, conn: conn, copies: map[*box]struct{}{}}
	if err := z.begin(); err != nil {
		z.dead = true
		z.Close()
		return nil, platform("zygote", err)
	}
	return z, nil
}

// begin tells the zygote what its copies have in common, and waits until it
// has started.
func (z *zygote) begin() error {
	r := z.box.r
	if err := z.box.group.Limit(zygoteMemory, zygoteProcesses); err != nil {
		return err
	}
	common := wire.Zygote{Setup: wire.Setup{
		UID: insideUID, GID: insideGID, WorkDir: WorkDir, ProcMask: r.procMask, ProcRO: r.procRO, Filter: r.filter,
	}}
	e := wire.NewEncoder(0)
	common.Encode(e)
	_, err := z.ask(e.Bytes()[1:])
	return err
}

// ask sends a message and waits for the answer, "+" or "-" and an error.
func (z *zygote) ask(message []byte, fds ...int) ([]int, error) {
	z.turn.Lock()
	defer z.turn.Unlock()
	deadline := time.AfterFunc(zygoteTimeout, func() { z.box.kill() })
	defer deadline.Stop()
	if err := z.conn.Send(message, fds...); err != nil {
		return nil, err
	}
	answer, got, err := z.conn.Recv()
	if err != nil {
		return nil, fmt.Errorf("the zygote is gone: %w", err)
	}
	if answer[0] != '+' {
		wire.CloseAll(got)
		return nil, errors.New(string(answer[1:]))
	}
	return got, nil
}

// Alive implements Zygote.
func (z *zygote) Alive() bool {
	z.mu.Lock()
	defer z.mu.Unlock()
	return !z.dead && !z.closed
}

// Close implements Zygote.
func (z *zygote) Close() {
	z.mu.Lock()
	first := !z.closed
	z.closed = true
	unused := len(z.copies) == 0
	z.mu.Unlock()
	if first && unused {
		z.end()
	}
}

func (z *zygote) end() {
	_ = z.conn.Close()
	_ = z.box.Close()
}

// take notes a copy, and let that it is gone.
func (z *zygote) take(b *box) error {
	z.mu.Lock()
	defer z.mu.Unlock()
	if z.closed || z.dead {
		return errors.New("the zygote is closed")
	}
	z.copies[b] = struct{}{}
	return nil
}

func (z *zygote) let(b *box) {
	z.mu.Lock()
	_, mine := z.copies[b]
	delete(z.copies, b)
	last := mine && z.closed && len(z.copies) == 0
	z.mu.Unlock()
	if last {
		z.end()
	}
}

// prepareCopy has a zygote make a box.
func (r *runtime) prepareCopy(ctx context.Context, spec *BoxSpec, setup *wire.Setup) (Box, error) {
	z, ok := spec.Zygote.(*zygote)
	w, has := spec.Workspace.(*workspace)
	if !ok || !has || z.box.r != r || w.r != r {
		return nil, fmt.Errorf("%w: a copy needs a zygote and a workspace of this runtime", ErrCommand)
	}
	if w.client != z.box.client {
		return nil, platform("prepare", errors.New("the workspace went with its launcher"))
	}
	b := &box{r: r, client: w.client, workspace: w, warm: z.spec.Warm, zygote: z}
	if err := z.take(b); err != nil {
		return nil, platform("prepare", err)
	}
	w.hold()
	if err := b.copy(ctx, spec, setup); err != nil {
		b.release()
		return nil, platform("prepare", err)
	}
	if err := r.keep(b); err != nil {
		return nil, err
	}
	return b, nil
}

func (b *box) copy(ctx context.Context, spec *BoxSpec, setup *wire.Setup) error {
	if err := b.makeGroup(); err != nil {
		return err
	}
	ours, control, err := wire.Pair()
	if err != nil {
		return err
	}
	fds := []int{control}
	defer func() { wire.CloseAll(fds) }()
	if b.control, err = wire.NewPolled(ours, 2048); err != nil {
		return err
	}
	var release [2]int
	if err := unix.Pipe2(release[:], unix.O_CLOEXEC); err != nil {
		return fmt.Errorf("release: %w", err)
	}
	fds = append(fds, release[0])
	if err := unix.SetNonblock(release[1], true); err != nil {
		_ = unix.Close(release[1])
		return fmt.Errorf("release: %w", err)
	}
	b.gate = os.NewFile(uintptr(release[1]), "release")
	stdio, theirs, err := newStdio()
	if err != nil {
		return err
	}
	b.stdio = stdio
	fds = append(fds, theirs...)
	mount, err := b.client.call(ctx, wire.KindCloneWorkspace, func(e *wire.Encoder) { e.Int(b.workspace.id).Bool(spec.WorkspaceReadOnly) })
	if err != nil {
		return err
	}
	fds = append(fds, mount)
	base, _ := b.r.slots.block()
	request := wire.CopyRequest{
		FirstID: wire.LentIDs + b.workspace.hostUID - base,
		Tmp:     fmt.Sprintf("mode=1777,size=%d,nr_inodes=%d", setup.TmpBytes, setup.TmpInodes),
	}
	e := wire.NewEncoder(0)
	request.Encode(e)
	got, err := b.zygote.ask(e.Bytes()[1:], append(append([]int{}, fds...), b.group.JoinFDs()...)...)
	if err != nil || len(got) != 1 {
		wire.CloseAll(got)
		b.zygote.fail()
		return errors.Join(errors.New("the zygote made no copy"), err)
	}
	return b.watchInit(got[0])
}

// fail notes that no more copies are to be had.
func (z *zygote) fail() {
	z.mu.Lock()
	z.dead = true
	z.mu.Unlock()
}

// letCopyGo gives a copy of a zygote, which waits, what it does not know. It
// starts here: the copy itself has nobody to tell.
func (x *run) letCopyGo() error {
	b := x.b
	args, env := b.warm.missing(x.cmd)
	release := gate.Release{Args: args, Env: env}
	for _, l := range x.cmd.Limits.rlimits(true) {
		release.Rlimits = append(release.Rlimits, [2]int64{l.Resource, l.Value})
	}
	x.messages <- message{kind: wire.KindStarted, started: wire.Started{At: monotonic()}}
	if err := b.gate.SetWriteDeadline(time.Now().Add(prepareTimeout)); err != nil {
		return err
	}
	if _, err := b.gate.Write(release.Bytes()); err != nil {
		return fmt.Errorf("the interpreter ended while it waited: %w", err)
	}
	return b.gate.Close()
}
