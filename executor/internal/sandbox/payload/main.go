//go:build linux

// Command payload is what the sandbox's own tests run in boxes: ordinary and
// hostile programs by name, in Go and static, so that no test needs a
// toolchain. The result is its exit code.
package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strconv"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

func main() { os.Exit(payload(os.Args[1:])) }

// payload does what its first argument names.
func payload(args []string) int {
	arg := func(i int) string {
		if i < len(args) {
			return args[i]
		}
		return ""
	}
	n, _ := strconv.ParseInt(arg(1), 10, 64)
	switch arg(0) {
	case "exit":
		return int(n)
	case "signal":
		signal.Reset()
		_ = syscall.Kill(os.Getpid(), syscall.Signal(n))
		select {}
	case "bytes":
		var b [256]byte
		for i := range b {
			b[i] = byte(i)
		}
		_, _ = os.Stdout.Write(b[:])
	case "copy":
		_, _ = io.Copy(os.Stdout, os.Stdin)
	case "flood": // exactly n bytes on the descriptor arg(2)
		fd, _ := strconv.Atoi(arg(2))
		b := bytes.Repeat([]byte("x"), 32<<10)
		for n > 0 {
			w, err := syscall.Write(fd, b[:min(n, int64(len(b)))])
			if err != nil {
				return 1
			}
			n -= int64(w)
		}
	case "spin":
		//lint:ignore SA5002 a program that spins is what is tested
		for {
		}
	case "spin-children":
		for range n {
			_ = self("spin").Start()
		}
		time.Sleep(time.Hour)
	case "spin-for": // n milliseconds of CPU, in a child that is waited for
		if arg(2) == "child" {
			return burn(time.Duration(n) * time.Millisecond)
		}
		_ = self("spin-for", arg(1), "child").Run()
	case "burn-children": // n of them, each for arg(2) milliseconds of CPU
		var all []*exec.Cmd
		for range n {
			c := self("spin-for", arg(2), "child")
			if c.Start() != nil {
				return 1
			}
			all = append(all, c)
		}
		for _, c := range all {
			_ = c.Wait()
		}
		fmt.Println(ownCPU())
	case "burn-orphan": // n milliseconds, in a process whose parent is gone; ends when it does
		r, w, err := os.Pipe()
		if err != nil {
			return 1
		}
		c := self("burn-daemon", arg(1))
		c.ExtraFiles = []*os.File{w}
		if c.Run() != nil {
			return 1
		}
		_ = w.Close()
		_, _ = io.Copy(io.Discard, r)
	case "burn-daemon":
		c := self("spin-for", arg(1), "child")
		c.ExtraFiles = []*os.File{os.NewFile(3, "alive")}
		c.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		if c.Start() != nil {
			return 1
		}
	case "pattern": // n bytes on stdout, n others on stderr, by turns
		out, errs := pattern(int(n), 1), pattern(int(n), 2)
		for i := 0; i < int(n); i += 1000 {
			end := min(i+1000, int(n))
			_, _ = os.Stdout.Write(out[i:end])
			_, _ = os.Stderr.Write(errs[i:end])
		}
	case "sleep-for": // n milliseconds
		time.Sleep(time.Duration(n) * time.Millisecond)
	case "sleep":
		signal.Ignore()
		_, _ = os.Stdout.WriteString("before\n")
		time.Sleep(time.Hour)
	case "stop":
		_ = syscall.Kill(os.Getpid(), syscall.SIGSTOP)
		time.Sleep(time.Hour)
	case "memory": // touch n MiB
		touch(n)
	case "memory-child": // the child takes it, and the parent does not care
		_ = self("memory", arg(1)).Run()
	case "memory-children": // n children with arg(2) MiB each, at once
		var all []*exec.Cmd
		for range n {
			c := self("memory-hold", arg(2), arg(3))
			if c.Start() == nil {
				all = append(all, c)
			}
		}
		for _, c := range all {
			_ = c.Wait()
		}
	case "memory-hold":
		if n > 0 {
			touch(n)
		}
		hold := 5000
		if arg(2) != "" {
			hold, _ = strconv.Atoi(arg(2))
		}
		time.Sleep(time.Duration(hold) * time.Millisecond)
	case "forkbomb":
		for {
			if self("forkbomb").Start() != nil {
				time.Sleep(time.Millisecond)
			}
		}
	case "threads": // how many until it is refused
		return threads(n)
	case "daemon":
		c := self("sleep")
		c.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		if err := c.Start(); err != nil {
			fmt.Println(err)
			return 1
		}
		fmt.Println("daemon started")
	case "fill": // write until refused, tell how much and why
		return fill(arg(1))
	case "inodes":
		return inodes(arg(1))
	case "descriptors":
		for i := 0; ; i++ {
			if _, err := os.Open("/dev/null"); err != nil {
				fmt.Println(i, errors.Is(err, syscall.EMFILE))
				return 0
			}
		}
	case "dial":
		c, err := net.DialTimeout(arg(1), arg(2), 2*time.Second)
		if err != nil {
			fmt.Println(err)
			return 7
		}
		_ = c.Close()
	case "calls":
		return calls()
	case "fds":
		entries, _ := os.ReadDir("/proc/self/fd")
		fmt.Print(len(entries))
	case "init":
		return attackInit(args[1] == "true")
	default:
		fmt.Fprintln(os.Stderr, "unknown payload", args)
		return 99
	}
	return 0
}

