//go:build linux

package main

import (
	"os"
	"runtime"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

var signals = map[string]program{
	// Deaf to everything, and busy.
	"ignore-signals": func([]string) {
		block()
		spin()
	},
	"stop-self": func([]string) {
		for {
			_ = syscall.Kill(os.Getpid(), syscall.SIGSTOP)
		}
	},
	// Everybody at once: init must be left, and report.
	"kill-all": func([]string) {
		for range 5 {
			if pid, _ := fork(0); pid == 0 {
				for {
					nap(1000)
				}
			}
		}
		_ = syscall.Kill(-1, syscall.SIGKILL)
		_ = syscall.Kill(-1, syscall.SIGSTOP)
	},
	// Every signal to init and to each of its threads.
	"signal-init": func([]string) {
		for sig := 1; sig <= 64; sig++ {
			_ = syscall.Kill(1, syscall.Signal(sig))
			for tid := 1; tid < 16; tid++ {
				if tid != os.Getpid() && tid != unix.Gettid() {
					_ = unix.Tgkill(1, tid, syscall.Signal(sig))
				}
			}
			var info [128]byte
			_, _ = call(unix.SYS_RT_SIGQUEUEINFO, 1, uintptr(sig), pointer(&info))
		}
		if fd, err := unix.PidfdOpen(1, 0); err == nil {
			for sig := 1; sig <= 64; sig++ {
				_ = unix.PidfdSendSignal(fd, syscall.Signal(sig), nil, 0)
			}
		}
	},
	// Children that kill each other and their group.
	"kill-own-group": func([]string) {
		for range 8 {
			if pid, _ := fork(0); pid == 0 {
				for {
					nap(1000)
				}
			}
		}
		_ = syscall.Kill(0, syscall.SIGKILL)
		forever()
	},
	"raise": func(args []string) {
		sig, _ := strconv.Atoi(args[0])
		// The runtime's handlers out of the way.
		var act [4]uint64
		_, _ = call(unix.SYS_RT_SIGACTION, uintptr(sig), pointer(&act), 0, 8)
		for {
			_, _ = call(unix.SYS_KILL, uintptr(os.Getpid()), uintptr(sig))
		}
	},
	// Signals that wait are kernel memory.
	"queue-signals": func([]string) {
		runtime.LockOSThread()
		block()
		var info [128]byte
		for sig := range 1 << 20 {
			info[8] = 0xff // SI_QUEUE
			info[9], info[10], info[11] = 0xff, 0xff, 0xff
			_, e := call(unix.SYS_RT_TGSIGQUEUEINFO, uintptr(os.Getpid()), uintptr(unix.Gettid()), uintptr(34+sig%30), pointer(&info))
			if e != 0 {
				if e != syscall.EAGAIN {
					breach("%v", e)
				}
				return
			}
		}
		breach("a million signals wait")
	},
}

// block blocks every signal that can be.
func block() {
	all := ^uint64(0)
	_, _ = call(unix.SYS_RT_SIGPROCMASK, 0, pointer(&all), 0, 8)
}
