package launcher

import (
	"errors"
	"fmt"
	"os"
	"path"
	"runtime"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/crucible-eval/crucible/executor/internal/sandbox/gate"
	"github.com/crucible-eval/crucible/executor/internal/sandbox/wire"
)

// template is a thread whose mount namespace holds the root of a box, with
// everything that boxes of this kind have in common. A box cloned from that
// thread is born at home: no bind mount is made for it.
type template struct {
	jobs   chan func(broken error)
	broken atomic.Bool
}

// startTemplate starts the thread. Its jobs are called with the error with
// which building the root ended, if it did.
func startTemplate(tree *wire.Tree) *template {
	t := &template{jobs: make(chan func(error), 64)}
	go func() {
		// Never unlocked: the thread dies with its namespace.
		runtime.LockOSThread()
		err := buildRoot(tree)
		t.broken.Store(err != nil)
		for job := range t.jobs {
			job(err)
		}
	}()
	return t
}

func (t *template) failed() bool { return t.broken.Load() }

// devices are all that a box has in /dev.
var devices = []string{"null", "zero", "full", "random", "urandom"}

// devLinks are what programs expect beside them. Shared memory lies in /tmp,
// under the same quota.
var devLinks = [][2]string{
	{"fd", "/proc/self/fd"}, {"stdin", "/proc/self/fd/0"}, {"stdout", "/proc/self/fd/1"},
	{"stderr", "/proc/self/fd/2"}, {"shm", "/tmp"},
}

func buildRoot(tree *wire.Tree) error {
	if err := unix.Unshare(unix.CLONE_NEWUTS); err != nil {
		return fmt.Errorf("unshare uts namespace: %w", err)
	}
	if err := unix.Sethostname([]byte(tree.Hostname)); err != nil {
		return fmt.Errorf("hostname: %w", err)
	}
	fd, err := newRoot()
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	r := &root{fd: fd}
	if err := r.fill(tree); err != nil {
		return err
	}
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &attr); err != nil {
		return fmt.Errorf("read-only root: %w", err)
	}
	return pivot(fd)
}

// root is the tree being built, reached through its descriptor.
type root struct{ fd int }

func (r *root) fill(tree *wire.Tree) error {
	for _, dir := range []string{"proc", "tmp", "dev", "etc", strings.TrimPrefix(tree.WorkDir, "/")} {
		if err := r.mkdir(dir); err != nil {
			return err
		}
	}
	if err := r.system(); err != nil {
		return err
	}
	if err := r.etc(tree); err != nil {
		return err
	}
	if err := r.writeFiles(strings.TrimPrefix(gate.Dir, "/"), gate.Files()); err != nil {
		return err
	}
	for _, name := range devices {
		if err := r.bind("/dev/"+name, "dev/"+name, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NOEXEC); err != nil {
			return err
		}
	}
	for _, link := range devLinks {
		if err := r.symlink(link[1], "dev/"+link[0]); err != nil {
			return err
		}
	}
	for _, b := range tree.Binds {
		if err := r.bind(b.Host, strings.TrimPrefix(b.Box, "/"), readOnlyAttrs); err != nil {
			return err
		}
	}
	return r.proc()
}

const readOnlyAttrs = unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV

// system shows the host's programs and libraries: links stay links, so that
// a merged /usr looks the same inside.
func (r *root) system() error {
	for _, name := range []string{"usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32", "etc/alternatives"} {
		info, err := os.Lstat("/" + name)
		switch {
		case errors.Is(err, os.ErrNotExist):
			continue
		case err != nil:
			return fmt.Errorf("host's /%s: %w", name, err)
		case info.Mode()&os.ModeSymlink != 0:
			target, err := os.Readlink("/" + name)
			if err != nil {
				return fmt.Errorf("host's /%s: %w", name, err)
			}
			if err := r.symlink(target, name); err != nil {
				return err
			}
		case info.IsDir():
			if err := r.bind("/"+name, name, readOnlyAttrs); err != nil {
				return err
			}
		}
	}
	return nil
}

