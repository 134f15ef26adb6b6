package launcher

import (
	"fmt"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/crucible-eval/crucible/executor/internal/sandbox/wire"
)

// vault is a mount namespace of its own that holds the workspaces. They need
// one, because until Linux 6.15 a mount could only be cloned, which every box
// needs, in the namespace where it is attached. No path leads there from
// anywhere else.
type vault struct{ jobs chan func() }

// newVault starts the thread and waits until its namespace is ready.
func newVault() (*vault, error) {
	v := &vault{jobs: make(chan func())}
	ready := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := enterEmptyRoot()
		ready <- err
		if err != nil {
			return
		}
		for job := range v.jobs {
			job()
		}
	}()
	return v, <-ready
}

// do runs f on the vault's thread and waits for it.
func (v *vault) do(f func() (int, error)) (fd int, err error) {
	done := make(chan struct{})
	v.jobs <- func() {
		defer close(done)
		fd, err = f()
	}
	<-done
	return fd, err
}

// create makes a workspace and returns a descriptor of its root folder. It
// is owned by the program's host id, or when rootless by the launcher's.
func (v *vault) create(r *wire.WorkspaceRequest) (int, error) {
	return v.do(func() (int, error) {
		dir := "/" + strconv.FormatInt(r.ID, 10)
		if err := unix.Mkdir(dir, 0o700); err != nil {
			return -1, fmt.Errorf("workspace: %w", err)
		}
		data := fmt.Sprintf("mode=755,size=%d,nr_inodes=%d,uid=%d,gid=%d", r.Bytes, r.Inodes, r.HostUID, r.HostUID)
		if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, data); err != nil {
			_ = unix.Rmdir(dir)
			return -1, fmt.Errorf("workspace: mount: %w", err)
		}
		fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
		if err != nil {
			return -1, fmt.Errorf("workspace: %w", err)
		}
		return fd, nil
	})
}

// clone returns a mount of a workspace that one box can attach.
func (v *vault) clone(id int64, readOnly bool) (int, error) {
	return v.do(func() (int, error) {
		dir := "/" + strconv.FormatInt(id, 10)
		fd, err := unix.OpenTree(unix.AT_FDCWD, dir, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
		if err != nil {
			return -1, fmt.Errorf("workspace: clone: %w", err)
		}
		if !readOnly {
			return fd, nil
		}
		attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
		if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &attr); err != nil {
			_ = unix.Close(fd)
			return -1, fmt.Errorf("workspace: read-only: %w", err)
		}
		return fd, nil
	})
}

// drop forgets a workspace; its memory is free when the last box that has it
// is dead and the executor's descriptor is closed.
func (v *vault) drop(id int64) error {
	_, err := v.do(func() (int, error) {
		dir := "/" + strconv.FormatInt(id, 10)
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			return -1, fmt.Errorf("workspace: %w", err)
		}
		return -1, unix.Rmdir(dir)
	})
	return err
}
