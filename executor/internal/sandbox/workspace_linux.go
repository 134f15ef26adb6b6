package sandbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/crucible-eval/crucible/executor/internal/sandbox/wire"
)

const (
	defaultScratchBytes  = 64 << 20
	defaultScratchInodes = 16_384
	minScratchBytes      = 64 << 10
	maxScratchBytes      = 16 << 30
	minScratchInodes     = 16
	maxScratchInodes     = 10_000_000
)

// resolve is how the host opens what a program may have shaped.
const resolve = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV

type workspace struct {
	r       *runtime
	client  *client // the launcher that holds it; nil without namespaces
	id      int64
	folder  *folder // where it is on a disk; nil with namespaces
	hostUID int64   // 0: rootless

	mu      sync.Mutex
	root    *os.File
	running int // boxes in which a command runs
	holders int // boxes that use hostUID, and the workspace itself
}

// scratch applies defaults and bounds to the quota of a tmpfs.
func scratch(what string, bytes, inodes int64) (int64, int64, error) {
	if bytes == 0 {
		bytes = defaultScratchBytes
	}
	if inodes == 0 {
		inodes = defaultScratchInodes
	}
	if bytes < minScratchBytes || bytes > maxScratchBytes || inodes < minScratchInodes || inodes > maxScratchInodes {
		return 0, 0, fmt.Errorf("%w: %s of %d bytes and %d inodes", ErrCommand, what, bytes, inodes)
	}
	return bytes, inodes, nil
}

func (r *runtime) NewWorkspace(ctx context.Context, spec WorkspaceSpec) (Workspace, error) {
	size, inodes, err := scratch("workspace", spec.Bytes, spec.Inodes)
	if err != nil {
		return nil, err
	}
	if r.confined != nil {
		return r.newConfinedWorkspace(size, inodes)
	}
	c, err := r.launcher()
	if err != nil {
		return nil, platform("workspace", err)
	}
	w := &workspace{r: r, client: c, holders: 1}
	if w.hostUID, err = r.takeSlot(); err != nil {
		return nil, platform("workspace", err)
	}
	r.mu.Lock()
	r.workspaces++
	w.id = r.workspaces
	r.mu.Unlock()
	request := wire.WorkspaceRequest{ID: w.id, Bytes: size, Inodes: inodes}
	if w.hostUID != 0 {
		request.HostUID = w.hostUID + 1
	}
	fd, err := c.call(ctx, wire.KindNewWorkspace, request.Encode)
	if err != nil {
		// Should it come into being after all, it goes with the launcher.
		w.release()
		return nil, platform("workspace", err)
	}
	w.root = os.NewFile(uintptr(fd), "workspace")
	return w, nil
}

func (r *runtime) takeSlot() (int64, error) {
	if r.rootless {
		return 0, nil
	}
	uid, ok := r.slots.take()
	if !ok {
		return 0, fmt.Errorf("more than %d boxes and workspaces at once", slotsPerBlock)
	}
	return uid, nil
}

// hold keeps the workspace's ids from being lent to others.
func (w *workspace) hold() {
	w.mu.Lock()
	w.holders++
	w.mu.Unlock()
}

func (w *workspace) release() {
	w.mu.Lock()
	w.holders--
	last := w.holders == 0
	w.mu.Unlock()
	if !last {
		return
	}
	free := func() {
		if w.hostUID != 0 {
			w.r.slots.give(w.hostUID)
		}
	}
	if w.folder == nil {
		free()
		return
	}
	w.r.aside(func() {
		w.folder.private.remove(w.folder)
		free()
	})
}

// room refuses what does not fit, where the file system does not.
func (w *workspace) room(root int, size int64) error {
	if w.folder == nil {
		return nil
	}
	if u := w.folder.measure(root); u.Bytes+size > u.MaxBytes || u.Inodes >= u.MaxInodes {
		return unix.ENOSPC
	}
	return nil
}

// enter and leave frame the run of a command.
func (w *workspace) enter() {
	w.mu.Lock()
	w.running++
	w.mu.Unlock()
}

func (w *workspace) leave() {
	w.mu.Lock()
	w.running--
	w.mu.Unlock()
}

