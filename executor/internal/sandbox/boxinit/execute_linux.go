package boxinit

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/crucible-eval/crucible/executor/internal/sandbox/wire"
)

// Niceness of programs, from 0 (like the platform) to 19.
const Niceness = 5

// program is a program that runs.
type program struct {
	pid     int
	starter int // the thread that started it, which ends then
	cmd     *wire.Command
	gate    *os.File // where an interpreter waits; nil: it runs
}

// start waits for the command and starts it, on a thread that belongs to the
// program's user: everything that does not depend on the command is done
// before it comes. Without error and without program, the program could not
// be executed, and the executor knows.
func start(c *wire.Conn, setup *wire.Setup, groups []int) (*program, error) {
	type outcome struct {
		p   *program
		err error
	}
	done := make(chan outcome, 1)
	go func() {
		// Never unlocked: the thread ends with this goroutine.
		runtime.LockOSThread()
		p, err := startAsUser(c, setup, groups)
		done <- outcome{p, err}
	}()
	o := <-done
	return o.p, o.err
}

func startAsUser(c *wire.Conn, setup *wire.Setup, groups []int) (*program, error) {
	var as *syscall.Credential
	if setup.Guest {
		as = guestUser(setup)
		if err := confineGuest(setup); err != nil {
			return nil, err
		}
	} else if setup.Zygote {
		if err := joinGroups(groups); err != nil {
			return nil, err
		}
	} else if err := becomeUser(setup, groups); err != nil {
		return nil, err
	}
	if err := yield(); err != nil {
		return nil, err
	}
	wire.CloseAll(groups)
	if err := c.Send([]byte{wire.KindReady}); err != nil {
		return nil, err
	}
	var cmd wire.Command
	stdio, err := receive(c, wire.KindCommand, &cmd)
	if err != nil {
		return nil, err
	}
	if setup.Guest {
		stdio = []int{0, 1, 2}
	}
	if len(stdio) != 3 && !(setup.Zygote && len(stdio) == 4) {
		return nil, fmt.Errorf("command came with %d descriptors", len(stdio))
	}
	if err := setRlimits(cmd.Rlimits); err != nil {
		return nil, err
	}
	if cmd.Hold {
		return hold(&cmd, stdio)
	}
	limit := limitProcesses
	if setup.Guest {
		limit = limitGuestProcesses
	}
	release, err := limit(&cmd, setup.KeepGroups)
	if err != nil {
		return nil, err
	}
	started := wire.Started{At: monotonic()}
	pid, err := spawn(&cmd, as, stdio...)
	wire.CloseAll(stdio)
	release(pid)
	var errno syscall.Errno
	if err != nil && !(errors.As(err, &errno) && programsFault(errno)) {
		return nil, fmt.Errorf("start program: %w", err)
	}
	started.Errno = int64(errno)
	if err := send(c, wire.KindStarted, &started); err != nil || errno != 0 {
		return nil, err
	}
	return &program{pid: pid, starter: unix.Gettid(), cmd: &cmd}, nil
}

// yield makes this thread, and what it starts, give way to the platform, which
// must be able to look at a limit when every core is taken. On idle cores this
// costs the program nothing. Whoever was started with less already stays there.
func yield() error {
	err := raw("nice", unix.SYS_SETPRIORITY, unix.PRIO_PROCESS, 0, Niceness)
	if errors.Is(err, unix.EACCES) {
		return nil
	}
	return err
}

// attend waits for the program's end and reports it.
func attend(c *wire.Conn, p *program) error {
	var watch *sampler
	if p.cmd.Sample {
		watch = startSampler(p.cmd, everyone())
		go obey(c)
	}
	ended, err := p.reap()
	if err != nil {
		return err
	}
	if watch != nil {
		watch.stop(&ended)
	}
	return send(c, wire.KindEnded, &ended)
}

// obey kills the program when the executor says so. Where cgroups keep the
// account, the executor kills init itself, and this is not needed.
func obey(c *wire.Conn) {
	for {
		msg, fds, err := c.Recv()
		wire.CloseAll(fds)
		if err != nil {
			os.Exit(1) // the executor is gone
		}
		if kind, _ := wire.NewDecoder(msg); kind == wire.KindKill {
			_ = unix.Kill(-1, unix.SIGKILL)
		}
	}
}

type encodable interface{ Encode(*wire.Encoder) }

func send(c *wire.Conn, kind byte, m encodable) error {
	e := wire.NewEncoder(kind)
	m.Encode(e)
	return c.Send(e.Bytes())
}

// programsFault tells the errors of execve that the submitted files can
// cause from those of the platform.
func programsFault(e syscall.Errno) bool {
	switch e {
	case syscall.ENOENT, syscall.EACCES, syscall.ENOEXEC, syscall.ENOTDIR, syscall.ELOOP,
		syscall.EISDIR, syscall.ENOMEM, syscall.E2BIG, syscall.EINVAL, syscall.ETXTBSY, syscall.ENAMETOOLONG:
		return true
	}
	return false
}