func self(args ...string) *exec.Cmd {
	return &exec.Cmd{Path: "/proc/self/exe", Args: append([]string{"payload"}, args...), Stdout: os.Stdout, Stderr: os.Stderr}
}

func touch(mib int64) {
	b, err := unix.Mmap(-1, 0, int(mib)<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		fmt.Println(err)
		os.Exit(5)
	}
	for i := 0; i < len(b); i += 4096 {
		b[i] = 1
	}
	runtime.KeepAlive(b)
}

// pattern is n bytes that look random and are always the same.
func pattern(n int, seed uint64) []byte {
	b := make([]byte, n)
	for i := range b {
		seed = seed*6364136223846793005 + 1442695040888963407
		b[i] = byte(seed >> 56)
	}
	return b
}

// ownCPU is what this process and its children used, in nanoseconds.
func ownCPU() int64 {
	total := int64(0)
	for _, who := range []int{syscall.RUSAGE_SELF, syscall.RUSAGE_CHILDREN} {
		var u syscall.Rusage
		_ = syscall.Getrusage(who, &u)
		total += u.Utime.Nano() + u.Stime.Nano()
	}
	return total
}

func burn(d time.Duration) int {
	var u syscall.Rusage
	for {
		_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
		if time.Duration(u.Utime.Nano()+u.Stime.Nano()) >= d {
			return 0
		}
	}
}

func threads(most int64) int {
	for i := range most {
		_, err := syscall.ForkExec("/proc/self/exe", []string{"payload", "memory-hold", "0"}, &syscall.ProcAttr{Files: []uintptr{0, 1, 2}})
		if err != nil {
			fmt.Println(i, errors.Is(err, syscall.EAGAIN))
			return 0
		}
	}
	return 3
}

func fill(path string) int {
	f, err := os.Create(path)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	b := make([]byte, 64<<10)
	total := 0
	for {
		n, err := f.Write(b)
		total += n
		if err != nil {
			fmt.Println(total, errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EFBIG))
			return 0
		}
	}
}

func inodes(dir string) int {
	for i := 0; ; i++ {
		f, err := os.Create(fmt.Sprintf("%s/%d", dir, i))
		if err != nil {
			fmt.Println(i, errors.Is(err, syscall.ENOSPC))
			return 0
		}
		_ = f.Close()
	}
}

