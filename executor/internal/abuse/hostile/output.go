//go:build linux

package main

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

var output = map[string]program{
	// Write for ever to descriptor args[0], or to both.
	"flood": func(args []string) {
		b := bytes.Repeat([]byte("x\n"), 16<<10)
		for {
			for _, arg := range args {
				fd, _ := strconv.Atoi(arg)
				_, _ = syscall.Write(fd, b)
			}
		}
	},
	"flood-small": func([]string) {
		for {
			_, _ = syscall.Write(1, []byte("x"))
		}
	},
	// The same by pages that the pipe only borrows.
	"flood-vmsplice": func([]string) {
		b := make([]byte, 64<<10)
		for {
			iov := unix.Iovec{Base: &b[0]}
			iov.SetLen(len(b))
			if _, e := call(unix.SYS_VMSPLICE, 1, pointer(&iov), 1, 0); e != 0 {
				_, _ = syscall.Write(1, b)
			}
		}
	},
	"all-bytes": func([]string) {
		var b [256]byte
		for i := range b {
			b[i] = byte(i)
		}
		_, _ = os.Stdout.Write(b[:])
		_, _ = os.Stdout.WriteString("\xff\xfe\xc3\x28\xed\xa0\x80\x1b[31mred\x1b]0;title\a\x00\x00\"\\\n")
	},
	"long-line": func([]string) {
		_, _ = os.Stdout.Write(bytes.Repeat([]byte("y"), 10<<20))
		os.Exit(0)
	},
	// A grandchild holds the pipe, and does not let go.
	"held-open": func([]string) {
		if pid, _ := fork(0); pid == 0 {
			_, _ = call(unix.SYS_SETSID)
			for {
				nap(1000)
			}
		}
	},
	// And one that goes on writing when main is over.
	"after-the-end": func([]string) {
		if pid, _ := fork(0); pid == 0 {
			b := []byte("after the end\n")
			for {
				_, _ = call(unix.SYS_WRITE, 1, pointer(&b[0]), uintptr(len(b)))
				nap(0)
			}
		}
	},
	"close-streams": func([]string) {
		for fd := range 3 {
			_ = syscall.Close(fd)
		}
		time.Sleep(20 * time.Millisecond)
		os.Exit(0)
	},
	// What is shared about a pipe, changed from this end.
	"pipe-games": func([]string) {
		for fd := range 3 {
			_, _ = unix.FcntlInt(uintptr(fd), unix.F_SETFL, unix.O_NONBLOCK|unix.O_ASYNC|unix.O_APPEND)
			_, _ = unix.FcntlInt(uintptr(fd), unix.F_SETOWN, 1)
			_, _ = unix.FcntlInt(uintptr(fd), unix.F_SETSIG, int(syscall.SIGKILL))
			_, _ = unix.FcntlInt(uintptr(fd), unix.F_SETPIPE_SZ, 4096)
			_, _ = unix.FcntlInt(uintptr(fd), unix.F_SETLEASE, unix.F_WRLCK)
			_, _ = unix.FcntlInt(uintptr(fd), unix.F_NOTIFY, 0x7fffffff)
			_ = unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB)
		}
		// The other end of one's own output.
		for fd := range 3 {
			if got, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", fd), os.O_RDWR|syscall.O_NONBLOCK, 0); err == nil {
				_, _ = got.WriteString("x")
				_, _ = got.Read(make([]byte, 16))
			}
		}
		// What the stream is made of now does not matter, the end does.
		os.Exit(0)
	},
	// Input of a megabyte that nobody reads.
	"ignore-input": func([]string) { _ = syscall.Close(0) },
}