// setRlimits lowers this process's own limits, which the program inherits.
// A limit that the host has set lower stays as it is.
func setRlimits(limits []wire.Rlimit) error {
	for _, r := range limits {
		var have syscall.Rlimit
		if err := syscall.Getrlimit(int(r.Resource), &have); err != nil {
			return fmt.Errorf("rlimit %d: %w", r.Resource, err)
		}
		v := min(uint64(r.Value), have.Max)
		// syscall, not unix: it makes the runtime forget the NOFILE limit that
		// it would otherwise restore in children.
		if err := syscall.Setrlimit(int(r.Resource), &syscall.Rlimit{Cur: v, Max: v}); err != nil {
			return fmt.Errorf("rlimit %d: %w", r.Resource, err)
		}
	}
	return nil
}

// limitProcesses holds the next child to its number of processes, where no
// cgroup does. The kernel counts by user, and without privileges init is of
// the same user: then its threads are added, and it must not keep the limit
// itself, or the Go runtime would die for want of a thread. Therefore only the
// soft limit is lowered for the fork; release raises it again, and lowers the
// hard limit of the child before its own code has run.
func limitProcesses(cmd *wire.Command, sameUser bool) (release func(pid int), err error) {
	if cmd.SampleProcesses == 0 {
		return func(int) {}, nil
	}
	most := uint64(cmd.SampleProcesses)
	if sameUser {
		threads, err := os.ReadDir("/proc/self/task")
		if err != nil {
			return nil, fmt.Errorf("count own threads: %w", err)
		}
		most += uint64(len(threads))
	}
	var have unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NPROC, &have); err != nil {
		return nil, fmt.Errorf("rlimit of processes: %w", err)
	}
	most = min(most, have.Max)
	if err := unix.Setrlimit(unix.RLIMIT_NPROC, &unix.Rlimit{Cur: most, Max: have.Max}); err != nil {
		return nil, fmt.Errorf("rlimit of processes: %w", err)
	}
	return func(pid int) {
		_ = unix.Setrlimit(unix.RLIMIT_NPROC, &have)
		if pid > 0 {
			_ = unix.Prlimit(pid, unix.RLIMIT_NPROC, &unix.Rlimit{Cur: most, Max: most}, nil)
		}
	}, nil
}

// spawn starts the program from the calling thread. Who it is, if as is nil,
// and everything else is left to what that thread is.
func spawn(cmd *wire.Command, as *syscall.Credential, fds ...int) (int, error) {
	path, err := lookPath(cmd)
	if err != nil {
		return 0, err
	}
	files := make([]uintptr, len(fds))
	for i, fd := range fds {
		files[i] = uintptr(fd)
	}
	return syscall.ForkExec(path, cmd.Argv, &syscall.ProcAttr{
		Dir:   cmd.Dir,
		Env:   cmd.Env,
		Files: files,
		Sys:   &syscall.SysProcAttr{Setsid: true, Credential: as},
	})
}

// lookPath finds a bare name in the PATH that the program will have.
func lookPath(cmd *wire.Command) (string, error) {
	if cmd.Path != "" {
		return cmd.Path, nil
	}
	name := cmd.Argv[0]
	if strings.Contains(name, "/") {
		return name, nil
	}
	for _, env := range cmd.Env {
		path, ok := strings.CutPrefix(env, "PATH=")
		if !ok {
			continue
		}
		for dir := range strings.SplitSeq(path, ":") {
			full := dir + "/" + name
			if unix.Access(full, unix.X_OK) == nil {
				return full, nil
			}
		}
	}
	return "", syscall.ENOENT
}

// reap waits for the main process, then ends all the others, so that what
// it returns is true of the whole box: nothing is alive any more.
func (p *program) reap() (wire.Ended, error) {
	var ended wire.Ended
	var status unix.WaitStatus
	for {
		pid, err := unix.Wait4(-1, &status, 0, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return ended, fmt.Errorf("wait: %w", err)
		}
		if pid == p.pid {
			break
		}
	}
	ended.At = monotonic()
	ended.WaitStatus = int64(status)
	for {
		// A fork cannot slip through: it fails while a signal is pending. The
		// loop is for children that were born before and are reparented later.
		_ = unix.Kill(-1, unix.SIGKILL)
		_, err := unix.Wait4(-1, nil, 0, nil)
		if err == unix.ECHILD {
			break
		}
	}
	var usage unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_CHILDREN, &usage); err != nil {
		return ended, fmt.Errorf("rusage: %w", err)
	}
	ended.CPU = int64(time.Duration(usage.Utime.Nano() + usage.Stime.Nano()))
	ended.MaxRSS = usage.Maxrss << 10
	ended.Alone = p.alone()
	return ended, nil
}

// alone tells whether no process or thread was ever made in this box besides
// the program and init's own: whether all ids that were given out, which are
// counted from 1, are theirs. The last one stands at the end of loadavg.
func (p *program) alone() bool {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return false
	}
	mine, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return false
	}
	made := len(mine) + 1
	if !slices.ContainsFunc(mine, func(e os.DirEntry) bool { return e.Name() == strconv.Itoa(p.starter) }) {
		made++
	}
	fields := strings.Fields(string(text))
	return len(fields) > 0 && fields[len(fields)-1] == strconv.Itoa(made)
}