// attackInit does to the parent, which is init, what could end or read it,
// and says what worked. gVisor shows everyone the name and state of every
// process in the sandbox.
func attackInit(guest bool) int {
	code := 0
	init := os.Getppid()
	for sig := 1; sig <= 64; sig++ {
		if syscall.Kill(init, syscall.Signal(sig)) == nil {
			fmt.Println("signal sent", sig)
		}
		for tid := init; tid < init+12; tid++ {
			if tid != os.Getpid() {
				_ = unix.Tgkill(init, tid, syscall.Signal(sig))
			}
			if unix.Tgkill(os.Getpid(), tid, 0) != nil { // none of one's own threads
				_ = syscall.Kill(tid, syscall.Signal(sig))
			}
		}
	}
	for _, name := range []string{"environ", "mem", "maps", "fd", "exe", "root", "cwd", "status", "cmdline"} {
		if guest && (name == "status" || name == "cmdline") {
			continue
		}
		f, err := os.Open(fmt.Sprintf("/proc/%d/%s", init, name))
		if err == nil {
			fmt.Println("opened", name)
			_ = f.Close()
			code = 1
		}
	}
	if err := syscall.PtraceAttach(init); err == nil {
		fmt.Println("ptrace")
		code = 1
	}
	if fd, err := unix.PidfdOpen(init, 0); err == nil {
		if _, err := unix.PidfdGetfd(fd, 3, 0); err == nil {
			fmt.Println("pidfd_getfd")
			code = 1
		}
	}
	return code
}

// forbidden are calls that must fail with EPERM or ENOSYS, whatever their
// arguments.
func forbidden() map[string]func() syscall.Errno {
	raw := func(nr uintptr, a ...uintptr) func() syscall.Errno {
		var args [6]uintptr
		copy(args[:], a)
		return func() syscall.Errno {
			_, _, e := syscall.RawSyscall6(nr, args[0], args[1], args[2], args[3], args[4], args[5])
			return e
		}
	}
	path, _ := syscall.BytePtrFromString("/tmp")
	root := uintptr(unsafe.Pointer(path))
	return map[string]func() syscall.Errno{
		"mount":           raw(unix.SYS_MOUNT, root, root, root, unix.MS_BIND),
		"umount2":         raw(unix.SYS_UMOUNT2, root, unix.MNT_DETACH),
		"pivot_root":      raw(unix.SYS_PIVOT_ROOT, root, root),
		"chroot":          raw(unix.SYS_CHROOT, root),
		"unshare user":    raw(unix.SYS_UNSHARE, unix.CLONE_NEWUSER),
		"unshare mount":   raw(unix.SYS_UNSHARE, unix.CLONE_NEWNS),
		"setns":           raw(unix.SYS_SETNS, 0, 0),
		"clone user":      raw(unix.SYS_CLONE, unix.CLONE_NEWUSER|uintptr(unix.SIGCHLD)),
		"clone net":       raw(unix.SYS_CLONE, unix.CLONE_NEWNET|uintptr(unix.SIGCHLD)),
		"clone3":          raw(unix.SYS_CLONE3, 0, 0),
		"open_tree":       raw(unix.SYS_OPEN_TREE, 0, root, unix.OPEN_TREE_CLONE),
		"fsopen":          raw(unix.SYS_FSOPEN, root, 0),
		"move_mount":      raw(unix.SYS_MOVE_MOUNT, 0, root, 0, root),
		"mount_setattr":   raw(unix.SYS_MOUNT_SETATTR, 0, root, 0, 0, 0),
		"bpf":             raw(unix.SYS_BPF, 0, 0, 0),
		"io_uring_setup":  raw(unix.SYS_IO_URING_SETUP, 1, 0),
		"perf_event_open": raw(unix.SYS_PERF_EVENT_OPEN, 0, 0, 0, 0, 0),
		"userfaultfd":     raw(unix.SYS_USERFAULTFD, 1),
		"keyctl":          raw(unix.SYS_KEYCTL, 0, 0),
		"add_key":         raw(unix.SYS_ADD_KEY, root, root, 0, 0, 0),
		"request_key":     raw(unix.SYS_REQUEST_KEY, root, root, 0, 0),
		"kexec_load":      raw(unix.SYS_KEXEC_LOAD, 0, 0, 0, 0),
		"reboot":          raw(unix.SYS_REBOOT, 0xfee1dead, 672274793, 0, 0),
		"init_module":     raw(unix.SYS_INIT_MODULE, 0, 0, root),
		"swapon":          raw(unix.SYS_SWAPON, root, 0),
		"acct":            raw(unix.SYS_ACCT, 0),
		"ptrace":          raw(unix.SYS_PTRACE, unix.PTRACE_TRACEME, 0, 0, 0),
		"process_vm_read": raw(unix.SYS_PROCESS_VM_READV, uintptr(os.Getpid()), 0, 0, 0, 0, 0),
		"open_by_handle":  raw(unix.SYS_OPEN_BY_HANDLE_AT, 0, 0, 0),
		"name_to_handle":  raw(unix.SYS_NAME_TO_HANDLE_AT, 0, root, 0, 0, 0),
		"clock_settime":   raw(unix.SYS_CLOCK_SETTIME, 0, root),
		"settimeofday":    raw(unix.SYS_SETTIMEOFDAY, root, 0),
		"sethostname":     raw(unix.SYS_SETHOSTNAME, root, 4),
		"syslog":          raw(unix.SYS_SYSLOG, 3, 0, 0),
		"quotactl":        raw(unix.SYS_QUOTACTL, 0, root, 0, 0),
		"seccomp":         raw(unix.SYS_SECCOMP, 0, 0, 0),
		"prctl seccomp":   raw(unix.SYS_PRCTL, 1<<32|unix.PR_SET_SECCOMP, 1),
		"ioctl TIOCSTI":   raw(unix.SYS_IOCTL, 0, 1<<32|unix.TIOCSTI, root),
		"personality":     raw(unix.SYS_PERSONALITY, 0x0400000),
		"socket packet":   raw(unix.SYS_SOCKET, unix.AF_PACKET, unix.SOCK_RAW, 0),
		"socket netlink":  raw(unix.SYS_SOCKET, unix.AF_NETLINK, unix.SOCK_RAW, 0),
		"socket vsock":    raw(unix.SYS_SOCKET, unix.AF_VSOCK, unix.SOCK_STREAM, 0),
		"socket alg":      raw(unix.SYS_SOCKET, unix.AF_ALG, unix.SOCK_SEQPACKET, 0),
		"socket raw":      raw(unix.SYS_SOCKET, unix.AF_INET, unix.SOCK_RAW, 1),
		"setuid":          raw(unix.SYS_SETUID, 0),
		"setgroups":       raw(unix.SYS_SETGROUPS, 0, 0),
	}
}

