package boxinit

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/crucible-eval/crucible/executor/internal/sandbox/wire"
)

// becomeRunsc mounts what the box needs and replaces this process with
// gVisor's runsc, which starts an init of its own inside: the box around it,
// its namespaces and its host ids stay, and it is still PID 1 of them. It
// returns only with an error.
func becomeRunsc(d *wire.Decoder, fds []int) error {
	var g wire.Guest
	g.Decode(d)
	if err := d.Err(); err != nil {
		return err
	}
	if len(fds) < wire.GuestFDs {
		return fmt.Errorf("guest came with %d descriptors", len(fds))
	}
	if err := mountAll(&g.Setup); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(wire.GuestDir, "config.json"), []byte(g.Config), 0o400); err != nil {
		return fmt.Errorf("bundle of runsc: %w", err)
	}
	// execve keeps the calling thread, and the groups that it is in.
	if err := joinGroups(fds[wire.GuestFDs:]); err != nil {
		return err
	}
	for _, fd := range []struct{ from, to int }{
		{wire.InitControlFD, wire.GuestControlFD}, {fds[1], wire.GuestExeFD}, {fds[2], 0}, {fds[3], 1}, {fds[4], 2},
	} {
		if err := unix.Dup3(fd.from, fd.to, 0); err != nil {
			return fmt.Errorf("descriptors of runsc: %w", err)
		}
	}
	// What the sentry holds is for no crash handler of the host.
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("rlimit of core files: %w", err)
	}
	// All of the sandbox yields to the platform, as programs do.
	if err := yield(); err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("dumpable: %w", err)
	}
	err := unix.Exec(fmt.Sprintf("/proc/self/fd/%d", fds[0]), g.Args, []string{"PATH=/usr/bin:/bin"})
	return fmt.Errorf("start runsc: %w", err)
}

// guestUser is who the program becomes inside. No thread of init becomes it,
// as one does outside: there, the kernel keeps signals from PID 1 whoever
// sends them. gVisor does not, and a program that finds a thread of its own
// user in init could kill it.
func guestUser(s *wire.Setup) *syscall.Credential {
	return &syscall.Credential{Uid: uint32(s.UID), Gid: uint32(s.GID)}
}

// confineGuest prepares the calling thread for starting the program. The
// change of user takes the capabilities; gVisor has no secure bits, and
// runsc has set no_new_privs.
func confineGuest(s *wire.Setup) error {
	if err := dropBounding(); err != nil {
		return err
	}
	return installFilter(s.Filter)
}

// limitGuestProcesses is limitProcesses inside gVisor, which counts a task to
// the user who started it: the program itself to init's, and what it starts
// to its own. Init may exceed every limit, and so can keep this one.
func limitGuestProcesses(cmd *wire.Command, _ bool) (release func(pid int), err error) {
	most := uint64(max(cmd.SampleProcesses-1, 0))
	if err := syscall.Setrlimit(unix.RLIMIT_NPROC, &syscall.Rlimit{Cur: most, Max: most}); err != nil {
		return nil, fmt.Errorf("rlimit of processes: %w", err)
	}
	return func(int) {}, nil
}
