//go:build linux

package main

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

var host = map[string]program{
	// What of the host must not be there, and what the caller names.
	"read-host": func(args []string) {
		for _, name := range append([]string{
			"/etc/shadow", "/etc/gshadow", "/etc/sudoers", "/etc/ssh", "/root/.ssh", "/root/.bashrc", "/home", "/var/lib", "/var/log", "/run",
			"/boot", "/srv", "/mnt", "/opt/secret", "/sys", "/proc/1/root", "/proc/1/cwd", "/proc/1/fd", "/proc/1/environ",
			home + "/../etc/shadow", "/proc/self/root/etc/shadow", "/proc/self/cwd/../etc/shadow", "/dev/fd/../../1/root",
		}, args...) {
			if f, err := os.Open(name); err == nil {
				_, dirErr := f.Readdirnames(1)
				_, readErr := f.ReadAt(make([]byte, 1), 0)
				_ = f.Close()
				if dirErr == nil || readErr == nil {
					breach("read %s", name)
				}
			}
		}
		// Descriptors of whoever started the sandbox.
		for fd := 3; fd < 1024; fd++ {
			link, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
			if err == nil && !strings.HasPrefix(link, "anon_inode:") && !strings.HasPrefix(link, "/proc/") && !strings.HasPrefix(link, "/sys/kernel/mm/") {
				breach("descriptor %d is %s", fd, link)
			}
		}
	},
	// The text of args[0], wherever a program can look.
	"find-secret": func(args []string) {
		secret := []byte(strings.Join(args, "-")) // given in pieces, so that the arguments are not a find
		for _, kv := range os.Environ() {
			if bytes.Contains([]byte(kv), secret) {
				breach("in the environment")
			}
		}
		_ = filepath.WalkDir("/", func(name string, d fs.DirEntry, err error) error {
			if err != nil {
				return nil
			}
			if d.IsDir() {
				if slices.Contains([]string{"/usr", "/lib", "/lib64", "/bin", "/sbin", "/sys", "/dev", "/proc/self", "/proc/thread-self"}, name) || strings.Contains(name, "/task/") || strings.Contains(name, "/map_files") {
					return fs.SkipDir
				}
				return nil
			}
			if base := filepath.Base(name); base == "kmsg" || base == "pagemap" || base == "mem" || base == "clear_refs" || !d.Type().IsRegular() {
				return nil
			}
			fd, err := unix.Open(name, unix.O_RDONLY|unix.O_NONBLOCK, 0)
			if err != nil {
				return nil
			}
			defer func() { _ = unix.Close(fd) }()
			b := make([]byte, 256<<10)
			if n, err := unix.Read(fd, b); err == nil && bytes.Contains(b[:n], secret) {
				breach("in %s", name)
			}
			return nil
		})
	},
	// Only documented variables; args are more that are allowed.
	"environment": func(args []string) {
		for _, kv := range os.Environ() {
			name, _, _ := strings.Cut(kv, "=")
			if !slices.Contains(append([]string{"PATH", "HOME", "PWD", "TMPDIR", "LANG", "LC_CTYPE", "USER", "LOGNAME", "SHELL"}, args...), name) {
				breach("%s", kv)
			}
		}
		if got := os.Args[1]; got != "environment" {
			breach("%s", got)
		}
	},
	// /proc and /sys: masked or absent.
	"proc-sys": func([]string) {
		for _, name := range []string{
			"/proc/kcore", "/proc/keys", "/proc/key-users", "/proc/kmsg", "/proc/kallsyms", "/proc/timer_list", "/proc/sched_debug",
			"/proc/config.gz", "/proc/modules", "/proc/interrupts", "/proc/vmallocinfo", "/proc/slabinfo", "/proc/iomem", "/proc/ioports",
			"/proc/kpageflags", "/proc/1/maps", "/proc/1/mem", "/proc/1/stack", "/proc/1/auxv",
		} {
			b := make([]byte, 64)
			if f, err := os.Open(name); err == nil {
				if n, _ := f.Read(b); n > 0 && !zeroAddresses(name, b[:n]) {
					breach("%s: %q", name, b[:n])
				}
				_ = f.Close()
			}
		}
		for _, name := range []string{
			"/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe", "/proc/sys/vm/drop_caches", "/proc/sys/kernel/hostname",
			"/proc/sys/kernel/domainname", "/proc/sys/net/ipv4/ip_forward", "/proc/sys/kernel/shmmax", "/proc/sysrq-trigger",
			"/proc/irq/default_smp_affinity", "/proc/self/attr/current", "/proc/self/timens_offsets", "/proc/acpi/wakeup",
			"/proc/sys/fs/binfmt_misc/register", "/proc/self/uid_map", "/proc/self/gid_map", "/proc/self/setgroups",
			"/sys/kernel/uevent_helper", "/sys/power/state", "/sys/kernel/mm/transparent_hugepage/enabled",
		} {
			f, err := os.OpenFile(name, os.O_WRONLY, 0)
			if err != nil {
				continue
			}
			var st unix.Stat_t
			null := unix.Fstat(int(f.Fd()), &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFCHR // /dev/null lies over it
			if _, err := f.WriteString("x"); err == nil && !null {
				breach("wrote %s", name)
			}
			_ = f.Close()
		}
		// Processes other than init and this one.
		entries, _ := os.ReadDir("/proc")
		for _, e := range entries {
			if name := e.Name(); name[0] >= '0' && name[0] <= '9' && name != "1" && name != fmt.Sprint(os.Getpid()) {
				if b, err := os.ReadFile("/proc/" + name + "/cmdline"); err == nil {
					breach("process %s: %q", name, b)
				}
			}
		}
	},
	// Init, by every way into another process.
	"attack-init": func([]string) { attack(1) },
	// The program that runs, and the one that started it, opened for writing:
	// what follows the program into the host. Compare CVE-2019-5736.
	"overwrite-exe": func([]string) {
		for _, name := range []string{"/proc/self/exe", "/proc/1/exe", "/usr/bin/env", "/bin/sh", "/lib64/ld-linux-x86-64.so.2"} {
			for _, flags := range []int{unix.O_WRONLY, unix.O_RDWR, unix.O_WRONLY | unix.O_TRUNC} {
				if fd, err := unix.Open(name, flags, 0); err == nil {
					breach("%s is open for writing", name)
					_ = unix.Close(fd)
				}
			}
			if fd, err := unix.Open(name, unix.O_PATH, 0); err == nil {
				again := fmt.Sprintf("/proc/self/fd/%d", fd)
				if w, err := unix.Open(again, unix.O_WRONLY, 0); err == nil {
					breach("%s is open for writing by its descriptor", name)
					_ = unix.Close(w)
				}
				_ = unix.Fchmod(fd, 0o777)
				_ = unix.Close(fd)
			}
			if os.Chmod(name, 0o777) == nil || os.Remove(name) == nil || unix.Setxattr(name, "user.x", []byte("x"), 0) == nil {
				breach("%s was changed", name)
			}
		}
		_ = os.WriteFile(home+"/i", []byte("#!/proc/self/exe\n"), 0o755)
		if pid, _ := fork(0); pid == 0 {
			_, _ = call(unix.SYS_EXECVE, pathOfI, 0, 0)
			exit(0)
		}
	},
	// One's own code is one's own, and the mapping is not the file.
	"own-memory": func([]string) {
		f, err := os.OpenFile("/proc/self/mem", os.O_RDWR, 0)
		if err != nil {
			return
		}
		maps, _ := os.ReadFile("/proc/self/maps")
		for line := range strings.Lines(string(maps)) {
			var from, to int64
			var perms string
			if n, _ := fmt.Sscanf(line, "%x-%x %s", &from, &to, &perms); n == 3 && perms[0] == 'r' && strings.Contains(line, "hostile") {
				b := make([]byte, 16)
				if _, err := f.ReadAt(b, from); err == nil {
					_, _ = f.WriteAt(b, from) // the same bytes, through a read-only mapping
				}
			}
		}
	},
	// A control group whose end runs a program on the host, and the own limits.
	"cgroups": func([]string) {
		for _, dir := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/memory", "/sys/fs/cgroup/unified"} {
			for _, file := range []string{"release_agent", "notify_on_release", "memory.limit_in_bytes", "memory.max", "pids.max", "cgroup.procs", "tasks", "cgroup.subtree_control"} {
				if os.WriteFile(dir+"/"+file, []byte("1"), 0) == nil {
					breach("wrote %s/%s", dir, file)
				}
			}
			if os.Mkdir(dir+"/mine", 0o755) == nil {
				breach("made a group in %s", dir)
			}
		}
		for _, kind := range []string{"cgroup", "cgroup2", "proc", "sysfs", "tmpfs", "overlay", "devpts", "mqueue", "debugfs", "tracefs", "binfmt_misc"} {
			refused("mount "+kind, unix.Mount(kind, "/tmp", kind, 0, ""))
		}
		b, err := os.ReadFile("/proc/self/cgroup")
		if err == nil && bytes.Contains(b, []byte("crucible")) {
			breach("the groups of the host show: %q", b)
		}
	},
	// A terminal: to type into, or to be given one.
	"terminal": func([]string) {
		_, _ = unix.Setsid()
		for _, name := range []string{"/dev/tty", "/dev/ptmx", "/dev/console", "/dev/tty0", "/dev/vcs", "/dev/pts/0"} {
			if fd, err := unix.Open(name, unix.O_RDWR|unix.O_NONBLOCK, 0); err == nil {
				breach("opened %s", name)
				_ = unix.Close(fd)
			}
		}
		for fd := range 3 {
			for _, request := range []uintptr{unix.TIOCSTI, unix.TIOCLINUX, unix.TIOCCONS, unix.TIOCSCTTY, unix.TIOCSETD, unix.TIOCSPGRP} {
				x := byte('x')
				if _, e := call(unix.SYS_IOCTL, uintptr(fd), request, pointer(&x)); e == 0 {
					breach("ioctl %#x on %d", request, fd)
				}
			}
		}
	},
	// Devices that every box has are harmless ones.
	"devices": func([]string) {
		for _, name := range []string{"/dev/mem", "/dev/kmem", "/dev/port", "/dev/kmsg", "/dev/sda", "/dev/vda", "/dev/nvme0n1", "/dev/loop0", "/dev/loop-control", "/dev/fuse", "/dev/kvm", "/dev/net/tun", "/dev/userfaultfd", "/dev/vhost-net", "/dev/vsock", "/dev/uinput", "/dev/dri/card0", "/dev/mqueue", "/dev/hugepages"} {
			if fd, err := unix.Open(name, unix.O_RDONLY|unix.O_NONBLOCK, 0); err == nil {
				breach("opened %s", name)
				_ = unix.Close(fd)
			}
		}
		for _, name := range []string{"/dev/random", "/dev/urandom"} {
			fd, err := unix.Open(name, unix.O_RDWR, 0)
			if err != nil {
				continue
			}
			n := uint64(8)
			// RNDADDTOENTCNT, RNDCLEARPOOL, RNDRESEEDCRNG
			for _, request := range []uintptr{0x40045201, 0x5206, 0x5207} {
				if _, e := call(unix.SYS_IOCTL, uintptr(fd), request, pointer(&n)); e == 0 {
					breach("ioctl %#x on %s", request, name)
				}
			}
			_ = unix.Close(fd)
		}
	},
	// Limits are not for their bearer to raise.
	"raise-limits": func([]string) {
		for resource := range 16 {
			for _, pid := range []int{0, 1} {
				raised := unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}
				var have unix.Rlimit
				if unix.Prlimit(0, resource, nil, &have) != nil || have.Max == unix.RLIM_INFINITY {
					continue
				}
				if unix.Prlimit(pid, resource, &raised, nil) == nil {
					breach("limit %d of process %d", resource, pid)
				}
			}
		}
		for _, who := range []int{0, 1} {
			if unix.Setpriority(unix.PRIO_PROCESS, who, -20) == nil {
				breach("priority of %d", who)
			}
		}
		for _, policy := range []uintptr{1, 2, 6} { // FIFO, RR, DEADLINE
			attr := unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: uint32(policy), Priority: 1, Runtime: 1e6, Deadline: 1e7, Period: 1e7}
			if policy == 6 {
				attr.Priority = 0
			}
			if unix.SchedSetAttr(0, &attr, 0) == nil {
				breach("real-time policy %d", policy)
			}
		}
		if _, e := call(unix.SYS_IOPRIO_SET, 1, 0, 1<<13); e == 0 {
			breach("real-time input and output")
		}
		if _, e := call(unix.SYS_PRCTL, 67, 1, 0, 0, 0); e == 0 { // PR_SET_MEMORY_MERGE
			breach("memory is merged with that of others")
		}
	},
	// A dump of memory leaves nothing behind, and starts nothing.
	"dump-core": func([]string) {
		_ = unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{Cur: 1 << 30, Max: 1 << 30})
		_ = os.WriteFile("/proc/self/coredump_filter", []byte("0xff"), 0)
		if pid, _ := fork(0); pid == 0 {
			var act [4]uint64
			_, _ = call(unix.SYS_RT_SIGACTION, uintptr(syscall.SIGSEGV), pointer(&act), 0, 8)
			for {
				self, _ := call(unix.SYS_GETPID)
				_, _ = call(unix.SYS_KILL, self, uintptr(syscall.SIGSEGV))
			}
		}
		var status syscall.WaitStatus
		_, _ = syscall.Wait4(-1, &status, 0, nil)
		if status.CoreDump() {
			breach("memory was dumped")
		}
		for _, pattern := range []string{home + "/core*", temporary + "/core*"} {
			if found, _ := filepath.Glob(pattern); len(found) > 0 {
				breach("%v", found)
			}
		}
	},
}

