package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/crucible-eval/crucible/executor/internal/sandbox/launcher"
	"github.com/crucible-eval/crucible/executor/internal/sandbox/wire"
)

// helloTimeout is how long a launcher may take to start.
const helloTimeout = 10 * time.Second

var errLauncherGone = errors.New("the launcher ended")

// client is the executor's side of one launcher process.
type client struct {
	cmd  *exec.Cmd
	conn *wire.Conn
	gone chan struct{} // closed when the launcher cannot answer any more
	wg   sync.WaitGroup

	mu      sync.Mutex
	next    int64
	pending map[int64]chan reply
	dead    bool
}

type reply struct {
	fd  int
	err error
}

// startLauncher starts the process and waits until it says that it can work.
func startLauncher(exe *os.File, rootless bool) (*client, error) {
	ours, theirs, err := wire.Pair()
	if err != nil {
		return nil, err
	}
	socket := os.NewFile(uintptr(theirs), "launcher")
	defer func() { _ = socket.Close() }()
	conn, err := wire.NewPolled(ours, 4096)
	if err != nil {
		return nil, err
	}
	cmd := &exec.Cmd{
		Path:       fmt.Sprintf("/proc/self/fd/%d", launcher.ExeFD),
		Args:       []string{wire.LauncherArg},
		Env:        []string{"GOMAXPROCS=2"},
		Dir:        "/",
		Stderr:     os.Stderr,
		ExtraFiles: []*os.File{socket, exe},
		SysProcAttr: &syscall.SysProcAttr{
			Cloneflags: unix.CLONE_NEWNS,
			Setpgid:    true,
		},
	}
	if rootless {
		cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	}
	if err := cmd.Start(); err != nil {
		_ = conn.Close()
		return nil, noNamespaces(err, rootless)
	}
	_ = socket.Close()
	c := &client{cmd: cmd, conn: conn, gone: make(chan struct{}), pending: map[int64]chan reply{}}
	hello := make(chan error, 1)
	c.wg.Go(func() { c.read(hello) })
	timeout := time.NewTimer(helloTimeout)
	defer timeout.Stop()
	select {
	case err = <-hello:
	case <-timeout.C:
		err = errors.New("the launcher did not answer")
	}
	if err != nil {
		c.close()
		return nil, noNamespaces(err, rootless)
	}
	return c, nil
}

// read hands out the answers until the launcher is gone.
func (c *client) read(hello chan<- error) {
	defer c.fail()
	for {
		msg, fds, err := c.conn.Recv()
		if err != nil {
			hello <- errLauncherGone
			return
		}
		kind, d := wire.NewDecoder(msg)
		if kind == wire.KindHello {
			var err error
			if text := d.String(); text != "" {
				err = errors.New(text)
			}
			hello <- err
			hello = make(chan error, 1)
			continue
		}
		id, text := d.Int(), d.String()
		r := reply{fd: -1}
		if text != "" {
			r.err = errors.New(text)
		}
		if len(fds) > 0 {
			r.fd = fds[0]
			wire.CloseAll(fds[1:])
		}
		c.mu.Lock()
		ch := c.pending[id]
		delete(c.pending, id)
		c.mu.Unlock()
		if ch == nil {
			wire.CloseAll(fds)
			continue
		}
		ch <- r
	}
}

// fail answers everything that is still waiting.
func (c *client) fail() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dead = true
	for id, ch := range c.pending {
		ch <- reply{fd: -1, err: errLauncherGone}
		delete(c.pending, id)
	}
	close(c.gone)
}

// call sends a request, whose body the caller appends, and waits for the
// answer. The descriptor returned is the caller's.
func (c *client) call(ctx context.Context, kind byte, body func(*wire.Encoder), fds ...int) (int, error) {
	ch := make(chan reply, 1)
	c.mu.Lock()
	if c.dead {
		c.mu.Unlock()
		return -1, errLauncherGone
	}
	c.next++
	id := c.next
	c.pending[id] = ch
	c.mu.Unlock()
	e := wire.NewEncoder(kind).Int(id)
	body(e)
	if err := c.conn.Send(e.Bytes(), fds...); err != nil {
		c.mu.Lock()
		delete(c.pending, id)
		c.mu.Unlock()
		return -1, err
	}
	select {
	case r := <-ch:
		return r.fd, r.err
	case <-ctx.Done():
		c.mu.Lock()
		_, waiting := c.pending[id]
		delete(c.pending, id)
		c.mu.Unlock()
		if !waiting {
			if r := <-ch; r.fd >= 0 {
				_ = unix.Close(r.fd)
			}
		}
		return -1, context.Cause(ctx)
	}
}

func (c *client) alive() bool {
	select {
	case <-c.gone:
		return false
	default:
		return true
	}
}

// close ends the launcher, and with it every box that is left.
func (c *client) close() {
	_ = c.conn.Close()
	_ = c.cmd.Process.Kill()
	_ = c.cmd.Wait()
	c.wg.Wait()
}
