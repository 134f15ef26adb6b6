package sandbox

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// private is a folder of this executor alone, below which boxes without
// namespaces have theirs. It is locked for as long as the executor lives: the
// next one removes what it finds unlocked.
type private struct {
	log   *slog.Logger
	path  string
	dir   *os.File
	empty string // a folder that stays empty
}

const (
	privatePrefix = "crucible-boxes-"
	// settling is how long a private folder may take to be locked.
	settling = time.Minute
)

// openPrivate makes the folder. others says that programs of other users have
// to get to theirs through it.
func openPrivate(log *slog.Logger, others bool) (_ *private, err error) {
	base, err := filepath.Abs(os.TempDir())
	if err != nil {
		return nil, err
	}
	reclaim(base, log)
	p := &private{log: log}
	if p.path, err = os.MkdirTemp(base, privatePrefix); err != nil {
		return nil, fmt.Errorf("%w: a folder for boxes: %w; name one that can be written with TMPDIR", ErrUnsupported, err)
	}
	defer func() {
		if err != nil {
			_ = os.Remove(p.path)
		}
	}()
	if others {
		if err := os.Chmod(p.path, 0o711); err != nil {
			return nil, err
		}
	}
	if p.dir, err = os.Open(p.path); err != nil {
		return nil, err
	}
	if err := unix.Flock(int(p.dir.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = p.dir.Close()
		return nil, fmt.Errorf("lock %s: %w", p.path, err)
	}
	p.empty = filepath.Join(p.path, "empty")
	return p, os.Mkdir(p.empty, 0o755)
}

// reclaim removes what killed executors of this user left.
func reclaim(base string, log *slog.Logger) {
	found, _ := filepath.Glob(filepath.Join(base, privatePrefix+"*"))
	for _, path := range found {
		info, err := os.Lstat(path)
		if err != nil || !info.IsDir() || time.Since(info.ModTime()) < settling {
			continue
		}
		dir, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
		if err != nil {
			continue
		}
		var st unix.Stat_t
		if unix.Fstat(int(dir.Fd()), &st) == nil && int(st.Uid) == os.Geteuid() &&
			unix.Flock(int(dir.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			if err := removeBelow(dir); err != nil {
				log.Warn("sandbox folder of a dead executor is left", "path", path, "error", err)
			} else if os.Remove(path) == nil {
				log.Info("sandbox folder of a dead executor removed", "path", path)
			}
		}
		_ = dir.Close()
	}
}

func (p *private) close() error {
	err := removeBelow(p.dir)
	return errors.Join(err, os.Remove(p.path), p.dir.Close())
}

// folder is the place of one workspace, or of one box's /tmp, on a disk.
// Its quota is not the kernel's, but watched.
type folder struct {
	private             *private
	name, path          string
	maxBytes, maxInodes int64
}

// newFolder makes one for a user; 0 is the executor's own.
func (p *private) newFolder(user, maxBytes, maxInodes int64) (*folder, error) {
	name := rand.Text()
	f := &folder{p, name, filepath.Join(p.path, name), maxBytes, maxInodes}
	if err := unix.Mkdirat(int(p.dir.Fd()), name, 0o700); err != nil {
		return nil, fmt.Errorf("make a folder in %s: %w", p.path, err)
	}
	if user != 0 {
		if err := unix.Fchownat(int(p.dir.Fd()), name, int(user), int(user), unix.AT_SYMLINK_NOFOLLOW); err != nil {
			p.remove(f)
			return nil, fmt.Errorf("give away a folder in %s: %w", p.path, err)
		}
	}
	return f, nil
}

func (f *folder) open() (*os.File, error) {
	fd, err := unix.Openat(int(f.private.dir.Fd()), f.name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", f.path, err)
	}
	return os.NewFile(uintptr(fd), f.path), nil
}

// remove removes a folder in which nobody lives any more.
func (p *private) remove(f *folder) {
	dir, err := f.open()
	if err == nil {
		err = errors.Join(removeBelow(dir), dir.Close(), unix.Unlinkat(int(p.dir.Fd()), f.name, unix.AT_REMOVEDIR))
	}
	if err != nil {
		p.log.Error("sandbox folder left behind", "path", f.path, "error", err)
	}
}

// reserve is how much of a disk stays free, whatever quotas say: files that
// were deleted while open cannot be measured.
func reserve(st *unix.Statfs_t) int64 { return min(1<<30, int64(st.Blocks)*st.Bsize/20) }

// overfull tells whether a folder holds more than it may, or the disk is at
// its end.
func (f *folder) overfull() bool {
	dir, err := f.open()
	if err != nil {
		return false
	}
	defer func() { _ = dir.Close() }()
	var st unix.Statfs_t
	if unix.Fstatfs(int(dir.Fd()), &st) == nil && int64(st.Bavail)*st.Bsize < reserve(&st) {
		return true
	}
	u := f.measure(int(dir.Fd()))
	return u.Bytes > u.MaxBytes || u.Inodes > u.MaxInodes
}

// deepest is how deep folders may be nested before they count as full: each
// level costs who measures them a descriptor.
const deepest = 128

// measure adds up what is below root, until it is too much.
func (f *folder) measure(root int) Usage {
	u := Usage{MaxBytes: f.maxBytes, MaxInodes: f.maxInodes}
	f.add(&u, root, 0)
	return u
}

func (f *folder) add(u *Usage, at, depth int) {
	if depth > deepest {
		u.Inodes = u.MaxInodes + 1
	}
	fd, err := unix.Openat2(at, ".", &unix.OpenHow{Flags: unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: resolve})
	if err != nil {
		return
	}
	dir := os.NewFile(uintptr(fd), "folder")
	defer func() { _ = dir.Close() }()
	for u.Bytes <= u.MaxBytes && u.Inodes <= u.MaxInodes {
		names, err := dir.Readdirnames(256)
		for _, name := range names {
			var st unix.Stat_t
			if unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW) != nil {
				continue
			}
			u.Inodes++
			u.Bytes += st.Blocks * 512
			if st.Mode&unix.S_IFMT != unix.S_IFDIR {
				continue
			}
			next, err := unix.Openat2(fd, name, &unix.OpenHow{Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC, Resolve: resolve})
			if err != nil {
				continue
			}
			f.add(u, next, depth+1)
			_ = unix.Close(next)
		}
		if err != nil {
			return
		}
	}
}

// removeBelow removes everything in a folder, by descriptors and without
// following a link. However deep folders are nested, it holds two at a time:
// what is below a folder is moved up beside it first.
func removeBelow(root *os.File) error {
	at := int(root.Fd())
	if err := emptyInto(at, at); err != nil {
		return err
	}
	for stubborn := 0; stubborn < 100; {
		if _, err := root.Seek(0, io.SeekStart); err != nil {
			return err
		}
		names, err := root.Readdirnames(256)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		for _, name := range names {
			err := removeFolder(at, name)
			if err == unix.ENOTEMPTY {
				stubborn++ // the file system skipped some while others went
			} else if err != nil {
				return fmt.Errorf("remove %q: %w", name, err)
			}
		}
	}
	return unix.ENOTEMPTY
}

func removeFolder(at int, name string) error {
	fd, err := unix.Openat2(at, name, &unix.OpenHow{
		Flags: unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC | unix.O_NOFOLLOW, Resolve: resolve,
	})
	if err != nil {
		return err
	}
	err = emptyInto(fd, at)
	_ = unix.Close(fd)
	if err != nil {
		return err
	}
	return unix.Unlinkat(at, name, unix.AT_REMOVEDIR)
}

// emptyInto unlinks the files of a folder, and moves its folders to top.
func emptyInto(fd, top int) error {
	again, err := unix.Openat2(fd, ".", &unix.OpenHow{Flags: unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: resolve})
	if err != nil {
		return err
	}
	dir := os.NewFile(uintptr(again), "folder")
	defer func() { _ = dir.Close() }()
	for {
		names, err := dir.Readdirnames(1024)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		for _, name := range names {
			err := unix.Unlinkat(fd, name, 0)
			if err == nil {
				continue
			}
			if err != unix.EISDIR && err != unix.EPERM {
				return fmt.Errorf("remove %q: %w", name, err)
			}
			// No process of the box is alive: the name stays what it is.
			_ = unix.Fchmodat(fd, name, 0o700, 0)
			if unix.Unlinkat(fd, name, unix.AT_REMOVEDIR) == nil || fd == top {
				continue
			}
			if err := unix.Renameat(fd, name, top, strings.ToLower(rand.Text())); err != nil {
				return fmt.Errorf("move %q: %w", name, err)
			}
		}
	}
}
