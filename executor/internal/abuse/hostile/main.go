//go:build linux

// Command hostile does what nobody should be able to do, one thing at a time:
// its first argument names which. It is what the abuse suite runs in boxes, in
// Go and static, so that no case needs an interpreter or a C library.
//
// A program that ends by itself has tried something that must be refused: it
// prints "contained" and exits with 0 when it was, and with 1 after saying
// what worked. The others go on until a limit ends them.
package main

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"
)

// home is the work folder, which levels without a mount namespace have
// somewhere of their own; so with temporary files.
var home, temporary = os.Getenv("HOME"), os.TempDir()

// program gets the arguments after its name.
type program func(args []string)

// programs are all that this command can do.
var programs = merge(processes, signals, memory, output, files, host, calls, network, hoards)

func merge(all ...map[string]program) map[string]program {
	merged := map[string]program{}
	for _, m := range all {
		maps.Copy(merged, m)
	}
	return merged
}

func main() {
	if len(os.Args) < 2 {
		fmt.Println("usage: hostile NAME [ARGUMENT...]; hostile list")
		return
	}
	switch name := os.Args[1]; name {
	case "version":
		fmt.Println("hostile 1")
	case "list":
		for _, name := range slices.Sorted(maps.Keys(programs)) {
			fmt.Println(name)
		}
	default:
		do, ok := programs[name]
		if !ok {
			fmt.Fprintf(os.Stderr, "hostile: no program %q\n", name)
			os.Exit(2)
		}
		do(os.Args[2:])
		if breached {
			os.Exit(1)
		}
		fmt.Println("contained")
	}
}

var breached bool

// breach says what was possible that should not be.
func breach(format string, args ...any) {
	breached = true
	fmt.Printf("BREACH "+format+"\n", args...)
}

// refusals are the errors by which a box says no.
var refusals = []error{
	syscall.EPERM, syscall.EACCES, syscall.ENOSYS, syscall.ENOENT, syscall.EROFS, syscall.EAFNOSUPPORT,
	syscall.EPROTONOSUPPORT, syscall.ENETUNREACH, syscall.EHOSTUNREACH, syscall.ECONNREFUSED, syscall.EADDRNOTAVAIL,
	syscall.EXDEV, syscall.ENXIO, syscall.ENODEV, syscall.EOPNOTSUPP, syscall.ESRCH, syscall.ENOTDIR, syscall.ESOCKTNOSUPPORT,
	syscall.EINVAL, syscall.ENOTTY, syscall.ETXTBSY, syscall.ELOOP, syscall.EISDIR,
}

// refused breaches unless err is a refusal.
func refused(what string, err error) {
	if e, ok := err.(*os.PathError); ok {
		err = e.Err
	}
	if e, ok := err.(*os.SyscallError); ok {
		err = e.Err
	}
	if !slices.Contains(refusals, err) {
		breach("%s: %v", what, err)
	}
}

// call is a system call without the Go runtime around it.
func call(nr uintptr, args ...uintptr) (uintptr, syscall.Errno) {
	var a [6]uintptr
	copy(a[:], args)
	r, _, e := syscall.RawSyscall6(nr, a[0], a[1], a[2], a[3], a[4], a[5])
	return r, e
}

// fork is the real one. The child has this thread only and a Go runtime that
// does not know it: it must use call, and end with exit.
//
//go:norace
func fork(flags uintptr) (pid int, e syscall.Errno) {
	r, _, e := syscall.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD)|flags, 0, 0, 0, 0, 0)
	return int(r), e
}

func exit(code uintptr) {
	for {
		_, _ = call(unix.SYS_EXIT_GROUP, code)
	}
}

// nap blocks the calling thread, and needs no runtime.
func nap(seconds int64) {
	ts := unix.Timespec{Sec: seconds}
	_, _ = call(unix.SYS_NANOSLEEP, pointer(&ts), 0)
}

// forever sleeps without giving the Go runtime a reason to call it a deadlock.
func forever() {
	for {
		nap(1 << 30)
	}
}
