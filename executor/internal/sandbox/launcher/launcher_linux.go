// Package launcher is the small process between the executor and its boxes.
//
// It exists because of the price of a fork: a clone with a new user
// namespace copies the page tables of the caller, and the executor's heap is
// large. It also owns the mount namespaces: one template per kind of root,
// which boxes copy, and one vault for the workspaces. It has no state that
// the executor cannot make again, and it lives as long as its socket: when
// the executor dies, it ends, and the kernel ends its boxes with it.
package launcher

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/crucible-eval/crucible/executor/internal/sandbox/wire"
)

// ControlFD is the descriptor of the executor's socket, and ExeFD that of
// the program which boxes start as their init.
const (
	ControlFD = 3
	ExeFD     = 4
)

// maxTemplates bounds the threads that hold a template. None is given up
// while the launcher lives, because the end of the thread that cloned a box
// is the death signal of that box.
const maxTemplates = 256

// Main serves the executor until it goes away, and does not return.
func Main() {
	if err := serve(); err != nil {
		fmt.Fprintln(os.Stderr, "sandbox launcher:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

type launcher struct {
	conn      *wire.Conn
	vault     *vault
	networks  *networks
	templates map[string]*template
}

func serve() error {
	wire.SetName("sandbox-launch")
	// A fork copies the table of every page that was ever touched: garbage is
	// collected at 1 MiB (a quarter of the runtime's 4), before it spreads.
	debug.SetGCPercent(25)
	if err := unix.CloseRange(ControlFD, ^uint(0), unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return fmt.Errorf("close_range: %w", err)
	}
	// Mounts made here stay here.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	// A terminal's interrupt reaches the whole process group: the executor
	// decides when its boxes end.
	signal.Ignore(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGPIPE)
	reaped := make(chan os.Signal, 1)
	signal.Notify(reaped, syscall.SIGCHLD)
	go reapBoxes(reaped)

	l := &launcher{conn: wire.NewBlocking(ControlFD), templates: map[string]*template{}}
	v, err := newVault()
	hello := wire.NewEncoder(wire.KindHello)
	if err != nil {
		_ = l.conn.Send(hello.String(err.Error()).Bytes())
		return err
	}
	l.vault, l.networks = v, newNetworks()
	if err := l.conn.Send(hello.String("").Bytes()); err != nil {
		return err
	}
	runtime.LockOSThread() // blocking reads: leave the other threads alone
	for {
		msg, fds, err := l.conn.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		l.handle(msg, fds)
	}
}

// handle answers one request; the descriptors are its own to close.
func (l *launcher) handle(msg []byte, fds []int) {
	kind, d := wire.NewDecoder(msg)
	id := d.Int()
	switch kind {
	case wire.KindNewWorkspace:
		var r wire.WorkspaceRequest
		r.Decode(d)
		fd, err := l.vault.create(&r)
		l.reply(id, err, fd)
	case wire.KindCloneWorkspace:
		fd, err := l.vault.clone(d.Int(), d.Bool())
		l.reply(id, err, fd)
	case wire.KindDropWorkspace:
		l.reply(id, l.vault.drop(d.Int()), -1)
	case wire.KindBox:
		var r wire.BoxRequest
		r.Decode(d)
		l.box(id, &r, fds)
		return
	default:
		l.reply(id, fmt.Errorf("unknown request %d", kind), -1)
	}
	wire.CloseAll(fds)
}

// reply sends the outcome and a descriptor, which is closed here.
func (l *launcher) reply(id int64, err error, fd int) {
	e := wire.NewEncoder(wire.KindReply).Int(id)
	if err != nil {
		_ = l.conn.Send(e.String(err.Error()).Bytes())
		return
	}
	e.String("")
	if fd < 0 {
		_ = l.conn.Send(e.Bytes())
		return
	}
	_ = l.conn.Send(e.Bytes(), fd)
	_ = unix.Close(fd)
}

// box hands the request to the thread that holds its template and does not
// wait: boxes of different templates are cloned at the same time.
func (l *launcher) box(id int64, r *wire.BoxRequest, fds []int) {
	if len(fds) < 1 || (r.CgroupFD && len(fds) < 2) {
		wire.CloseAll(fds)
		l.reply(id, errors.New("box request without its descriptors"), -1)
		return
	}
	t, err := l.template(&r.Tree)
	if err != nil {
		wire.CloseAll(fds)
		l.reply(id, err, -1)
		return
	}
	workspace := -1
	if r.Workspace != 0 {
		fd, err := l.vault.clone(r.Workspace, r.ReadOnly)
		if err != nil {
			wire.CloseAll(fds)
			l.reply(id, err, -1)
			return
		}
		workspace = fd
	}
	t.jobs <- func(broken error) {
		pidfd, err := -1, broken
		if err == nil {
			pidfd, err = cloneBox(r, l.networks, fds, workspace)
		}
		wire.CloseAll(fds)
		if workspace >= 0 {
			_ = unix.Close(workspace)
		}
		l.reply(id, err, pidfd)
	}
}

// template returns the thread for a tree. One that failed is tried again: a
// path that was missing may be there by now. One that shows a folder which has
// been replaced on the host is not used any more.
func (l *launcher) template(tree *wire.Tree) (*template, error) {
	key := tree.Key() + identities(tree.Binds)
	if t := l.templates[key]; t != nil {
		if !t.failed() {
			return t, nil
		}
		close(t.jobs)
		delete(l.templates, key)
	}
	if len(l.templates) >= maxTemplates {
		return nil, fmt.Errorf("more than %d different roots", maxTemplates)
	}
	t := startTemplate(tree)
	l.templates[key] = t
	return t, nil
}

// identities says which files and folders of the host binds name now.
func identities(binds []wire.Bind) string {
	e := wire.NewEncoder(0)
	for _, b := range binds {
		var st unix.Stat_t
		_ = unix.Stat(b.Host, &st) // zero while it is missing
		e.Int(int64(st.Dev)).Int(int64(st.Ino))
	}
	return string(e.Bytes())
}

// reapBoxes collects the inits that ended. Who waits for a box watches its
// process descriptor, which tells the end before this does.
func reapBoxes(ended <-chan os.Signal) {
	for range ended {
		for {
			pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil)
			if err == unix.EINTR {
				continue
			}
			if err != nil || pid <= 0 {
				break
			}
		}
	}
}
