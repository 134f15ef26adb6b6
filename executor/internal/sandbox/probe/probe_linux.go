// Package probe is a program that tries, from inside a box, what a box
// forbids, and prints one line for each try: its name, and "denied" or what
// it got.
package probe

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/crucible-eval/crucible/executor/internal/sandbox/wire"
)

// Main does what its first argument says and exits.
func Main() {
	what := ""
	if len(os.Args) > 1 {
		what = os.Args[1]
	}
	switch what {
	case "abuse":
		abuse(os.Args[2:])
	case "memory":
		touch(512 << 20)
		time.Sleep(time.Second) // where memory is sampled, be seen
	case "processes":
		fmt.Print(fork())
	case "kernel":
		version, _ := os.ReadFile("/proc/version")
		fmt.Print(string(version))
	case "spin":
		for {
			continue
		}
	case "wait":
		time.Sleep(time.Minute)
	}
	os.Exit(0)
}

// abuse tries everything that is over at once. Its arguments are a port at
// which the host listens, a process of the host, an abstract socket of it, and
// after an equals sign a folder with a file and a socket in it.
func abuse(args []string) {
	if len(args) < 4 {
		os.Exit(2)
	}
	host, err := strconv.Atoi(args[1])
	if err != nil {
		os.Exit(2)
	}
	dir := strings.TrimPrefix(args[3], "=")
	// In a pid namespace of its own, numbers mean nothing that is outside.
	outside := []int{os.Getppid(), host}
	if os.Getppid() == 1 {
		outside = nil
	}
	tries := []struct {
		name string
		try  func() error // nil: it worked, and must not
	}{
		{"host_files", func() error {
			return opens("/etc/shadow", "/root/", "/home/", "/var/", "/sys/kernel/", dir+"/", dir+"/file")
		}},
		{"host_processes", func() error { return processes(outside) }},
		{"proc_masked", readsAny},
		{"read_only_root", func() error { return writesAny(dir) }},
		{"network", func() error { return dials(args[0]) }},
		{"unix_sockets", func() error { return connects("@"+args[2], dir+"/socket") }},
		{"mount", func() error { return unix.Mount("none", "/tmp", "tmpfs", 0, "") }},
		{"user_namespaces", func() error { return unix.Unshare(unix.CLONE_NEWUSER) }},
		{"ptrace", func() error { return traces(append(outside, 1)) }},
		{"signals", func() error { return signals(outside) }},
		{"syscall_filter", filtered},
		{"capabilities", capabilities},
		{"no_new_privs", noNewPrivs},
		{"file_attributes", func() error { return attributes(dir + "/file") }},
	}
	for _, t := range tries {
		switch err := t.try(); {
		case err == nil:
			fmt.Printf("%s allowed\n", t.name)
		case err == errPartly:
			fmt.Printf("%s partly\n", t.name)
		default:
			fmt.Printf("%s denied\n", t.name)
		}
	}
}

// errPartly says that some of what was tried was refused.
var errPartly = errors.New("partly")

func opens(paths ...string) error {
	var last error
	for _, p := range paths {
		f, err := os.Open(p)
		if err == nil {
			_ = f.Close()
			return nil
		}
		last = err
	}
	return last
}

// readsAny reads what is masked: nothing may come.
func readsAny() error {
	for _, p := range []string{"/proc/kcore", "/proc/keys", "/proc/kmsg", "/proc/kallsyms", "/proc/timer_list"} {
		fd, err := unix.Open(p, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err != nil {
			continue
		}
		var b [1]byte
		n, _ := unix.Read(fd, b[:])
		_ = unix.Close(fd)
		if n > 0 {
			return nil
		}
	}
	return unix.EACCES
}

func writesAny(dir string) error {
	for _, p := range []string{dir + "/x", dir + "/file", "/x", "/usr/x", "/etc/x", "/dev/x", "/proc/sys/kernel/core_pattern", "/proc/sys/vm/overcommit_memory"} {
		f, err := os.OpenFile(p, os.O_WRONLY|os.O_CREATE, 0o644)
		if err == nil {
			_ = f.Close()
			return nil
		}
	}
	return unix.EROFS
}

// dials calls the port at which the host listens on its own loopback, and
// two addresses that a host with a network could reach. Plain system calls:
// package net would bring the C library with it, and make init start slowly.
func dials(port string) error {
	n, err := strconv.Atoi(port)
	if err != nil {
		return nil
	}
	for _, to := range []struct {
		kind int
		addr unix.SockaddrInet4
	}{
		{unix.SOCK_STREAM, unix.SockaddrInet4{Port: n, Addr: [4]byte{127, 0, 0, 1}}},
		{unix.SOCK_DGRAM, unix.SockaddrInet4{Port: 53, Addr: [4]byte{192, 0, 2, 1}}},
		{unix.SOCK_STREAM, unix.SockaddrInet4{Port: 80, Addr: [4]byte{169, 254, 169, 254}}},
	} {
		fd, err := unix.Socket(unix.AF_INET, to.kind|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			continue
		}
		patience := unix.Timeval{Usec: 100_000}
		_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &patience)
		err = unix.Connect(fd, &to.addr)
		_ = unix.Close(fd)
		if err == nil || err == unix.EINPROGRESS {
			return nil // answered, or on its way out
		}
	}
	return unix.ENETUNREACH
}