var pathOfI = text(home + "/i")

// zeroAddresses tells that a file shows nothing but zeros where addresses would be.
func zeroAddresses(name string, b []byte) bool {
	switch name {
	case "/proc/kallsyms", "/proc/modules", "/proc/iomem", "/proc/ioports":
		return bytes.Contains(b, []byte("00000000")) || bytes.Contains(b, []byte("0000-0000"))
	case "/proc/key-users", "/proc/keys":
		return false
	}
	return false
}

// attack tries to read, change and trace a process.
func attack(pid int) {
	dir := fmt.Sprintf("/proc/%d/", pid)
	for _, name := range []string{"environ", "mem", "maps", "fd", "exe", "root", "cwd", "auxv", "syscall", "stack", "ns/mnt", "map_files", "io"} {
		if f, err := os.Open(dir + name); err == nil {
			breach("opened %s%s", dir, name)
			_ = f.Close()
		}
	}
	for _, ns := range []string{"mnt", "net", "pid", "user", "ipc", "uts"} {
		if fd, err := unix.Open(dir+"ns/"+ns, unix.O_RDONLY, 0); err == nil && unix.Setns(fd, 0) == nil {
			breach("entered the %s namespace", ns)
		}
	}
	for _, request := range []uintptr{unix.PTRACE_ATTACH, unix.PTRACE_SEIZE} {
		if _, e := call(unix.SYS_PTRACE, request, uintptr(pid), 0, 0); e == 0 {
			breach("ptrace %d", request)
		}
	}
	b := make([]byte, 64)
	local := unix.Iovec{Base: &b[0]}
	local.SetLen(len(b))
	remote := unix.RemoteIovec{Base: 0x400000, Len: 64}
	if n, err := unix.ProcessVMReadv(pid, []unix.Iovec{local}, []unix.RemoteIovec{remote}, 0); err == nil && n > 0 {
		breach("memory was read")
	}
	if n, err := unix.ProcessVMWritev(pid, []unix.Iovec{local}, []unix.RemoteIovec{remote}, 0); err == nil && n > 0 {
		breach("memory was written")
	}
	if fd, err := unix.PidfdOpen(pid, 0); err == nil {
		for target := range 8 {
			if _, err := unix.PidfdGetfd(fd, target, 0); err == nil {
				breach("descriptor %d was taken", target)
			}
		}
		if unix.Setns(fd, unix.CLONE_NEWNS|unix.CLONE_NEWNET) == nil {
			breach("entered namespaces by the process descriptor")
		}
		_, _ = call(unix.SYS_PROCESS_MADVISE, uintptr(fd), pointer(&local), 1, unix.MADV_PAGEOUT, 0)
	}
	_, _ = call(unix.SYS_KCMP, uintptr(pid), uintptr(os.Getpid()), 0, 0, 0)
	_, _ = call(unix.SYS_MIGRATE_PAGES, uintptr(pid), 0, 0, 0)
}
