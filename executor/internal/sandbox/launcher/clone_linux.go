package launcher

import (
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/crucible-eval/crucible/executor/internal/sandbox/wire"
)

// boxNamespaces are made with the box; its network namespace waits already.
const boxNamespaces = unix.CLONE_NEWUSER | unix.CLONE_NEWNS | unix.CLONE_NEWPID |
	unix.CLONE_NEWIPC | unix.CLONE_NEWUTS

// rootlessCaps are what init needs and would lose at execve, because it
// cannot be uid 0 where only one id may be mapped.
var rootlessCaps = []uintptr{
	unix.CAP_CHOWN, unix.CAP_DAC_OVERRIDE, unix.CAP_KILL, unix.CAP_SETPCAP,
	unix.CAP_NET_ADMIN, unix.CAP_SYS_ADMIN, unix.CAP_SYS_PTRACE,
}

// cloneBox starts init in new namespaces around the calling thread's root and
// returns a descriptor of the process. fds are the control socket and, for
// the unified hierarchy, the group in which the box is born.
func cloneBox(r *wire.BoxRequest, nets *networks, fds []int, workspace int) (int, error) {
	if err := nets.enter(); err != nil {
		return -1, err
	}
	pidfd := -1
	sys := &syscall.SysProcAttr{
		Cloneflags: boxNamespaces,
		// The launcher's threads that clone boxes live as long as the launcher.
		Pdeathsig: syscall.SIGKILL,
		PidFD:     &pidfd,
	}
	identify(sys, r)
	if r.CgroupFD {
		sys.UseCgroupFD, sys.CgroupFD = true, fds[1]
	}
	files := []uintptr{0, 0, 2, uintptr(fds[0]), ExeFD}
	if workspace >= 0 {
		files = append(files, uintptr(workspace))
	}
	// By descriptor: the template holds no copy of this program.
	exe := fmt.Sprintf("/proc/self/fd/%d", wire.InitExeFD)
	_, err := syscall.ForkExec(exe, []string{wire.InitArg}, &syscall.ProcAttr{
		Dir:   "/",
		Env:   []string{"GOMAXPROCS=1", "GOGC=off"},
		Files: files,
		Sys:   sys,
	})
	if err != nil {
		if pidfd >= 0 {
			_ = unix.Close(pidfd)
		}
		return -1, fmt.Errorf("clone box: %w", err)
	}
	return pidfd, nil
}

// identify maps the box's ids. With privileges, init and the program become
// two host ids that nothing else uses. Without, both are the caller's own id,
// and the difference between them is only what capabilities they hold.
func identify(sys *syscall.SysProcAttr, r *wire.BoxRequest) {
	if r.HostUID == 0 {
		sys.UidMappings = []syscall.SysProcIDMap{{ContainerID: int(r.Tree.UID), HostID: os.Getuid(), Size: 1}}
		sys.GidMappings = []syscall.SysProcIDMap{{ContainerID: int(r.Tree.GID), HostID: os.Getgid(), Size: 1}}
		sys.AmbientCaps = rootlessCaps
		return
	}
	host := int(r.HostUID)
	sys.UidMappings = []syscall.SysProcIDMap{
		{ContainerID: 0, HostID: host, Size: 1},
		{ContainerID: int(r.Tree.UID), HostID: host + 1, Size: 1},
	}
	sys.GidMappings = []syscall.SysProcIDMap{
		{ContainerID: 0, HostID: host, Size: 1},
		{ContainerID: int(r.Tree.GID), HostID: host + 1, Size: 1},
	}
	if r.Lend != 0 {
		lent := lend(r)
		sys.UidMappings = append(sys.UidMappings, lent...)
		sys.GidMappings = append(sys.GidMappings, lent...)
	}
	sys.GidMappingsEnableSetgroups = true
	// Without it init would be an unmapped id and lose its capabilities at execve.
	sys.Credential = &syscall.Credential{Uid: 0, Gid: 0}
}

// lend maps the block around the box's own two ids, which cannot be mapped
// twice.
func lend(r *wire.BoxRequest) []syscall.SysProcIDMap {
	var maps []syscall.SysProcIDMap
	add := func(from, to int64) {
		if from < to {
			inside := wire.LentIDs + from - r.Lend
			maps = append(maps, syscall.SysProcIDMap{ContainerID: int(inside), HostID: int(from), Size: int(to - from)})
		}
	}
	add(r.Lend, r.HostUID)
	add(r.HostUID+2, r.Lend+r.LendCount)
	return maps
}
