package boxinit

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/crucible-eval/crucible/executor/internal/sandbox/landlock"
	"github.com/crucible-eval/crucible/executor/internal/sandbox/wire"
)

// ConfinedMain is init where there are no namespaces, and does not return.
// It is an ordinary process, and stays outside of what confines its program:
// it is the one that every orphan of the box falls to, kills all of them at
// the end, and does so too when the executor goes away.
func ConfinedMain() {
	c := wire.NewBlocking(wire.InitControlFD)
	i := &confined{c: c}
	err := i.run()
	i.clear() // also after an error: nothing may outlive the box
	if err != nil {
		_ = c.Send(wire.NewEncoder(wire.KindFatal).String(err.Error()).Bytes())
		os.Exit(1)
	}
	os.Exit(0)
}

type confined struct {
	c       *wire.Conn
	program *wire.Conn         // the process that becomes the program, until it has
	pid     int                // of it
	fence   chan chan struct{} // asks the thread in the fence to kill; nil: there is none
}

func (i *confined) run() error {
	wire.SetName("sandbox-init")
	if err := unix.CloseRange(wire.InitControlFD, ^uint(0), unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return fmt.Errorf("close_range: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("subreaper: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("dumpable: %w", err)
	}
	// A service manager that stops the executor signals every process of it: the
	// executor decides when boxes end. Not ignored, which the program would inherit.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT)
	var what wire.Confine
	raw, groups, err := i.expect(wire.KindConfine, &what)
	if err != nil || raw == nil {
		return err
	}
	if err := i.spawn(&what); err != nil {
		return err
	}
	err = i.program.Send(raw, groups...)
	wire.CloseAll(groups)
	if err != nil {
		return err
	}
	if _, err := i.heard(wire.KindReady); err != nil {
		return err
	}
	if err := i.c.Send([]byte{wire.KindReady}); err != nil {
		return err
	}
	var cmd wire.Command
	raw, stdio, err := i.expect(wire.KindCommand, &cmd)
	if err != nil || raw == nil {
		return err
	}
	go i.obey()
	err = i.program.Send(raw, stdio...)
	wire.CloseAll(stdio)
	if err != nil {
		return err
	}
	return i.attend(&cmd, what.UID == 0)
}

// expect waits for a message of the executor and returns its bytes to be
// passed on; nil when the box is to end instead.
func (i *confined) expect(kind byte, into decodable) ([]byte, []int, error) {
	msg, fds, err := i.c.Recv()
	if err != nil {
		return nil, nil, err
	}
	got, d := wire.NewDecoder(msg)
	if got == wire.KindKill {
		return nil, nil, nil
	}
	into.Decode(d)
	if got != kind || d.Err() != nil {
		wire.CloseAll(fds)
		return nil, nil, fmt.Errorf("init: unexpected message %d", got)
	}
	return slices.Clone(msg), fds, nil
}

// spawn starts the process that becomes the program. Where the kernel can
// fence signals in, the thread that starts it lives in the fence, one step
// outside of what the program will be: it can kill all of the box with one
// call that no fork slips through, and nothing in the box can signal it.
func (i *confined) spawn(what *wire.Confine) error {
	ours, theirs, err := wire.Pair()
	if err != nil {
		return err
	}
	started := make(chan error, 1)
	fence := make(chan chan struct{})
	go func() {
		// Never unlocked: the thread is the program's parent, whose end would kill it.
		runtime.LockOSThread()
		err := error(nil)
		if what.Fence {
			err = landlock.Fence()
		}
		if err == nil {
			i.pid, err = syscall.ForkExec(fmt.Sprintf("/proc/self/fd/%d", wire.InitExeFD), []string{wire.ProgramArg}, &syscall.ProcAttr{
				Dir: "/", Env: []string{"GOMAXPROCS=1", "GOGC=off"}, Files: []uintptr{0, 0, 2, uintptr(theirs)},
				Sys: &syscall.SysProcAttr{Setsid: true, Pdeathsig: unix.SIGKILL},
			})
		}
		started <- err
		for done := range fence {
			_ = unix.Kill(-1, unix.SIGKILL)
			close(done)
		}
	}()
	err = <-started
	_ = unix.Close(theirs)
	if err != nil {
		_ = unix.Close(ours)
		return fmt.Errorf("start the program's process: %w", err)
	}
	i.program = wire.NewBlocking(ours)
	if what.Fence {
		i.fence = fence
	}
	return nil
}

// heard returns the next message of the program's process, if it is of kind.
func (i *confined) heard(kind byte) (*wire.Decoder, error) {
	msg, fds, err := i.program.Recv()
	wire.CloseAll(fds)
	if err != nil {
		return nil, err
	}
	got, d := wire.NewDecoder(msg)
	switch got {
	case kind:
		return d, nil
	case wire.KindFatal:
		return nil, errors.New(d.String())
	}
	return nil, fmt.Errorf("init: unexpected message %d of the program's process", got)
}

// attend sees the program start, waits for its end, ends all that it left,
// and reports. sharedUser says that the kernel cannot count its processes.
func (i *confined) attend(cmd *wire.Command, sharedUser bool) error {
	var launched wire.Launched
	d, err := i.heard(wire.KindLaunched)
	if err != nil {
		return err
	}
	launched.Decode(d)
	// The socket closes as the program takes over; or it says what went wrong.
	switch d, err := i.heard(wire.KindLaunched); {
	case err == nil:
		launched.Decode(d)
	case !errors.Is(err, io.EOF):
		return err
	}
	if err := send(i.c, wire.KindStarted, &wire.Started{At: launched.At, Errno: launched.Errno}); err != nil || launched.Errno != 0 {
		return err
	}
	var watch *sampler
	if cmd.Sample {
		seen := watched{members: descendants, kill: i.kill, ownCPU: launched.CPU}
		if sharedUser {
			seen.limitTasks = cmd.SampleProcesses
		}
		watch = startSampler(cmd, seen)
	}
	ended := wire.Ended{}
	var status unix.WaitStatus
	for pid := 0; pid != i.pid; {
		if pid, err = unix.Wait4(-1, &status, 0, nil); err != nil && err != unix.EINTR {
			return fmt.Errorf("wait: %w", err)
		}
	}
	ended.At, ended.WaitStatus = monotonic(), int64(status)
	i.clear()
	var usage unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_CHILDREN, &usage); err != nil {
		return fmt.Errorf("rusage: %w", err)
	}
	ended.CPU = max(usage.Utime.Nano()+usage.Stime.Nano()-launched.CPU, 0)
	if rss := usage.Maxrss << 10; rss > launched.MaxRSS {
		ended.MaxRSS = rss
	}
	if watch != nil {
		watch.stop(&ended)
	}
	return send(i.c, wire.KindEnded, &ended)
}

// obey kills what there is when the executor says so, or is gone.
func (i *confined) obey() {
	for {
		msg, fds, err := i.c.Recv()
		wire.CloseAll(fds)
		if err != nil {
			i.clear()
			os.Exit(1)
		}
		if kind, _ := wire.NewDecoder(msg); kind == wire.KindKill {
			i.kill()
		}
	}
}

// clear kills until no child is left: whatever the box's processes did, they
// are this process's children in the end.
func (i *confined) clear() {
	for {
		i.kill()
		for {
			pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil)
			if err == unix.ECHILD {
				return
			}
			if err != unix.EINTR && pid <= 0 {
				break
			}
		}
		time.Sleep(100 * time.Microsecond) // they are on their way out
	}
}

// kill kills every process of the box: all at once from within the fence,
// else one after the other, as far as they are found.
func (i *confined) kill() {
	if i.fence != nil {
		done := make(chan struct{})
		i.fence <- done
		<-done
		return
	}
	for _, pid := range descendants() {
		_ = unix.Kill(pid, unix.SIGKILL)
	}
}
