// Package boxinit is the first process of a box.
//
// It is born in fresh namespaces, with the root of the box already around it.
// It mounts what must be new for each box, waits for a command, gives the
// program away with nothing left of its own privileges, waits for its end,
// kills whatever else still lives, and reports. The user's program is never
// this process, and cannot kill it: as PID 1 it keeps every signal at its
// default action, which the kernel does not deliver from inside.
//
// The package stays small and depends on little: its start is paid for by
// every cold box.
package boxinit

import (
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/crucible-eval/crucible/executor/internal/sandbox/wire"
)

// Main runs the box and does not return. The caller holds the process's
// first thread, locked: no other thread may end as the leader of the group.
func Main() {
	runtime.LockOSThread()
	c := wire.NewBlocking(wire.InitControlFD)
	if err := run(c); err != nil {
		// With the executor gone there is nobody left to tell.
		_ = c.Send(wire.NewEncoder(wire.KindFatal).String(err.Error()).Bytes())
		os.Exit(1)
	}
	os.Exit(0)
}

func run(c *wire.Conn) error {
	if err := harden(); err != nil {
		return err
	}
	msg, groups, err := c.Recv()
	if err != nil {
		return err
	}
	kind, d := wire.NewDecoder(msg)
	if kind == wire.KindGuest {
		return becomeRunsc(d, groups)
	}
	var setup wire.Setup
	if err := decode(kind, d, wire.KindSetup, &setup); err != nil {
		return err
	}
	if !setup.Guest {
		if err := mountAll(&setup); err != nil {
			return err
		}
	}
	child, err := start(c, &setup, groups)
	if err != nil || child == nil {
		return err
	}
	if err := child.letGo(c); err != nil {
		return err
	}
	return attend(c, child)
}

type decodable interface{ Decode(*wire.Decoder) }

func receive(c *wire.Conn, want byte, into decodable) ([]int, error) {
	msg, fds, err := c.Recv()
	if err != nil {
		return nil, err
	}
	kind, d := wire.NewDecoder(msg)
	return fds, decode(kind, d, want, into)
}

func decode(kind byte, d *wire.Decoder, want byte, into decodable) error {
	into.Decode(d)
	if kind != want || d.Err() != nil {
		return fmt.Errorf("init: unexpected message %d", kind)
	}
	return nil
}

// harden makes this process deaf and unreadable before anything else runs.
func harden() error {
	wire.SetName("sandbox-init")
	// Nothing that init holds may reach the program, whoever opened it.
	if err := unix.CloseRange(wire.InitControlFD, ^uint(0), unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return fmt.Errorf("close_range: %w", err)
	}
	_ = unix.Close(wire.InitExeFD)
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
		return fmt.Errorf("parent death signal: %w", err)
	}
	defaultActions()
	unix.Umask(0o022)
	// Inherited by the program: under host memory pressure it goes first. Raising
	// one's own score needs no privilege, but a masked /proc may refuse the write.
	preferForOOM()
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("dumpable: %w", err)
	}
	return nil
}

// sigaction is the kernel's structure, not libc's.
type sigaction struct {
	handler, flags, restorer uintptr
	mask                     uint64
}

// defaultActions undoes the Go runtime's handlers: PID 1 of a namespace never
// receives a signal whose action is the default, except from outside.
func defaultActions() {
	var act sigaction
	for sig := uintptr(1); sig <= 64; sig++ {
		// Of SIGKILL and SIGSTOP the kernel refuses it.
		_, _, _ = unix.RawSyscall6(unix.SYS_RT_SIGACTION, sig, uintptr(unsafe.Pointer(&act)), 0, 8, 0, 0)
	}
}

func preferForOOM() {
	fd, err := unix.Open("/proc/self/oom_score_adj", unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	_, _ = unix.Write(fd, []byte("1000"))
	_ = unix.Close(fd)
}

func monotonic() int64 {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts)
	return ts.Nano()
}
