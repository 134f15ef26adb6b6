//go:build chaos && linux

package chaos_test

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/pkg/testkit"
)

// daemon is one service, and its supervisor: a process that ends is started
// again, on the same port.
type daemon struct {
	name    string
	args    []string
	env     []string
	url     string
	restart time.Duration
	log     *os.File
	done    chan struct{} // closed when it is stopped for good

	mu       sync.Mutex
	binary   string
	skew     time.Duration // of its wall clock
	cmd      *exec.Cmd
	exited   chan struct{} // closed when cmd has ended
	stopping bool
	harmed   bool     // by us: its end is no surprise
	pids     []int    // of all processes that it ever was
	surprise []string // ends that nobody asked for
}

// startDaemon starts a service and its supervisor; wait with ready.
func startDaemon(t testing.TB, dir, name string, restart time.Duration, env []string, args ...string) *daemon {
	t.Helper()
	log, err := os.Create(filepath.Join(dir, name+".log"))
	require.NoError(t, err)
	port := testkit.FreePort(t)
	d := &daemon{
		name: name, args: args, restart: restart, log: log, done: make(chan struct{}), binary: program,
		env: append(env, fmt.Sprintf("CRUCIBLE_LISTEN=127.0.0.1:%d", port), "CRUCIBLE_CONFIG=/dev/null", "CRUCIBLE_LOG_FORMAT=json"),
		url: fmt.Sprintf("http://127.0.0.1:%d", port),
	}
	first := make(chan error, 1)
	go d.supervise(first)
	require.NoError(t, <-first)
	t.Cleanup(func() { d.end(5 * time.Second); _ = d.log.Close() })
	return d
}

// supervise starts the process and starts it again whenever it ends.
func (d *daemon) supervise(first chan<- error) {
	defer close(d.done)
	// The death signal follows the thread that forked.
	runtime.LockOSThread()
	for {
		cmd, err := d.launch()
		if first != nil {
			first <- err
			first = nil
		}
		if err != nil {
			return // never started, or stopped meanwhile
		}
		_ = cmd.Wait() // its state says how
		if d.over(cmd) {
			return
		}
		time.Sleep(d.restart) // as a supervisor does
	}
}

var errStopped = fmt.Errorf("it is stopped for good")

func (d *daemon) launch() (*exec.Cmd, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.stopping {
		return nil, errStopped
	}
	cmd := exec.Command(d.binary, d.args...)
	cmd.Stdout, cmd.Stderr = d.log, d.log
	cmd.Env = append(os.Environ(), d.env...)
	if d.skew != 0 {
		cmd.Env = append(cmd.Env, fmt.Sprintf("%s=%d", skewVariable, int(d.skew.Seconds())))
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	d.cmd, d.exited, d.harmed = cmd, make(chan struct{}), false
	d.pids = append(d.pids, cmd.Process.Pid)
	return cmd, nil
}

// over notes how a process ended, and says whether that was the last one.
func (d *daemon) over(cmd *exec.Cmd) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	close(d.exited)
	if !d.harmed && !d.stopping {
		d.surprise = append(d.surprise, fmt.Sprintf("%s (process %d) ended by itself: %s", d.name, cmd.Process.Pid, cmd.ProcessState))
	}
	return d.stopping
}

// signal sends a signal to the process that there is now.
func (d *daemon) signal(s syscall.Signal) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.cmd == nil {
		return
	}
	if s != syscall.SIGCONT {
		d.harmed = true
	}
	_ = d.cmd.Process.Signal(s) // it may have ended a moment ago
}

func (d *daemon) kill() { d.signal(syscall.SIGKILL) }

// excuse makes the next end no surprise: what it needs is broken.
func (d *daemon) excuse() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.harmed = true
}

// renew asks the process to end in good order, waits for it, and for the next one to be ready.
func (d *daemon) renew(within time.Duration) error {
	d.mu.Lock()
	exited := d.exited
	d.mu.Unlock()
	d.signal(syscall.SIGTERM)
	select {
	case <-exited:
	case <-time.After(within):
		return fmt.Errorf("%s did not end within %v of SIGTERM", d.name, within)
	}
	return d.ready(within)
}

// disguise has the next process use another binary and a wrong clock.
func (d *daemon) disguise(binary string, skew time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.binary, d.skew = binary, skew
}

// was says whether the process was ever this service.
func (d *daemon) was(pid int) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Contains(d.pids, pid)
}

func (d *daemon) is(pid int) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.cmd != nil && d.cmd.Process.Pid == pid
}

// ready waits until the service says that it is.
func (d *daemon) ready(within time.Duration) error {
	client := &http.Client{Timeout: 2 * time.Second}
	deadline := time.Now().Add(within)
	last := "no answer"
	for time.Now().Before(deadline) {
		resp, err := client.Get(d.url + "/readyz")
		if err == nil {
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
			last = resp.Status
		}
		time.Sleep(20 * time.Millisecond) // there is no signal for it
	}
	return fmt.Errorf("%s is not ready after %v: %s; see %s", d.name, within, last, d.log.Name())
}

// end stops the service for good: with SIGTERM, and with SIGKILL when that takes too long, which is an error.
func (d *daemon) end(within time.Duration) error {
	d.mu.Lock()
	d.stopping = true
	if d.cmd != nil {
		_ = d.cmd.Process.Signal(syscall.SIGCONT)
		_ = d.cmd.Process.Signal(syscall.SIGTERM)
	}
	d.mu.Unlock()
	select {
	case <-d.done:
		return nil
	case <-time.After(within):
	}
	d.kill()
	<-d.done
	return fmt.Errorf("%s did not end within %v of SIGTERM", d.name, within)
}