func calls() int {
	code := otherABIs()
	for name, call := range forbidden() {
		switch e := call(); e {
		case syscall.EPERM, syscall.ENOSYS, syscall.EAFNOSUPPORT:
		case syscall.EINVAL: // without privileges there is no uid 0 to become
			if name != "setuid" {
				fmt.Println(name, e)
				code = 1
			}
		default:
			fmt.Printf("%s: %v (%d)\n", name, e, e)
			code = 1
		}
	}
	return code
}

// otherABIs makes calls by the doors that a list of 64-bit numbers forgets:
// the 32-bit interrupt and the x32 numbers.
func otherABIs() int {
	if runtime.GOARCH != "amd64" {
		return 0
	}
	code := 0
	if _, _, e := syscall.RawSyscall(0x40000000|unix.SYS_GETPID, 0, 0, 0); e != syscall.ENOSYS {
		fmt.Println("x32:", e)
		code = 1
	}
	page, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE|unix.PROT_EXEC, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	copy(page, []byte{0xb8, 20, 0, 0, 0, 0xcd, 0x80, 0xc3}) // mov eax, getpid; int 0x80; ret
	entry := uintptr(unsafe.Pointer(&page[0]))
	closure := unsafe.Pointer(&entry)
	if got := (*(*func() int32)(unsafe.Pointer(&closure)))(); got != -int32(syscall.ENOSYS) {
		fmt.Println("int 0x80:", got)
		code = 1
	}
	return code
}