// locked calls f with the root's descriptor while nothing runs.
func (w *workspace) locked(f func(root int) error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.root == nil {
		return ErrClosed
	}
	if w.running > 0 {
		return ErrBusy
	}
	return f(int(w.root.Fd()))
}

func (w *workspace) WriteFile(name string, content []byte, mode fs.FileMode) error {
	if err := ValidatePath(name); err != nil {
		return err
	}
	return w.locked(func(root int) error {
		if err := w.room(root, int64(len(content))); err != nil {
			return fileError(name, err)
		}
		dir, base := path.Split(name)
		parent, err := w.mkdirs(root, strings.TrimSuffix(dir, "/"))
		if err != nil {
			return err
		}
		defer func() { _ = unix.Close(parent) }()
		fd, err := unix.Openat2(parent, base, &unix.OpenHow{
			// Not blocking: a pipe that the program left here must not stop us.
			Flags:   unix.O_WRONLY | unix.O_CREAT | unix.O_NONBLOCK | unix.O_CLOEXEC | unix.O_NOFOLLOW,
			Mode:    uint64(mode.Perm()),
			Resolve: resolve,
		})
		if err != nil {
			return fileError(name, err)
		}
		f := os.NewFile(uintptr(fd), name)
		return errors.Join(w.fill(f, name, content, mode), f.Close())
	})
}

func (w *workspace) fill(f *os.File, name string, content []byte, mode fs.FileMode) error {
	if err := regular(int(f.Fd()), name); err != nil {
		return err
	}
	if err := f.Truncate(0); err != nil {
		return fmt.Errorf("write %q: %w", name, err)
	}
	if _, err := io.Copy(f, bytes.NewReader(content)); err != nil {
		return fmt.Errorf("write %q: %w", name, err)
	}
	if w.hostUID != 0 {
		if err := f.Chown(int(w.hostUID)+1, int(w.hostUID)+1); err != nil {
			return fmt.Errorf("write %q: %w", name, err)
		}
	}
	if err := f.Chmod(mode.Perm()); err != nil {
		return fmt.Errorf("write %q: %w", name, err)
	}
	return nil
}

// mkdirs opens a folder beneath root, element by element, making those that
// are missing. The descriptor returned is the caller's.
func (w *workspace) mkdirs(root int, dir string) (int, error) {
	open := func(at int, name string) (int, error) {
		return unix.Openat2(at, name, &unix.OpenHow{
			Flags: unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC | unix.O_NOFOLLOW, Resolve: resolve,
		})
	}
	fd, err := open(root, ".")
	if err != nil || dir == "" {
		return fd, err
	}
	for name := range strings.SplitSeq(dir, "/") {
		next, err := open(fd, name)
		if err == unix.ENOENT {
			if err = unix.Mkdirat(fd, name, 0o755); err == nil {
				if next, err = open(fd, name); err == nil && w.hostUID != 0 {
					err = unix.Fchown(next, int(w.hostUID)+1, int(w.hostUID)+1)
				}
			}
		}
		_ = unix.Close(fd)
		if err != nil {
			return -1, fileError(dir, err)
		}
		fd = next
	}
	return fd, nil
}

func (w *workspace) Open(name string) (*os.File, error) {
	if err := ValidatePath(name); err != nil {
		return nil, err
	}
	var f *os.File
	err := w.locked(func(root int) error {
		fd, err := unix.Openat2(root, name, &unix.OpenHow{
			Flags:   unix.O_RDONLY | unix.O_NONBLOCK | unix.O_CLOEXEC | unix.O_NOFOLLOW | unix.O_NOCTTY,
			Resolve: resolve,
		})
		if err != nil {
			return fileError(name, err)
		}
		if err := regular(fd, name); err != nil {
			_ = unix.Close(fd)
			return err
		}
		f = os.NewFile(uintptr(fd), name)
		return nil
	})
	return f, err
}

func (w *workspace) ReadFile(name string, limit int64) ([]byte, error) {
	f, err := w.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	return io.ReadAll(io.LimitReader(f, limit))
}

func (w *workspace) List(limit int) (entries []Entry, whole bool, err error) {
	err = w.locked(func(root int) error {
		entries, whole, err = list(root, limit)
		return err
	})
	return entries, whole, err
}

