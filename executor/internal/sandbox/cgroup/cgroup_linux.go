// Package cgroup holds the processes of a box to its limits and counts what
// they used, with either version of the kernel's control groups.
//
// All groups of one executor lie in one folder of its own, below the group in
// which the executor runs, so that limits of a container or a unit go on to
// hold for everything. The folder, in each hierarchy, is locked for as long as
// the executor lives: another one that finds it unlocked knows that its owner is dead, and
// removes it.
package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Tree is the folder of one executor.
type Tree interface {
	// Version is 1 or 2.
	Version() int
	// New makes an empty group without limits.
	New() (Group, error)
	// Close removes the folder. Groups must be removed before.
	Close() error
}

// Group is the group of one box, used once.
type Group interface {
	// Limit sets the most memory in bytes (swap included, where the kernel
	// counts it) and the most processes and threads. Starting the program takes
	// one more of them for a moment: Seal takes it back.
	Limit(memory int64, processes int) error
	Seal(processes int) error
	// Settle leaves out of limits and account what lives in the group so far,
	// which is the box's own and not the program's.
	Settle() error
	// Begin starts the account of what lives in the group anew. What it has in
	// memory counts; what it used before does not.
	Begin() error
	// JoinFDs are files into which a thread of the box writes "0" to enter
	// (version 1), and FD the folder into which a process is born (version 2),
	// else -1. They stay the group's own.
	JoinFDs() []int
	FD() int
	// OOM is closed when the kernel killed for memory. nil: the kernel ends the
	// whole group then by itself.
	OOM() <-chan struct{}
	// CPU is what all processes used so far, the dead included.
	CPU() (time.Duration, error)
	// Processes is how many processes and threads live in the group now.
	Processes() (int, error)
	// Stats is the account at the end.
	Stats() (Stats, error)
	// Remove kills what is left in the group and removes it.
	Remove() error
}

// Stats is what a group's processes used.
type Stats struct {
	CPU           time.Duration
	MemoryPeak    int64 // bytes
	ProcessesPeak int   // 0 where the kernel does not tell
	OOMKills      int
}

// ErrUnavailable says that no group can be made here, and why.
var ErrUnavailable = errors.New("no writable cgroup")

// prefix starts the name of every executor's folder.
const prefix = "crucible-"

// Open finds the group of this process, removes what dead executors left
// beside it, and makes a folder. The error wraps ErrUnavailable where the
// kernel or the permissions do not allow it.
func Open() (Tree, error) {
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	found := Locate(string(own), string(mounts))
	if dirs, ok := found.v1(); ok {
		return openV1(dirs)
	}
	if found.Unified == "" {
		return nil, fmt.Errorf("%w: no cgroup file system is mounted with the memory, pids and cpuacct controllers", ErrUnavailable)
	}
	return OpenV2(found.Unified, os.Mkdir)
}

// locks are held on the folders of one executor, one in each hierarchy.
type locks []*os.File

func (l locks) Close() error {
	var errs []error
	for _, f := range l {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}

// claim makes a folder of a new name in each of dirs and locks each: two
// executors may share one hierarchy and not the others. Another executor may
// take it for abandoned before it is locked, and remove it: then there is
// another try.
func claim(dirs []string, mkdir func(string, os.FileMode) error) (name string, held locks, err error) {
	for range 20 {
		name = fmt.Sprintf("%s%d-%x", prefix, os.Getpid(), time.Now().UnixNano())
		for _, dir := range dirs {
			if err = mkdir(filepath.Join(dir, name), 0o755); err != nil {
				break
			}
		}
		held = nil
		for _, dir := range dirs {
			var lock *os.File
			if err == nil {
				lock, err = lockFolder(filepath.Join(dir, name))
			}
			if err == nil {
				held = append(held, lock)
			}
		}
		if err == nil {
			// Whoever removes one holds its lock meanwhile. We hold all now, so what
			// is here stays; but what was removed before leaves a lock on nothing.
			if err = allThere(dirs, name); err == nil {
				return name, held, nil
			}
		}
		_ = held.Close()
		for _, dir := range dirs {
			_ = unix.Rmdir(filepath.Join(dir, name))
		}
		if errors.Is(err, os.ErrPermission) || errors.Is(err, unix.EROFS) {
			break
		}
	}
	return "", nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
}

// lockFolder opens and locks a folder, or fails at once where another has it.
func lockFolder(dir string) (*os.File, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

func allThere(dirs []string, name string) error {
	for _, dir := range dirs {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	return nil
}

// reclaim removes the folders of executors that are dead, in each hierarchy
// by itself.
func reclaim(dirs []string) {
	for _, dir := range dirs {
		for _, name := range folders(dir) {
			lock, err := lockFolder(filepath.Join(dir, name))
			if err != nil {
				continue // its owner lives
			}
			_ = removeAll(filepath.Join(dir, name))
			_ = lock.Close()
		}
	}
}

// folders are the names of executors' folders.
func folders(dir string) []string {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() && strings.HasPrefix(e.Name(), prefix) {
			names = append(names, e.Name())
		}
	}
	return names
}

// removeAll kills and removes a folder of groups, one level deep.
func removeAll(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeGroup(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return removeGroup(dir)
}

// removeGroup kills what is in a group and removes it. Killed processes need
// a moment to leave; the wait is bounded.
func removeGroup(dir string) error {
	var err error
	for try := range 200 {
		err = unix.Rmdir(dir)
		if err == nil || err == unix.ENOENT {
			return nil
		}
		if err != unix.EBUSY {
			break
		}
		killAll(dir)
		time.Sleep(min(time.Duration(try)*100*time.Microsecond, 10*time.Millisecond))
	}
	return fmt.Errorf("remove cgroup %s: %w", filepath.Base(dir), err)
}

func killAll(dir string) {
	if os.WriteFile(filepath.Join(dir, "cgroup.kill"), []byte("1"), 0) == nil {
		return
	}
	pids, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err != nil {
		return
	}
	for field := range strings.FieldsSeq(string(pids)) {
		if pid, err := strconv.Atoi(field); err == nil && pid > 1 {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	}
}

// write sets one value of a group, whose file must exist.
func write(dir, file, value string) error {
	fd, err := unix.Open(dir+"/"+file, unix.O_WRONLY|unix.O_CLOEXEC|unix.O_TRUNC, 0)
	if err != nil {
		return fmt.Errorf("cgroup %s: %w", file, err)
	}
	_, err = unix.Write(fd, []byte(value))
	_ = unix.Close(fd)
	if err != nil {
		return fmt.Errorf("cgroup %s: %w", file, err)
	}
	return nil
}

// read returns the text of a group's file.
func read(dir, name string) (string, error) {
	var f file
	if err := f.open(dir, name, unix.O_RDONLY); err != nil {
		return "", err
	}
	defer f.close()
	return f.read()
}

func readInt(dir, name string) (int64, error) {
	var f file
	if err := f.open(dir, name, unix.O_RDONLY); err != nil {
		return 0, err
	}
	defer f.close()
	return f.readInt()
}

// field finds "key value" among the lines of a file; 0 when it is not there.
func field(text, key string) int64 {
	for line := range strings.Lines(text) {
		if k, v, ok := strings.Cut(strings.TrimSpace(line), " "); ok && k == key {
			n, _ := strconv.ParseInt(v, 10, 64)
			return n
		}
	}
	return 0
}
