//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

const page = 4096

var memory = map[string]program{
	// Touch more and more.
	"memory": func([]string) {
		for {
			touch(8<<20, unix.MAP_PRIVATE|unix.MAP_ANON)
		}
	},
	// Children that take args[1] MiB each, and hold them.
	"memory-children": func(args []string) {
		n, _ := strconv.Atoi(args[0])
		mib, _ := strconv.Atoi(args[1])
		for range n {
			if pid, _ := fork(0); pid == 0 {
				grab(uintptr(mib) << 20)
				for {
					nap(1000)
				}
			}
		}
		forever()
	},
	// The child is killed for memory, and the parent goes away happily.
	"memory-child": func([]string) {
		pid, _ := fork(0)
		if pid == 0 {
			for {
				grab(8 << 20)
			}
		}
		_, _ = syscall.Wait4(pid, nil, 0, nil)
	},
	// Much address space of which nothing is used.
	"untouched": func([]string) {
		if _, err := unix.Mmap(-1, 0, 2<<30, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_NORESERVE); err != nil {
			breach("2 GiB of address space: %v", err)
		}
	},
	// Memory that counts as a file's, and is nobody's when it is not mapped.
	"memory-shared": func([]string) {
		for {
			touch(8<<20, unix.MAP_SHARED|unix.MAP_ANON)
		}
	},
	"memfd": func([]string) {
		fd, err := unix.MemfdCreate("x", 0)
		if err != nil {
			if !errors.Is(err, syscall.ENOSYS) {
				breach("memfd: %v", err)
			}
			return
		}
		b := make([]byte, 1<<20)
		for written := 0; written < 8<<30; {
			n, err := unix.Write(fd, b)
			if err != nil {
				if err != syscall.EFBIG && err != syscall.ENOSPC {
					breach("%v", err)
				}
				return
			}
			written += n
		}
		breach("8 GiB written")
	},
	// Segments that are attached only to be filled.
	"memory-sysv": func([]string) {
		for n := 0; n < 8<<30; n += 8 << 20 {
			id, e := call(unix.SYS_SHMGET, 0, 8<<20, 0o600|unix.IPC_CREAT)
			if e != 0 {
				if e != syscall.ENOSYS && e != syscall.ENOSPC && e != syscall.EPERM {
					breach("%v", e)
				}
				return
			}
			b, err := unix.SysvShmAttach(int(id), 0, 0)
			if err != nil {
				breach("%v", err)
				return
			}
			for i := 0; i < len(b); i += page {
				b[i] = 1
			}
			_ = unix.SysvShmDetach(b)
		}
		breach("8 GiB of segments")
	},
	// Page tables for pages that do not exist: 4 KiB for each touch, and the touched page is the shared zero.
	"page-tables": func([]string) {
		for range 64 {
			b, err := unix.Mmap(-1, 0, 64<<30, unix.PROT_READ, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_NORESERVE)
			if err != nil {
				return // refused is fine
			}
			_ = unix.Madvise(b, unix.MADV_NOHUGEPAGE)
			sum := byte(0)
			for i := 0; i < len(b); i += 2 << 20 {
				sum += b[i]
			}
			_, _ = call(unix.SYS_GETPID, uintptr(sum))
		}
		breach("8 GiB of page tables")
	},
	"mlock": func([]string) {
		b, err := unix.Mmap(-1, 0, 32<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
		if err != nil {
			return
		}
		if unix.Mlock(b) == nil {
			breach("32 MiB locked")
		}
		if unix.Mlockall(unix.MCL_CURRENT|unix.MCL_FUTURE) == nil {
			breach("everything locked")
		}
	},
	// Pages that the kernel cannot take back, or would share with others.
	"huge-pages": func([]string) {
		if b, err := unix.Mmap(-1, 0, 2<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_HUGETLB); err == nil {
			fmt.Println("a huge page of", len(b))
		}
		b, err := unix.Mmap(-1, 0, 4<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
		if err != nil {
			return
		}
		for _, advice := range []int{unix.MADV_HWPOISON, 101 /* MADV_SOFT_OFFLINE */} {
			if unix.Madvise(b, advice) == nil {
				breach("memory poisoned by advice %d", advice)
			}
		}
		if unix.Madvise(b, unix.MADV_MERGEABLE) == nil {
			breach("memory is merged with that of others")
		}
	},
	// A mapping of a file that is larger than its file system.
	"mmap-sparse": func([]string) {
		f, err := os.Create(temporary + "/sparse")
		if err != nil {
			return
		}
		size := int64(1) << 40
		if err := f.Truncate(size); err != nil {
			return
		}
		b, err := unix.Mmap(int(f.Fd()), 0, 1<<30, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		if err != nil {
			return
		}
		pid, _ := fork(0)
		if pid == 0 {
			for i := 0; i < len(b); i += page {
				b[i] = 1
			}
			exit(0)
		}
		var status syscall.WaitStatus
		_, _ = syscall.Wait4(pid, &status, 0, nil)
		if status.Exited() && status.ExitStatus() == 0 {
			breach("a gigabyte was mapped from a smaller file system")
		}
	},
	// A shield against the host's killer of processes. Back to what the executor
	// has is possible, and no shield.
	"oom-score": func([]string) {
		for _, file := range []string{"oom_score_adj", "oom_adj"} {
			for _, value := range []string{"-1000", "-999", "-17", "-1"} {
				if os.WriteFile("/proc/self/"+file, []byte(value), 0) == nil {
					breach("%s is %s", file, value)
				}
			}
		}
	},
}

// touch maps memory and writes into each page.
func touch(size int, flags int) {
	b, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, flags)
	if err != nil {
		nap(0)
		return
	}
	for i := 0; i < len(b); i += page {
		b[i] = 1
	}
}

// grab does so without the Go runtime: the kernel writes the pages.
func grab(size uintptr) {
	at, e := call(unix.SYS_MMAP, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_POPULATE, ^uintptr(0))
	if e != 0 || at == 0 {
		nap(0)
	}
}
