package boxinit

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/crucible-eval/crucible/executor/internal/sandbox/landlock"
	"github.com/crucible-eval/crucible/executor/internal/sandbox/wire"
)

// ProgramMain is the process that becomes the program where there are no
// namespaces, and returns never: it gives up everything while it waits, and
// replaces itself when the command comes. The caller holds the process's first
// thread, locked: on it everything is done, and it is the one that survives.
func ProgramMain() {
	c := wire.NewBlocking(wire.InitControlFD)
	if err := becomeProgram(c); err != nil {
		_ = c.Send(wire.NewEncoder(wire.KindFatal).String(err.Error()).Bytes())
	}
	os.Exit(1)
}

func becomeProgram(c *wire.Conn) error {
	wire.SetName("sandbox-program")
	if err := unix.CloseRange(wire.InitControlFD, ^uint(0), unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return fmt.Errorf("close_range: %w", err)
	}
	preferForOOM()
	var what wire.Confine
	groups, err := receive(c, wire.KindConfine, &what)
	if err != nil {
		return err
	}
	var others uint64
	if what.UID == 0 {
		others = tasksOfUser(uint32(unix.Getuid()))
	}
	if err := confine(&what, groups); err != nil {
		return err
	}
	wire.CloseAll(groups)
	if err := c.Send([]byte{wire.KindReady}); err != nil {
		return err
	}
	var cmd wire.Command
	stdio, err := receive(c, wire.KindCommand, &cmd)
	if err != nil {
		return err
	}
	if len(stdio) != 3 {
		return fmt.Errorf("command came with %d descriptors", len(stdio))
	}
	most := uint64(cmd.SampleProcesses)
	if what.UID == 0 && most > 0 {
		// The kernel counts all that the user has: this only stops an avalanche
		// between two samples.
		most += others + avalanche
	}
	return replace(c, &cmd, most, stdio)
}

// confine makes the calling thread what the program will be.
func confine(what *wire.Confine, groups []int) error {
	for _, fd := range groups {
		if _, err := unix.Write(fd, []byte("0")); err != nil {
			return fmt.Errorf("join cgroup: %w", err)
		}
	}
	if err := raw("nice", unix.SYS_SETPRIORITY, unix.PRIO_PROCESS, 0, Niceness); err != nil {
		return err
	}
	unix.Umask(int(what.Umask))
	if what.Landlock == 0 && what.Fence {
		// Not in init's own fence: there it could be signalled.
		if err := landlock.Fence(); err != nil {
			return err
		}
	}
	if what.Landlock > 0 {
		// Before the user changes: the folders above may be closed to it.
		rules := make([]landlock.Rule, len(what.Paths))
		for i, p := range what.Paths {
			rules[i] = landlock.Rule{Path: p.Name, Access: landlock.Access(p.Access)}
		}
		if err := landlock.Confine(rules, int(what.Landlock)); err != nil {
			return err
		}
	}
	if what.UID != 0 {
		if err := changeUser(what.UID, what.GID, false); err != nil {
			return err
		}
	}
	// Its init dead, nobody would end it. The change of user has reset this.
	if err := raw("parent death signal", unix.SYS_PRCTL, unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0); err != nil {
		return err
	}
	return surrender(what.Filter)
}

// replace executes the command in place of this process. It returns only
// what is the platform's fault; what is the program's has been reported.
func replace(c *wire.Conn, cmd *wire.Command, processes uint64, stdio []int) error {
	for to, fd := range stdio {
		if err := unix.Dup3(fd, to, 0); err != nil {
			return fmt.Errorf("stdio: %w", err)
		}
	}
	if err := setRlimits(cmd.Rlimits); err != nil {
		return err
	}
	var usage unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &usage); err != nil {
		return fmt.Errorf("rusage: %w", err)
	}
	launched := wire.Launched{At: monotonic(), CPU: usage.Utime.Nano() + usage.Stime.Nano(), MaxRSS: usage.Maxrss << 10}
	if err := send(c, wire.KindLaunched, &launched); err != nil {
		return err
	}
	err := execute(cmd, processes)
	var errno syscall.Errno
	if !errors.As(err, &errno) || !programsFault(errno) {
		return fmt.Errorf("start program: %w", err)
	}
	launched.Errno = int64(errno)
	return send(c, wire.KindLaunched, &launched)
}

// avalanche is how many processes more than it may have a box can get to
// before it is looked at.
const avalanche = 256

func execute(cmd *wire.Command, processes uint64) error {
	if err := unix.Chdir(cmd.Dir); err != nil {
		return err
	}
	path, err := lookPath(cmd)
	if err != nil {
		return err
	}
	if processes > 0 {
		if err := unix.Setrlimit(unix.RLIMIT_NPROC, &unix.Rlimit{Cur: processes, Max: processes}); err != nil {
			return err
		}
	}
	freshSignals()
	return syscall.Exec(path, cmd.Argv, cmd.Env)
}

// freshSignals gives the calling thread every signal at its default action and
// none of them blocked: both outlive execve, and the C library of a race build
// keeps two for itself.
func freshSignals() {
	defaultActions()
	var none uint64
	_, _, _ = unix.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&none)), 0, 8, 0, 0)
}
