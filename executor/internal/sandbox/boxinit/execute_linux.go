package boxinit

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/crucible-eval/crucible/executor/internal/sandbox/wire"
)

func execute(c *wire.Conn, setup *wire.Setup, cmd *wire.Command, fds []int) error {
	if err := setRlimits(cmd.Rlimits); err != nil {
		return err
	}
	stdio, groups := fds[:3], fds[3:]
	type spawned struct {
		pid int
		at  int64
		err error
	}
	done := make(chan spawned, 1)
	go func() {
		// Never unlocked: the thread, which now belongs to the program's user
		// and has its filter, ends with this goroutine.
		runtime.LockOSThread()
		if err := becomeUser(setup, groups); err != nil {
			done <- spawned{err: err}
			return
		}
		at := monotonic()
		pid, err := spawn(cmd, stdio)
		done <- spawned{pid: pid, at: at, err: err}
	}()
	child := <-done
	wire.CloseAll(fds)

	var errno syscall.Errno
	if child.err != nil && !(errors.As(child.err, &errno) && programsFault(errno)) {
		return fmt.Errorf("start program: %w", child.err)
	}
	started := wire.Started{At: child.at, Errno: int64(errno)}
	if err := send(c, wire.KindStarted, &started); err != nil || errno != 0 {
		return err
	}
	var watch *sampler
	if cmd.Sample {
		watch = startSampler(cmd)
	}
	ended, err := reap(child.pid)
	if err != nil {
		return err
	}
	if watch != nil {
		watch.stop(&ended)
	}
	return send(c, wire.KindEnded, &ended)
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

// spawn starts the program from the calling thread and leaves everything
// else to what that thread is.
func spawn(cmd *wire.Command, stdio []int) (int, error) {
	path, err := lookPath(cmd)
	if err != nil {
		return 0, err
	}
	return syscall.ForkExec(path, cmd.Argv, &syscall.ProcAttr{
		Dir:   cmd.Dir,
		Env:   cmd.Env,
		Files: []uintptr{uintptr(stdio[0]), uintptr(stdio[1]), uintptr(stdio[2])},
		Sys:   &syscall.SysProcAttr{Setsid: true},
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
func reap(mainPID int) (wire.Ended, error) {
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
		if pid == mainPID {
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
	return ended, nil
}
