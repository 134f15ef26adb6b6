package launcher

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// newRoot gives the calling thread its own mount namespace and lays an empty
// tmpfs over its root. Paths still lead into the host's tree, as they start at
// the covered root; the descriptor returned leads into the new one. The
// thread must be locked, and never go back to other work.
func newRoot() (int, error) {
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
		return -1, fmt.Errorf("unshare mount namespace: %w", err)
	}
	fs, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("fsopen tmpfs: %w", err)
	}
	defer func() { _ = unix.Close(fs) }()
	for key, value := range map[string]string{"mode": "0755", "size": "16m"} {
		if err := unix.FsconfigSetString(fs, key, value); err != nil {
			return -1, fmt.Errorf("tmpfs %s: %w", key, err)
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return -1, fmt.Errorf("tmpfs: %w", err)
	}
	root, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV)
	if err != nil {
		return -1, fmt.Errorf("fsmount: %w", err)
	}
	if err := unix.MoveMount(root, "", unix.AT_FDCWD, "/", unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		_ = unix.Close(root)
		return -1, fmt.Errorf("attach root: %w", err)
	}
	return root, nil
}

// pivot makes root the calling thread's only tree: the host's is gone.
func pivot(root int) error {
	if err := unix.Fchdir(root); err != nil {
		return fmt.Errorf("enter root: %w", err)
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot_root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("leave the host's tree: %w", err)
	}
	if err := unix.Chdir("/"); err != nil {
		return fmt.Errorf("chdir: %w", err)
	}
	return nil
}

func enterEmptyRoot() error {
	root, err := newRoot()
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(root) }()
	return pivot(root)
}