// etc is written from nothing, but for what only the host knows.
func (r *root) etc(tree *wire.Tree) error {
	files := map[string]string{
		"etc/passwd": fmt.Sprintf("root:x:0:0:root:/:/usr/sbin/nologin\nsandbox:x:%d:%d:sandbox:%s:/bin/sh\n",
			tree.UID, tree.GID, tree.WorkDir),
		"etc/group":         fmt.Sprintf("root:x:0:\nsandbox:x:%d:\n", tree.GID),
		"etc/hosts":         "127.0.0.1 localhost " + tree.Hostname + "\n::1 localhost\n",
		"etc/hostname":      tree.Hostname + "\n",
		"etc/resolv.conf":   "",
		"etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
	}
	for _, name := range []string{"etc/ld.so.cache", "etc/localtime", "etc/ld-musl-x86_64.path"} {
		if content, err := os.ReadFile("/" + name); err == nil {
			files[name] = string(content)
		}
	}
	return r.writeFiles("", files)
}

func (r *root) writeFiles(dir string, files map[string]string) error {
	for name, content := range files {
		if err := r.writeFile(path.Join(dir, name), content); err != nil {
			return err
		}
	}
	return nil
}

// proc is for the launcher's own clones, which need one until init has
// mounted the box's over it; and in a user namespace the kernel allows a new
// /proc only beside one that is not masked.
func (r *root) proc() error {
	fs, err := unix.Fsopen("proc", unix.FSOPEN_CLOEXEC)
	if err == nil {
		defer func() { _ = unix.Close(fs) }()
		if err = unix.FsconfigCreate(fs); err == nil {
			var mnt int
			if mnt, err = unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC); err == nil {
				return r.attach(mnt, "proc")
			}
		}
	}
	// Rootless: not ours to mount in the host's pid namespace, but to show.
	tree, err := unix.OpenTree(unix.AT_FDCWD, "/proc", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	if err != nil {
		return fmt.Errorf("show /proc: %w", err)
	}
	return r.attach(tree, "proc")
}

// bind shows a host file or folder, which must be there, at a path of the
// box, with everything mounted below it.
func (r *root) bind(host, box string, attrs uint64) error {
	tree, err := unix.OpenTree(unix.AT_FDCWD, host, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	if err != nil {
		return fmt.Errorf("bind %s: %w", host, err)
	}
	attr := unix.MountAttr{Attr_set: attrs, Propagation: unix.MS_PRIVATE}
	if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &attr); err != nil {
		_ = unix.Close(tree)
		return fmt.Errorf("bind %s: %w", host, err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(tree, &st); err != nil {
		_ = unix.Close(tree)
		return fmt.Errorf("bind %s: %w", host, err)
	}
	switch {
	case st.Mode&unix.S_IFMT == unix.S_IFDIR:
		err = r.mkdir(box)
	case unix.Faccessat(r.fd, box, unix.F_OK, 0) != nil:
		err = r.writeFile(box, "")
	}
	if err != nil {
		_ = unix.Close(tree)
		return err
	}
	return r.attach(tree, box)
}

// attach consumes mnt.
func (r *root) attach(mnt int, box string) error {
	defer func() { _ = unix.Close(mnt) }()
	if err := unix.MoveMount(mnt, "", r.fd, box, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("attach /%s: %w", box, err)
	}
	return nil
}

func (r *root) mkdir(dir string) error {
	for i := range dir {
		if dir[i] != '/' {
			continue
		}
		if err := unix.Mkdirat(r.fd, dir[:i], 0o755); err != nil && err != unix.EEXIST {
			return fmt.Errorf("mkdir /%s: %w", dir[:i], err)
		}
	}
	if err := unix.Mkdirat(r.fd, dir, 0o755); err != nil && err != unix.EEXIST {
		return fmt.Errorf("mkdir /%s: %w", dir, err)
	}
	return nil
}

func (r *root) symlink(target, name string) error {
	if err := unix.Symlinkat(target, r.fd, name); err != nil {
		return fmt.Errorf("symlink /%s: %w", name, err)
	}
	return nil
}

func (r *root) writeFile(name, content string) error {
	if parent := path.Dir(name); parent != "." {
		if err := r.mkdir(parent); err != nil {
			return err
		}
	}
	fd, err := unix.Openat(r.fd, name, unix.O_WRONLY|unix.O_CREAT|unix.O_TRUNC|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0o644)
	if err != nil {
		return fmt.Errorf("write /%s: %w", name, err)
	}
	f := os.NewFile(uintptr(fd), name)
	_, err = f.WriteString(content)
	return errors.Join(err, f.Close())
}
