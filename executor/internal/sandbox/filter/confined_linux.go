package filter

import (
	"fmt"

	"github.com/elastic/go-seccomp-bpf/arch"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/crucible-eval/crucible/executor/internal/sandbox/landlock"
)

// What namespaces would have made harmless is denied where there are none.
var (
	// shared are things of the machine that have no path, and what Landlock does
	// not look at: sockets of other programs, memory, queues and semaphores with
	// numbers for names, and attributes of files that everyone may write.
	shared = []string{
		"socket", "connect", "bind", "listen",
		"shmget", "shmat", "shmctl", "msgget", "msgsnd", "msgrcv", "msgctl", "semget", "semop", "semtimedop", "semctl",
		"mq_open", "mq_unlink", "process_mrelease",
		"setxattr", "lsetxattr", "fsetxattr", "setxattrat", "removexattr", "lremovexattr", "fremovexattr", "removexattrat",
	}
	// owners of files, as their modes, are not Landlock's matter, and those of the
	// executor's files are the program's to change where both are the same user.
	// chmod is dealt with below.
	owners = []string{"chown", "fchown", "lchown", "fchownat", "fchmodat2", "ioprio_set"}
	// signals are kept in by Landlock from its sixth version on. Before that,
	// one user's processes can be kept from each other only by having none of
	// them send any.
	signals = []string{"kill", "tkill", "tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo", "pidfd_send_signal"}
)

// fiosetown names who gets the signals of a descriptor, as F_SETOWN does.
const fiosetown = 0x8901

// Confined says what is around a program without namespaces.
type Confined struct {
	Landlock   int  // the version that confines it
	SharedUser bool // it is the executor's own user
	Counted    bool // a cgroup counts the memory of the box
}

// Build returns the filter of such programs.
func (c Confined) Build() (string, error) {
	info, err := arch.GetInfo("")
	if err != nil {
		return "", fmt.Errorf("seccomp: %w", err)
	}
	denied := append([]string{}, eperm...)
	denied = append(denied, shared...)
	// Pairs of sockets are fine, but not of datagrams: those can be sent to any
	// address, whatever they are connected with.
	head := c.words(info, []word{{"socketpair", 1, 0xf, []uint32{unix.SOCK_STREAM, unix.SOCK_SEQPACKET}}})
	if c.Landlock < landlock.ABITruncate {
		denied = append(denied, "truncate", "openat2")
		// Opening for reading truncates too, when asked to.
		for _, call := range []struct {
			name string
			arg  uint32
		}{{"open", 1}, {"openat", 2}} {
			if nr, ok := info.SyscallNames[call.name]; ok {
				head = append(head, denyMasked(uint32(nr), call.arg, unix.O_TRUNC|unix.O_ACCMODE, unix.O_TRUNC|unix.O_RDONLY)...)
			}
		}
	}
	if c.SharedUser {
		denied = append(denied, owners...)
		head = append(head, c.words(info, ownOnly)...)
		if c.Landlock < landlock.ABIScopes {
			denied = append(denied, signals...)
			head = append(head, denyWord(unix.SYS_FCNTL, 1, unix.F_SETOWN, unix.F_SETOWN_EX)...)
			head = append(head, denyWord(unix.SYS_IOCTL, 1, fiosetown, unix.SIOCSPGRP)...)
		}
	}
	return build(info, denied, missing(c.Counted), head, sockets([]uint64{unix.AF_UNIX}, "socketpair"))
}

// word allows a call only where a word of its arguments has one of the values.
type word struct {
	call   string
	arg    uint32
	mask   uint32
	values []uint32
}

// ownOnly are calls that may be made about the caller alone, by number 0, and
// the one mode to which files can be changed: the executor's own files would
// stay readable and writable to it, and to nobody else.
var ownOnly = []word{
	{"prlimit64", 0, ^uint32(0), []uint32{0}},
	{"setpriority", 0, ^uint32(0), []uint32{unix.PRIO_PROCESS}},
	{"setpriority", 1, ^uint32(0), []uint32{0}},
	{"sched_setaffinity", 0, ^uint32(0), []uint32{0}},
	{"sched_setscheduler", 0, ^uint32(0), []uint32{0}},
	{"sched_setparam", 0, ^uint32(0), []uint32{0}},
	{"sched_setattr", 0, ^uint32(0), []uint32{0}},
	{"chmod", 1, 0o7777, []uint32{0o700}},
	{"fchmod", 1, 0o7777, []uint32{0o700}},
	{"fchmodat", 2, 0o7777, []uint32{0o700}},
}

func (c Confined) words(info *arch.Info, list []word) []bpf.Instruction {
	var block []bpf.Instruction
	for _, w := range list {
		if nr, ok := info.SyscallNames[w.call]; ok {
			block = append(block, onlyWord(uint32(nr), w.arg, w.mask, w.values...)...)
		}
	}
	return block
}
