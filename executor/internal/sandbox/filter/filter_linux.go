// Package filter makes the seccomp filter of the programs in boxes.
//
// It denies a list rather than allowing one: libraries and language runtimes
// use new system calls with every release, and an allow-list breaks them. What
// is on the list has no use in a box, or has been the way out of one.
package filter

import (
	"encoding/binary"
	"fmt"
	"slices"

	seccomp "github.com/elastic/go-seccomp-bpf"
	"github.com/elastic/go-seccomp-bpf/arch"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// eperm are answered with EPERM: the caller learns that it may not.
var eperm = []string{
	// Programs in the kernel, and shared rings with it.
	"bpf", "perf_event_open", "userfaultfd", "io_uring_setup", "io_uring_enter", "io_uring_register",
	// Keys are not all kept apart by namespaces.
	"add_key", "request_key", "keyctl",
	// The machine itself.
	"kexec_load", "kexec_file_load", "reboot", "init_module", "finit_module", "delete_module",
	"create_module", "query_module", "get_kernel_syms", "swapon", "swapoff", "acct", "quotactl", "quotactl_fd",
	"iopl", "ioperm", "syslog", "lookup_dcookie", "nfsservctl", "uselib", "ustat", "sysfs", "_sysctl", "vhangup",
	"settimeofday", "clock_settime", "clock_adjtime", "adjtimex", "stime", "sethostname", "setdomainname",
	"modify_ldt", "vm86", "vm86old", "pciconfig_read", "pciconfig_write", "pciconfig_iobase",
	// File systems and namespaces.
	"mount", "umount", "umount2", "pivot_root", "chroot", "unshare", "setns", "open_by_handle_at",
	"name_to_handle_at", "mount_setattr", "open_tree", "open_tree_attr", "move_mount", "fsopen", "fsconfig",
	"fsmount", "fspick", "statmount", "listmount", "fanotify_init", "fanotify_mark",
	// Other processes' memory and descriptors.
	"ptrace", "process_vm_readv", "process_vm_writev", "process_madvise", "pidfd_getfd", "kcmp", "memfd_secret",
	"move_pages", "migrate_pages", "mbind", "set_mempolicy", "set_mempolicy_home_node",
	// Counted for the whole host, whoever asks: one box would take the others' and
	// the host's share. Watches also see who opens a file that all boxes share.
	"inotify_init", "inotify_init1", "io_setup",
	// Writes back every file system of the host.
	"sync", "syncfs",
	// A program has one filter, ours; listeners and logs of its own are not for here.
	"seccomp",
}

// enosys are answered with ENOSYS: libraries fall back to an older call
// whose arguments a filter can see, as they do for clone3.
var enosys = []string{"clone3"}

// uncounted are answered with ENOSYS where no cgroup counts memory: what they
// make belongs to no process, and so nobody would see it.
var uncounted = []string{"memfd_create", "shmget"}

// newNamespaces are the flags of clone by which namespaces are made.
const newNamespaces = unix.CLONE_NEWUSER | unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET |
	unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWCGROUP

// families are the socket families that stay: local, and what programs use
// among themselves on the box's loopback.
var families = []uint64{unix.AF_UNIX, unix.AF_INET, unix.AF_INET6}

// Build returns the filter of programs in namespaces as the kernel takes it:
// an array of struct sock_filter. counted says that a cgroup counts the memory
// of the box.
func Build(counted bool) (string, error) {
	info, err := arch.GetInfo("")
	if err != nil {
		return "", fmt.Errorf("seccomp: %w", err)
	}
	return build(info, eperm, missing(counted), nil, sockets(families, "socket", "socketpair"))
}

// missing are the calls that programs are told do not exist.
func missing(counted bool) []string {
	if counted {
		return enosys
	}
	return slices.Concat(enosys, uncounted)
}

// build adds to the calls that are denied everywhere.
func build(info *arch.Info, denied, missing []string, head []bpf.Instruction, sockets []seccomp.NameWithConditions) (string, error) {
	policy := seccomp.Policy{
		DefaultAction: seccomp.ActionAllow,
		Syscalls: []seccomp.SyscallGroup{
			{Action: errno(unix.EPERM), Names: known(info, denied)},
			{Action: errno(unix.ENOSYS), Names: known(info, missing)},
			{Action: errno(unix.EPERM), NamesWithCondtions: arguments()},
			{Action: errno(unix.EAFNOSUPPORT), NamesWithCondtions: sockets},
		},
	}
	program, err := policy.Assemble()
	if err != nil {
		return "", fmt.Errorf("seccomp: %w", err)
	}
	// The library lets calls of another architecture through where the default
	// is to allow; a 32-bit program would walk past the list.
	head = append([]bpf.Instruction{
		bpf.LoadAbsolute{Off: offsetArch, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(info.ID), SkipTrue: 1},
		bpf.RetConstant{Val: uint32(errno(unix.ENOSYS))},
	}, head...)
	// Typing into a terminal, and into the console's selection.
	head = append(head, denyWord(unix.SYS_IOCTL, 1, unix.TIOCSTI, unix.TIOCLINUX, unix.TIOCCONS)...)
	// Filters by the older door, and the layout of one's own memory map.
	// Merging equal pages with those of others tells by its timing what they hold.
	head = append(head, denyWord(unix.SYS_PRCTL, 0, unix.PR_SET_SECCOMP, unix.PR_SET_MM, prSetMemoryMerge)...)
	head = append(head, denyWord(unix.SYS_MADVISE, 2, unix.MADV_MERGEABLE)...)
	program = append(head, program...)
	raw, err := bpf.Assemble(program)
	if err != nil {
		return "", fmt.Errorf("seccomp: %w", err)
	}
	var b []byte
	for _, in := range raw {
		b = binary.NativeEndian.AppendUint16(b, in.Op)
		b = append(b, in.Jt, in.Jf)
		b = binary.NativeEndian.AppendUint32(b, in.K)
	}
	return string(b), nil
}

// prSetMemoryMerge is PR_SET_MEMORY_MERGE of linux/prctl.h, since Linux 6.4.
const prSetMemoryMerge = 67

func errno(e unix.Errno) seccomp.Action { return seccomp.ActionErrno | seccomp.Action(e) }

// known leaves out calls that this architecture does not have.
func known(info *arch.Info, names []string) []string {
	var list []string
	for _, name := range names {
		if _, ok := info.SyscallNames[name]; ok {
			list = append(list, name)
		}
	}
	return list
}

// arguments are the calls of which only some uses are denied.
func arguments() []seccomp.NameWithConditions {
	return []seccomp.NameWithConditions{
		{Name: "clone", Conditions: seccomp.ArgumentConditions{
			{Argument: 0, Operation: seccomp.BitsSet, Value: newNamespaces},
		}},
		// Address randomization off and old behaviours; the harmless query is 0xffffffff.
		{Name: "personality", Conditions: seccomp.ArgumentConditions{
			{Argument: 0, Operation: seccomp.NotEqual, Value: 0},
			{Argument: 0, Operation: seccomp.NotEqual, Value: 0xffffffff},
			{Argument: 0, Operation: seccomp.NotEqual, Value: 0x0040000}, // ADDR_NO_RANDOMIZE, debuggers and runtimes
		}},
	}
}

// sockets denies every family but those that stay.
func sockets(families []uint64, calls ...string) []seccomp.NameWithConditions {
	var list []seccomp.NameWithConditions
	for _, call := range calls {
		var other seccomp.ArgumentConditions
		for _, family := range families {
			other = append(other, seccomp.Condition{Argument: 0, Operation: seccomp.NotEqual, Value: family})
		}
		list = append(list, seccomp.NameWithConditions{Name: call, Conditions: other})
	}
	return list
}
