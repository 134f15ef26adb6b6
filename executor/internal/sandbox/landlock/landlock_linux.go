// Package landlock confines the calling thread, and what it starts, to a list
// of paths, by the kernel's Landlock. It needs no privilege and no namespace.
//
// The system calls are made here and not by a library: a library confines
// every thread of its process, and the sandbox's init has to stay outside of
// what it confines.
package landlock

import (
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Versions of the interface (ABI) that brought something which matters here.
// See landlock(7).
const (
	ABITruncate = 3 // truncating is controlled
	ABINetwork  = 4 // TCP
	ABIDevices  = 5 // ioctl of devices
	ABIScopes   = 6 // signals and abstract sockets
)

// ABI returns the version of the kernel's Landlock, or why there is none.
func ABI() (int, error) {
	n, _, e := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	switch e {
	case 0:
		return int(n), nil
	case unix.ENOSYS:
		return 0, errors.New("the kernel was built without Landlock (CONFIG_SECURITY_LANDLOCK, Linux 5.13 or later), or a seccomp profile hides it")
	case unix.EOPNOTSUPP:
		return 0, errors.New("the kernel has Landlock switched off: add landlock to the kernel's list of security modules (lsm=...,landlock at boot; see /sys/kernel/security/lsm)")
	case unix.EPERM, unix.EACCES:
		return 0, errors.New("a seccomp profile refuses Landlock: allow landlock_create_ruleset, landlock_add_rule and landlock_restrict_self")
	}
	return 0, fmt.Errorf("landlock: %w", e)
}

// Access is what may be done with a path and everything below it.
type Access int64

// Kinds of access.
const (
	Read  Access = iota // read, list and execute
	Write               // everything, but devices cannot be made
	Use                 // read and write a file that is there
)

// Rule allows access to a path. A path that is missing is no error: nothing
// is there to be seen.
type Rule struct {
	Path   string
	Access Access
}

const (
	readFile  = unix.LANDLOCK_ACCESS_FS_EXECUTE | unix.LANDLOCK_ACCESS_FS_READ_FILE
	useFile   = unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_TRUNCATE
	allOfFile = readFile | useFile
	makeAny   = unix.LANDLOCK_ACCESS_FS_MAKE_DIR | unix.LANDLOCK_ACCESS_FS_MAKE_REG | unix.LANDLOCK_ACCESS_FS_MAKE_SOCK |
		unix.LANDLOCK_ACCESS_FS_MAKE_FIFO | unix.LANDLOCK_ACCESS_FS_MAKE_SYM
	remove = unix.LANDLOCK_ACCESS_FS_REMOVE_DIR | unix.LANDLOCK_ACCESS_FS_REMOVE_FILE
	write  = allOfFile | unix.LANDLOCK_ACCESS_FS_READ_DIR | makeAny | remove | unix.LANDLOCK_ACCESS_FS_REFER
	device = unix.LANDLOCK_ACCESS_FS_MAKE_CHAR | unix.LANDLOCK_ACCESS_FS_MAKE_BLOCK | unix.LANDLOCK_ACCESS_FS_IOCTL_DEV
)

// handled is what a kernel with this ABI controls of all that is known here.
func handled(abi int) uint64 {
	all := uint64(write | device)
	if abi < 2 {
		all &^= unix.LANDLOCK_ACCESS_FS_REFER
	}
	if abi < ABITruncate {
		all &^= unix.LANDLOCK_ACCESS_FS_TRUNCATE
	}
	if abi < ABIDevices {
		all &^= unix.LANDLOCK_ACCESS_FS_IOCTL_DEV
	}
	return all
}

// Confine allows the calling thread, which has to be locked, the rules and
// nothing else of the file system, no TCP, and no signal or abstract socket
// out of itself and its children, each as far as abi goes.
func Confine(rules []Rule, abi int) error {
	attr := unix.LandlockRulesetAttr{Handled_access_fs: handled(abi)}
	if abi >= ABINetwork {
		attr.Handled_access_net = unix.LANDLOCK_ACCESS_NET_BIND_TCP | unix.LANDLOCK_ACCESS_NET_CONNECT_TCP
	}
	if abi >= ABIScopes {
		attr.Scoped = unix.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET | unix.LANDLOCK_SCOPE_SIGNAL
	}
	return restrict(&attr, rules)
}

// Fence keeps the signals of the calling thread, which has to be locked, and
// of what it starts, among them. It needs ABIScopes.
func Fence() error {
	return restrict(&unix.LandlockRulesetAttr{Scoped: unix.LANDLOCK_SCOPE_SIGNAL}, nil)
}

func restrict(attr *unix.LandlockRulesetAttr, rules []Rule) error {
	fd, _, e := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(attr)), unsafe.Sizeof(*attr), 0)
	if e != 0 {
		return fmt.Errorf("landlock ruleset: %w", e)
	}
	defer func() { _ = unix.Close(int(fd)) }()
	for _, r := range rules {
		if err := allow(int(fd), r, attr.Handled_access_fs); err != nil {
			return err
		}
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("no_new_privs: %w", err)
	}
	if _, _, e := unix.RawSyscall(unix.SYS_LANDLOCK_RESTRICT_SELF, fd, 0, 0); e != 0 {
		return fmt.Errorf("landlock: %w", e)
	}
	return nil
}

func allow(ruleset int, r Rule, handled uint64) error {
	fd, err := unix.Open(r.Path, unix.O_PATH|unix.O_CLOEXEC, 0)
	switch {
	case err == unix.ENOENT || err == unix.EACCES || err == unix.ENOTDIR:
		return nil
	case err != nil:
		return fmt.Errorf("landlock: %s: %w", r.Path, err)
	}
	defer func() { _ = unix.Close(fd) }()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fmt.Errorf("landlock: %s: %w", r.Path, err)
	}
	access := uint64(readFile | unix.LANDLOCK_ACCESS_FS_READ_DIR)
	switch r.Access {
	case Write:
		access = write
	case Use:
		access = useFile
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		access &= allOfFile // the kernel refuses rights that only folders have
	}
	attr := unix.LandlockPathBeneathAttr{Allowed_access: access & handled, Parent_fd: int32(fd)}
	_, _, e := unix.Syscall6(unix.SYS_LANDLOCK_ADD_RULE, uintptr(ruleset), unix.LANDLOCK_RULE_PATH_BENEATH, uintptr(unsafe.Pointer(&attr)), 0, 0, 0)
	if e != 0 {
		return fmt.Errorf("landlock: %s: %w", r.Path, e)
	}
	return nil
}