// list walks the tree beneath root, breadth first, with one folder open at a
// time.
func list(root, limit int) (entries []Entry, whole bool, err error) {
	whole = true
	for folders := []string{"."}; len(folders) > 0; folders = folders[1:] {
		found, complete, err := listFolder(root, folders[0], limit-len(entries))
		if err != nil {
			return nil, false, err
		}
		whole = whole && complete
		for _, e := range found {
			if e.Type == fs.ModeDir {
				folders = append(folders, e.Path)
			}
		}
		if entries = append(entries, found...); len(entries) == limit {
			return entries, whole && len(folders) == 1, nil
		}
	}
	return entries, whole, nil
}

// listFolder is list for one folder. One that cannot be read has nothing in it.
func listFolder(root int, folder string, limit int) (entries []Entry, whole bool, err error) {
	fd, err := unix.Openat2(root, folder, &unix.OpenHow{
		Flags: unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC | unix.O_NOFOLLOW, Resolve: resolve,
	})
	if err == unix.EACCES {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fileError(folder, err)
	}
	f := os.NewFile(uintptr(fd), folder)
	defer func() { _ = f.Close() }()
	names, err := f.Readdirnames(limit + 1)
	if err != nil && err != io.EOF {
		return nil, false, fmt.Errorf("list %q: %w", folder, err)
	}
	whole = len(names) <= limit
	slices.Sort(names)
	for _, name := range names[:min(len(names), limit)] {
		var st unix.Stat_t
		if err := unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return nil, false, fmt.Errorf("list %q: %w", path.Join(folder, name), err)
		}
		e := Entry{Path: path.Join(folder, name), Type: fileType(st.Mode)}
		if ValidatePath(e.Path) != nil {
			whole = false
			continue
		}
		if e.Type == 0 {
			e.Bytes = st.Size
		}
		entries = append(entries, e)
	}
	return entries, whole, nil
}

func fileType(mode uint32) fs.FileMode {
	switch mode & unix.S_IFMT {
	case unix.S_IFREG:
		return 0
	case unix.S_IFDIR:
		return fs.ModeDir
	case unix.S_IFLNK:
		return fs.ModeSymlink
	case unix.S_IFIFO:
		return fs.ModeNamedPipe
	case unix.S_IFSOCK:
		return fs.ModeSocket
	}
	return fs.ModeDevice
}

func (w *workspace) Usage() (Usage, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.root == nil {
		return Usage{}, ErrClosed
	}
	if w.folder != nil {
		return w.folder.measure(int(w.root.Fd())), nil
	}
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(w.root.Fd()), &st); err != nil {
		return Usage{}, fmt.Errorf("workspace: %w", err)
	}
	return Usage{
		Bytes: int64(st.Blocks-st.Bfree) * st.Bsize, MaxBytes: int64(st.Blocks) * st.Bsize,
		Inodes: int64(st.Files - st.Ffree), MaxInodes: int64(st.Files),
	}, nil
}

func (w *workspace) Close() error {
	w.mu.Lock()
	root := w.root
	w.root = nil
	w.mu.Unlock()
	if root == nil {
		return nil
	}
	err := root.Close()
	if w.folder != nil {
		w.release()
		return err
	}
	w.r.aside(func() {
		// With its launcher the mount is gone already.
		if w.client.alive() {
			_, callErr := w.client.call(context.Background(), wire.KindDropWorkspace, func(e *wire.Encoder) { e.Int(w.id) })
			if callErr != nil && w.client.alive() {
				w.r.log.Error("sandbox workspace left behind", "error", callErr)
			}
		}
		w.release()
	})
	return err
}

// regular refuses everything that is not a plain file.
func regular(fd int, name string) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fmt.Errorf("%q: %w", name, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return fmt.Errorf("%q: %w", name, ErrNotRegular)
	}
	return nil
}

// fileError tells a link or a thing that is no file from what is missing.
func fileError(name string, err error) error {
	switch err {
	case unix.ELOOP, unix.EXDEV, unix.ENXIO, unix.ENOTDIR, unix.EISDIR, unix.ENODEV:
		return fmt.Errorf("%q: %w", name, ErrNotRegular)
	}
	return fmt.Errorf("%q: %w", name, err)
}
