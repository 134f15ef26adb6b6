package cgroup

import (
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// file is a file of a group that stays open. The zero value is not there.
type file struct {
	name string
	fd   int
}

func (f *file) open(dir, name string, flags int) error {
	fd, err := unix.Open(dir+"/"+name, flags|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("cgroup %s: %w", name, err)
	}
	f.name, f.fd = name, fd
	return nil
}

func (f *file) there() bool { return f.name != "" }

func (f *file) close() {
	if f.there() {
		_ = unix.Close(f.fd)
		*f = file{}
	}
}

func (f *file) write(v int64) error {
	var b [20]byte
	if _, err := unix.Pwrite(f.fd, strconv.AppendInt(b[:0], v, 10), 0); err != nil {
		return fmt.Errorf("cgroup %s: %w", f.name, err)
	}
	return nil
}

func (f *file) read() (string, error) {
	var b [4096]byte
	n, err := unix.Pread(f.fd, b[:], 0)
	if err != nil {
		return "", fmt.Errorf("cgroup %s: %w", f.name, err)
	}
	return strings.TrimSpace(string(b[:n])), nil
}

func (f *file) readInt() (int64, error) {
	text, err := f.read()
	if err != nil {
		return 0, err
	}
	v, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("cgroup %s: %w", f.name, err)
	}
	return v, nil
}
