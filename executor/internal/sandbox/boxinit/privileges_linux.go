package boxinit

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/crucible-eval/crucible/executor/internal/sandbox/wire"
)

// Secure bits, all locked: uid 0 means nothing to execve, and capabilities
// cannot be made ambient. See capabilities(7).
const secureBits = 1<<0 | 1<<1 | 1<<6 | 1<<7

// becomeUser turns the calling thread, and only it, into what the program
// will be. Raw calls are meant: the syscall package would change all threads
// of init, and init keeps its privileges.
func becomeUser(s *wire.Setup, groups []int) error {
	if err := joinGroups(groups); err != nil {
		return err
	}
	if err := changeUser(s.UID, s.GID, s.KeepGroups); err != nil {
		return err
	}
	return surrender(s.Filter)
}

// changeUser makes the calling thread another user, for good.
func changeUser(uid, gid int64, keepGroups bool) error {
	if err := dropBounding(); err != nil {
		return err
	}
	if err := raw("securebits", unix.SYS_PRCTL, unix.PR_SET_SECUREBITS, secureBits, 0); err != nil {
		return err
	}
	if !keepGroups {
		if err := raw("setgroups", unix.SYS_SETGROUPS, 0, 0, 0); err != nil {
			return err
		}
	}
	if err := raw("setresgid", unix.SYS_SETRESGID, uintptr(gid), uintptr(gid), uintptr(gid)); err != nil {
		return err
	}
	return raw("setresuid", unix.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid))
}

// surrender gives up every capability of the calling thread for good, and
// puts it under the filter.
func surrender(filter string) error {
	if err := raw("clear ambient set", unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0); err != nil {
		return err
	}
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	if err := raw("capset", unix.SYS_CAPSET, uintptr(unsafe.Pointer(&hdr)), uintptr(unsafe.Pointer(&none[0])), 0); err != nil {
		return err
	}
	if err := raw("no_new_privs", unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0); err != nil {
		return err
	}
	if filter == "" {
		return nil
	}
	return installFilter(filter)
}

// joinGroups moves the calling thread into the groups whose tasks files these
// are, and hides what is above them.
func joinGroups(groups []int) error {
	for _, fd := range groups {
		// "0" is the writing thread. Moving oneself alone takes no lock of the
		// whole group hierarchy, unlike moving a process.
		if _, err := unix.Write(fd, []byte("0")); err != nil {
			return fmt.Errorf("join cgroup: %w", err)
		}
	}
	// EINVAL: a kernel without groups has nothing to hide.
	if err := unix.Unshare(unix.CLONE_NEWCGROUP); err != nil && err != unix.EINVAL {
		return fmt.Errorf("cgroup namespace: %w", err)
	}
	return nil
}

// dropBounding empties the bounding set; the first number that the kernel
// does not know ends it.
func dropBounding() error {
	for c := range uintptr(64) {
		_, _, e := unix.RawSyscall6(unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, c, 0, 0, 0, 0)
		if e == unix.EINVAL && c > 0 {
			return nil
		}
		if e != 0 {
			return fmt.Errorf("drop capability %d: %w", c, e)
		}
	}
	return nil
}

// sockFprog is struct sock_fprog.
type sockFprog struct {
	length uint16
	filter *byte
}

func installFilter(filter string) error {
	if len(filter) == 0 || len(filter)%8 != 0 {
		return fmt.Errorf("seccomp: filter of %d bytes", len(filter))
	}
	b := []byte(filter)
	prog := sockFprog{length: uint16(len(b) / 8), filter: &b[0]}
	return raw("seccomp", unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&prog)))
}

// raw is one system call of this thread.
//
//go:uintptrescapes
func raw(what string, nr, a, b, c uintptr) error {
	if _, _, e := unix.RawSyscall6(nr, a, b, c, 0, 0, 0); e != 0 {
		return fmt.Errorf("%s: %w", what, e)
	}
	return nil
}
