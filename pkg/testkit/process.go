package testkit

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// process is one child. It ends when the test binary does, however that ends.
type process struct {
	cmd   *exec.Cmd
	guard *guard
	done  chan struct{} // closed when the process has ended and is reaped

	mu     sync.Mutex
	paused bool
}

// startProcess starts argv, as the given user when credential is not nil, with its output appended to logPath.
func startProcess(argv []string, dir, logPath string, credential *syscall.Credential) (*process, error) {
	output, err := os.OpenFile(logPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer func() { _ = output.Close() }()

	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir = dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "TMPDIR=" + dir, "LC_ALL=C", "TZ=UTC"}
	cmd.Stdout, cmd.Stderr = output, output
	// A process group of its own: Ctrl-C at a terminal reaches the test binary, which stops it in order.
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: credential, Setpgid: true}
	dieWithParent(cmd.SysProcAttr)

	p := &process{cmd: cmd, done: make(chan struct{})}
	started := make(chan error)
	go func() {
		// The kernel sends the parent's death signal when the thread that forked ends, not when the process
		// does. So one locked goroutine forks and then waits: its thread lives exactly as long as the child.
		// It is not unlocked, so the thread ends with the goroutine.
		runtime.LockOSThread()
		if err := cmd.Start(); err != nil {
			started <- err
			return
		}
		started <- nil
		_ = cmd.Wait() // How it ended is in its log and in cmd.ProcessState.
		close(p.done)
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	if !diesWithParent {
		if p.guard, err = newGuard([]int{p.pid()}); err != nil {
			p.kill()
			return nil, err
		}
	}
	return p, nil
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// alive is false once the process has ended.
func (p *process) alive() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// stop asks the process to end with sig and waits. One that does not end in time is killed, and that is an error.
func (p *process) stop(sig syscall.Signal, limit time.Duration) error {
	p.resume()
	_ = p.cmd.Process.Signal(sig) // The only error is that it has ended already.
	select {
	case <-p.done:
		p.guard.release()
		return nil
	case <-time.After(limit):
		p.kill()
		return fmt.Errorf("process %d did not end within %v of %v and was killed", p.pid(), limit, sig)
	}
}

// kill kills the process and its descendants with SIGKILL and waits until all are gone.
func (p *process) kill() {
	tree := p.freeze()
	for _, pid := range slices.Backward(tree) {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	_ = p.cmd.Process.Kill()
	<-p.done
	// Orphans are reaped by init, at its leisure: what has not been reaped yet is gone all the same.
	poll(patience, nil, func() bool {
		running := running()
		return !slices.ContainsFunc(tree, func(pid int) bool { return running[pid].parent != 0 && !running[pid].zombie })
	})
	p.setPaused(false)
	p.guard.release()
}

// pause stops the process and its descendants with SIGSTOP: they keep their connections and answer nothing.
func (p *process) pause() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.paused {
		return nil
	}
	if !p.alive() {
		return errors.New("it is not running")
	}
	// A stopped descendant cannot notice that its parent died, so the guard holds all of them meanwhile.
	held, err := newGuard(append(p.freeze(), p.pid()))
	if err != nil {
		return err
	}
	p.guard.release()
	p.guard, p.paused = held, true
	return nil
}

// resume lets a paused process go on; otherwise it does nothing.
func (p *process) resume() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.paused {
		return
	}
	for _, pid := range p.descendants() {
		_ = syscall.Kill(pid, syscall.SIGCONT)
	}
	_ = p.cmd.Process.Signal(syscall.SIGCONT)
	p.guard.release()
	p.guard, p.paused = nil, false
	if !diesWithParent {
		p.guard, _ = newGuard([]int{p.pid()})
	}
}

func (p *process) setPaused(paused bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.paused = paused
}

// freeze stops the process, so that it forks and reaps nobody, then its descendants, whom it returns.
func (p *process) freeze() []int {
	if p.cmd.Process.Signal(syscall.SIGSTOP) != nil {
		return nil
	}
	poll(time.Second, p.done, func() bool { return running()[p.pid()].stopped })
	pids := p.descendants()
	for _, pid := range pids {
		_ = syscall.Kill(pid, syscall.SIGSTOP)
	}
	return pids
}

func (p *process) descendants() []int {
	if !p.alive() {
		return nil
	}
	all := running()
	family := []int{p.pid()}
	for i := 0; i < len(family); i++ {
		for pid, state := range all {
			if state.parent == family[i] && !state.zombie {
				family = append(family, pid)
			}
		}
	}
	return family[1:]
}

// state is what the system says about one process; the zero value stands for one that does not exist.
type state struct {
	parent          int
	stopped, zombie bool
}

// guard is a small shell that kills processes once the test binary is gone, seen by the end of its input.
type guard struct {
	cmd   *exec.Cmd
	input *os.File
}

func newGuard(pids []int) (*guard, error) {
	reader, writer, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer func() { _ = reader.Close() }()
	argv := []string{"-c", `read -r _; kill -KILL "$@" 2>/dev/null`, "guard"}
	for _, pid := range pids {
		argv = append(argv, strconv.Itoa(pid))
	}
	cmd := exec.Command("/bin/sh", argv...)
	cmd.Dir, cmd.Stdin = "/", reader
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		_ = writer.Close()
		return nil, err
	}
	return &guard{cmd: cmd, input: writer}, nil
}

// release ends the guard, which then kills nobody. A nil guard is fine, and so is releasing twice.
func (g *guard) release() {
	if g == nil || g.cmd.ProcessState != nil {
		return
	}
	_ = g.cmd.Process.Kill()
	_ = g.cmd.Wait()
	_ = g.input.Close()
}

// tail is the end of a log, for a message.
func tail(path string) string {
	content, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(content)), "\n")
	return strings.Join(lines[max(0, len(lines)-15):], "\n")
}
