package boxinit

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/crucible-eval/crucible/executor/internal/sandbox/wire"
)

const quiet = unix.MS_NOSUID | unix.MS_NODEV

// mountAll adds to the template what must be fresh in every box. The order
// matters: overlays keep their upper layers in a tmpfs which the real /tmp
// then covers, so that the program sees them only through the overlay.
func mountAll(s *wire.Setup) error {
	// Ids of the template's /proc belong to the host; this one knows only the box.
	if err := unix.Mount("proc", "/proc", "proc", quiet|unix.MS_NOEXEC, "hidepid=2"); err != nil {
		return fmt.Errorf("mount /proc (is the host's /proc masked?): %w", err)
	}
	for _, path := range s.ProcRO {
		if err := readOnly(path); err != nil {
			return err
		}
	}
	for _, path := range s.ProcMask {
		if err := unix.Mount("/dev/null", path, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("mask %s: %w", path, err)
		}
	}
	if len(s.Overlays) > 0 {
		if err := mountOverlays(s); err != nil {
			return err
		}
	}
	if err := mountTmp(s, "1777"); err != nil {
		return err
	}
	if !s.Workspace {
		return nil
	}
	err := unix.MoveMount(wire.InitWorkspaceFD, "", unix.AT_FDCWD, s.WorkDir, unix.MOVE_MOUNT_F_EMPTY_PATH)
	if err != nil {
		return fmt.Errorf("attach workspace: %w", err)
	}
	return unix.Close(wire.InitWorkspaceFD)
}

func mountTmp(s *wire.Setup, mode string) error {
	data := fmt.Sprintf("mode=%s,size=%d,nr_inodes=%d", mode, s.TmpBytes, s.TmpInodes)
	if err := unix.Mount("tmpfs", "/tmp", "tmpfs", quiet, data); err != nil {
		return fmt.Errorf("mount /tmp: %w", err)
	}
	return nil
}

func readOnly(path string) error {
	if err := unix.Mount(path, path, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind %s: %w", path, err)
	}
	err := unix.Mount("", path, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY|quiet|unix.MS_NOEXEC, "")
	if err != nil {
		return fmt.Errorf("make %s read-only: %w", path, err)
	}
	return nil
}

func mountOverlays(s *wire.Setup) error {
	if err := mountTmp(s, "0755"); err != nil {
		return err
	}
	for i, target := range s.Overlays {
		upper, work := fmt.Sprintf("/tmp/%du", i), fmt.Sprintf("/tmp/%dw", i)
		if err := unix.Mkdir(upper, 0o755); err != nil {
			return fmt.Errorf("overlay %s: %w", target, err)
		}
		if err := unix.Chown(upper, int(s.UID), int(s.GID)); err != nil {
			return fmt.Errorf("overlay %s: %w", target, err)
		}
		if err := unix.Mkdir(work, 0o755); err != nil {
			return fmt.Errorf("overlay %s: %w", target, err)
		}
		data := "userxattr,lowerdir=" + target + ",upperdir=" + upper + ",workdir=" + work
		if err := unix.Mount("overlay", target, "overlay", quiet, data); err != nil {
			return fmt.Errorf("overlay %s: %w", target, err)
		}
	}
	return nil
}
