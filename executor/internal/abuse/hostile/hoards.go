//go:build linux

package main

import (
	"context"
	"fmt"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// hoards are things of the kernel that a program can have many of: each must
// be bounded, and gone with the box.
var hoards = map[string]program{
	"hoard-descriptors": func([]string) {
		sets := uint64(1)
		for name, make := range map[string]func() (int, error){
			"eventfd":  func() (int, error) { return unix.Eventfd(0, 0) },
			"timerfd":  func() (int, error) { return unix.TimerfdCreate(unix.CLOCK_MONOTONIC, 0) },
			"epoll":    func() (int, error) { return unix.EpollCreate1(0) },
			"inotify":  func() (int, error) { return unix.InotifyInit1(0) },
			"pidfd":    func() (int, error) { return unix.PidfdOpen(unix.Getpid(), 0) },
			"signalfd": func() (int, error) { return unix.Signalfd(-1, &unix.Sigset_t{Val: [16]uint64{sets}}, 0) },
			"socket":   func() (int, error) { return unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0) },
		} {
			var got []int
			for {
				fd, err := make()
				if err != nil {
					bounded(name, err)
					break
				}
				if got = append(got, fd); len(got) > 100_000 {
					breach("no limit of %s", name)
					break
				}
			}
			for _, fd := range got {
				_ = unix.Close(fd)
			}
		}
	},
	// Watches of every file, until they are refused.
	"hoard-watches": func([]string) {
		fd, err := unix.InotifyInit1(0)
		if err != nil {
			return
		}
		for i := range 1 << 20 {
			name := home + fmt.Sprint("/watched", i)
			if err := unix.Mkdir(name, 0o700); err != nil {
				return
			}
			if _, err := unix.InotifyAddWatch(fd, name, unix.IN_ALL_EVENTS); err != nil {
				bounded("watches", err)
				return
			}
		}
	},
	"hoard-timers": func([]string) {
		for range 1 << 20 {
			var id int32
			if _, e := call(unix.SYS_TIMER_CREATE, unix.CLOCK_MONOTONIC, 0, pointer(&id)); e != 0 {
				bounded("timers", e)
				return
			}
			spec := [4]int64{0, 1000, 0, 1000} // a microsecond
			_, _ = call(unix.SYS_TIMER_SETTIME, uintptr(id), 0, pointer(&spec), 0)
		}
		breach("a million timers")
	},
	// A megabyte in each of as many pipes as there are descriptors.
	"hoard-pipes": func([]string) {
		b := make([]byte, 1<<20)
		for range 1 << 16 {
			var p [2]int
			if err := unix.Pipe2(p[:], unix.O_NONBLOCK); err != nil {
				bounded("pipes", err)
				return
			}
			_, _ = unix.FcntlInt(uintptr(p[1]), unix.F_SETPIPE_SZ, 1<<20)
			for {
				if _, err := unix.Write(p[1], b); err != nil {
					break
				}
			}
		}
	},
	// The same with sockets.
	"hoard-sockets": func([]string) {
		b := make([]byte, 64<<10)
		for range 1 << 16 {
			p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK, 0)
			if err != nil {
				bounded("sockets", err)
				return
			}
			for _, fd := range p {
				_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, 1<<30)
				for {
					if _, err := unix.Write(fd, b); err != nil {
						break
					}
				}
			}
		}
	},
	// Sockets sent through themselves: only a garbage collector frees them.
	"socket-loop": func([]string) {
		for range 2000 {
			p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK, 0)
			if err != nil {
				bounded("sockets", err)
				return
			}
			rights := unix.UnixRights(p[0], p[1])
			for {
				if err := unix.Sendmsg(p[0], []byte("x"), rights, nil, 0); err != nil {
					break
				}
				if err := unix.Sendmsg(p[1], []byte("x"), rights, nil, 0); err != nil {
					break
				}
			}
			_, _ = unix.Close(p[0]), unix.Close(p[1])
		}
	},
	// What outlives its maker on a host without IPC namespaces.
	"sysv-leftovers": func([]string) {
		for key := range 50 {
			_, _ = call(unix.SYS_SHMGET, uintptr(1+key), 64<<10, 0o666|unix.IPC_CREAT)
			_, _ = call(unix.SYS_MSGGET, uintptr(1+key), 0o666|unix.IPC_CREAT)
			_, _ = call(unix.SYS_SEMGET, uintptr(1+key), 16, 0o666|unix.IPC_CREAT)
		}
	},
	"message-queues": func([]string) {
		for i := range 256 {
			fd, e := call(unix.SYS_MQ_OPEN, text(fmt.Sprintf("q%d", i)), unix.O_CREAT|unix.O_RDWR, 0o600, 0)
			if e == 0 {
				breach("a message queue (descriptor %d)", fd)
				return
			}
		}
	},
	// Locks, leases and watches on what all boxes share.
	"shared-locks": func([]string) {
		for _, name := range []string{"/usr/bin/env", "/bin/sh", "/etc/passwd", "/proc/self/exe", "/dev/null"} {
			fd, err := unix.Open(name, unix.O_RDONLY, 0)
			if err != nil {
				continue
			}
			_ = unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB)
			if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETLEASE, unix.F_RDLCK); err == nil {
				breach("a lease on %s", name)
			}
		}
		// Held until the end.
		time.Sleep(20 * time.Millisecond)
	},
}

// bounded breaches unless err is one of those by which the kernel says: no more.
func bounded(what string, err error) {
	switch err {
	case syscall.EMFILE, syscall.ENFILE, syscall.EAGAIN, syscall.ENOSPC, syscall.ENOMEM, syscall.ENOBUFS, syscall.EPERM, syscall.ENOSYS:
	default:
		breach("%s: %v", what, err)
	}
}

func deadline(d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	time.AfterFunc(2*d, cancel)
	return ctx
}
