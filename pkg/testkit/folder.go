package testkit

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

const folderPrefix = "crucible-testkit-"

// folder is a server's private folder. It holds a lock while this test binary lives, so that a later one can tell
// what a killed one left behind, and remove it.
type folder struct {
	path string
	lock *os.File
}

// newFolder makes a folder owned by the given user, or by the present one when credential is nil.
func newFolder(credential *syscall.Credential) (*folder, error) {
	parent := openTempDir()
	sweep(parent)
	path, err := os.MkdirTemp(parent, "crucible-new-")
	if err != nil {
		return nil, err
	}
	f := &folder{path: path}
	if err := f.prepare(credential); err != nil {
		_ = os.RemoveAll(path)
		return nil, err
	}
	return f, nil
}

func (f *folder) prepare(credential *syscall.Credential) (err error) {
	if f.lock, err = os.Create(filepath.Join(f.path, "lock")); err != nil {
		return err
	}
	if err := syscall.Flock(int(f.lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return err
	}
	if credential != nil {
		if err := os.Chown(f.path, int(credential.Uid), int(credential.Gid)); err != nil {
			return err
		}
	}
	// Only now does it get the name that sweep looks for.
	final := filepath.Join(filepath.Dir(f.path), folderPrefix+strings.TrimPrefix(filepath.Base(f.path), "crucible-new-"))
	if err := os.Rename(f.path, final); err != nil {
		return err
	}
	f.path = final
	return nil
}

func (f *folder) join(name string) string { return filepath.Join(f.path, name) }

func (f *folder) remove() {
	dropSharedMemory(f.path)
	_ = os.RemoveAll(f.path)
	_ = f.lock.Close()
}

// sweep removes the folders of test binaries that were killed.
func sweep(parent string) {
	paths, _ := filepath.Glob(filepath.Join(parent, folderPrefix+"*"))
	for _, path := range paths {
		lock, err := os.OpenFile(filepath.Join(path, "lock"), os.O_RDWR, 0)
		if err != nil {
			continue
		}
		if syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil {
			dropSharedMemory(path)
			_ = os.RemoveAll(path)
		}
		_ = lock.Close()
	}
}

// dropSharedMemory removes the small System V segment that a killed PostgreSQL leaves behind for its next start,
// and that no restart would free when its data is removed. postmaster.pid names it: "key id" on the seventh line.
func dropSharedMemory(path string) {
	content, err := os.ReadFile(filepath.Join(path, "data", "postmaster.pid"))
	if err != nil {
		return
	}
	lines := strings.Split(string(content), "\n")
	if len(lines) < 7 {
		return
	}
	if fields := strings.Fields(lines[6]); len(fields) == 2 {
		if id, err := strconv.Atoi(fields[1]); err == nil {
			_, _ = unix.SysvShmCtl(id, unix.IPC_RMID, nil)
		}
	}
}

// openTempDir is the temporary folder, or /tmp where another user could not reach into it.
func openTempDir() string {
	dir := os.TempDir()
	for path := dir; path != filepath.Dir(path); path = filepath.Dir(path) {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm()&0o001 == 0 {
			return "/tmp"
		}
	}
	return dir
}