// connects calls sockets of the host that have names, as streams and with
// datagrams that a pair of sockets is bent to send.
func connects(abstract, path string) error {
	for _, name := range []string{abstract, path} {
		if fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err == nil {
			err = unix.Connect(fd, &unix.SockaddrUnix{Name: name})
			_ = unix.Close(fd)
			if err == nil {
				return nil
			}
		}
		if pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err == nil {
			err = unix.Connect(pair[0], &unix.SockaddrUnix{Name: name})
			_, _ = unix.Close(pair[0]), unix.Close(pair[1])
			if err == nil || err == unix.EPROTOTYPE { // found, and of another type
				return nil
			}
		}
	}
	return unix.ECONNREFUSED
}

// processes looks at others: init, those outside, and whatever is listed.
func processes(outside []int) error {
	paths := []string{"/proc/1/environ", "/proc/1/fd"}
	for _, pid := range outside {
		for _, name := range []string{"status", "cmdline", "environ", "fd"} {
			paths = append(paths, fmt.Sprintf("/proc/%d/%s", pid, name))
		}
	}
	if opens(paths...) == nil {
		return nil
	}
	names, err := os.ReadDir("/proc")
	if err != nil {
		return unix.EACCES
	}
	for _, name := range names {
		if pid, err := strconv.Atoi(name.Name()); err == nil && pid != 1 && pid != os.Getpid() {
			return nil
		}
	}
	return unix.ENOENT
}

func traces(pids []int) error {
	for _, pid := range pids {
		if unix.PtraceAttach(pid) == nil {
			return nil
		}
	}
	return unix.EPERM
}

// signals reaches for processes outside, without doing them harm: signal 0 is
// a question, and so are limits that are not changed. Where there are none to
// be seen, it is init that has to survive a real one.
func signals(outside []int) error {
	for _, pid := range outside {
		var now unix.Rlimit
		if unix.Kill(pid, 0) == nil || unix.Tgkill(pid, pid, 0) == nil || unix.Prlimit(pid, unix.RLIMIT_NOFILE, nil, &now) == nil {
			return nil
		}
		if fd, err := unix.PidfdOpen(pid, 0); err == nil {
			err = unix.PidfdSendSignal(fd, 0, nil, 0)
			_ = unix.Close(fd)
			if err == nil {
				return nil
			}
		}
	}
	if len(outside) == 0 {
		_ = unix.Kill(1, unix.SIGKILL)
	}
	return unix.EPERM
}

// attributes changes what a file of the host is like. That the executor's own
// user stays the only one to read and write it is the lesser evil.
func attributes(file string) error {
	if unix.Chmod(file, 0o644) == nil || unix.Setxattr(file, "user.x", []byte("x"), 0) == nil || unix.Truncate(file, 0) == nil {
		return nil
	}
	if unix.Chmod(file, 0o700) == nil || unix.Utimes(file, []unix.Timeval{{}, {}}) == nil {
		return errPartly
	}
	return unix.EPERM
}

// filtered makes calls that need no privilege on an ordinary system, so that
// only the filter can be what refuses them.
func filtered() error {
	for _, nr := range []uintptr{unix.SYS_IO_URING_SETUP, unix.SYS_KEYCTL, unix.SYS_SECCOMP, unix.SYS_PROCESS_VM_READV} {
		_, _, e := unix.RawSyscall6(nr, 0, 0, 0, 0, 0, 0)
		if e != unix.EPERM && e != unix.ENOSYS {
			return nil
		}
	}
	return unix.EPERM
}

func capabilities() error {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return nil
	}
	for _, d := range data {
		if d.Effective|d.Permitted|d.Inheritable != 0 {
			return nil
		}
	}
	if noNewPrivs() != nil {
		return unix.EPERM // what is left in the bounding set cannot be got any more
	}
	for c := range uintptr(40) {
		if v, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, c, 0, 0, 0); err == nil && v != 0 {
			return nil
		}
	}
	return unix.EPERM
}

func noNewPrivs() error {
	if v, err := unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0); err == nil && v == 1 {
		return unix.EPERM
	}
	return nil
}

func touch(size int) {
	b, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		os.Exit(5)
	}
	for i := 0; i < len(b); i += 4096 {
		b[i] = 1
	}
}

// fork starts children that wait, and says how many it got. The end of the
// box ends them.
func fork() int {
	for n := range 200 {
		_, err := syscall.ForkExec("/proc/self/exe", []string{wire.ProbeArg, "wait"}, &syscall.ProcAttr{})
		if err != nil {
			return n
		}
	}
	return 200
}
