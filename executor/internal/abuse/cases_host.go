package abuse

import (
	"strings"

	"github.com/crucible-eval/crucible/pkg/eval"
)

// Secret stands in the executor's environment, in a file of the host and in
// expected outputs while the suite runs. No program may find it. It is in two
// parts, so that looking for it is not a find.
var Secret = [2]string{"abuse-5ecret", "do-not-find"}

func hostCases() []Case {
	search := hostile(eval.Limits{WallMS: 10_000}, "find-secret", Secret[0], Secret[1])
	expected := search
	answer := eval.Bytes(strings.Join(Secret[:], "-"))
	expected.Tests = []eval.Test{{ExpectedStdout: &answer}}
	return []Case{
		{Name: "read the host", Does: "opens files of the host, through links and .. too, and descriptors that it was not given", Program: hostile(ordinary, "read-host", "${file}"), Want: refused},
		{Name: "find a secret", Does: "searches its environment and every file that it can read", Program: search, Want: refused},
		{
			Name: "find the expected output", Does: "searches for the answer of the test that it is in",
			Program: expected, Want: ended(eval.WrongAnswer, eval.CauseTest).and(func(r eval.Result) error {
				return refused.Hold(eval.Result{Verdict: eval.Accepted, Stdout: r.Tests[0].Stdout})
			}),
		},
		{Name: "environment", Does: "looks for variables that are not documented", Program: hostile(ordinary, "environment", "GOMAXPROCS", "GODEBUG", "GOGC"), Want: refused},
		{Name: "/proc and /sys", Does: "reads and writes what is the kernel's", Program: hostile(ordinary, "proc-sys"), Want: refused},
		{Name: "attack on init", Does: "reads, traces and enters process 1, by /proc, ptrace, process_vm and pidfd", Program: hostile(ordinary, "attack-init"), Want: refused, At: atGVisor(virtual)},
		{Name: "overwritten programs", Does: "writes to the running program, init and the system's files, as in CVE-2019-5736", Program: hostile(ordinary, "overwrite-exe"), Want: refused},
		{Name: "own code", Does: "writes through its own read-only mappings by /proc/self/mem", Program: hostile(ordinary, "own-memory"), Want: refused},
		{Name: "control groups", Does: "writes release_agent and its own limits, and mounts file systems", Program: hostile(ordinary, "cgroups"), Want: refused},
		{Name: "terminal", Does: "opens terminals, and types into them", Program: hostile(ordinary, "terminal"), Want: refused, At: atGVisor(virtual)},
		{Name: "devices", Does: "opens devices, and changes the random pool", Program: hostile(ordinary, "devices"), Want: refused, At: atGVisor(virtual)},
		{Name: "core dump", Does: "has its memory dumped", Program: hostile(ordinary, "dump-core"), Want: refused},
	}
}

func callCases() []Case {
	return []Case{
		{Name: "forbidden calls", Does: "50 calls: bpf, io_uring, perf, userfaultfd, keyctl, kexec, reboot, modules, handles ...", Program: hostile(ordinary, "forbidden-calls"), Want: refused},
		{Name: "namespaces and mounts", Does: "unshare, clone, chroot, pivot_root, mount, remount", Program: hostile(ordinary, "namespaces"), Want: refused},
		{Name: "other ABIs", Does: "int 0x80, and the x32 numbers", Program: hostile(ordinary, "other-abis"), Want: refused},
		{Name: "filter games", Does: "installs filters, listeners and privileges of its own", Program: hostile(ordinary, "filter-games"), Want: refused},
		{Name: "storms", Does: "membarrier, rseq, getrandom, sync and affinity in a loop", Program: hostile(ordinary, "storms"), Want: refused},
		{Name: "random calls", Does: "thousands of calls with numbers and arguments by chance", Program: hostile(ordinary, "random-calls"), Want: refused.or(byMemory)},
	}
}

func networkCases() []Case {
	return []Case{
		{Name: "TCP", Does: "connects to the internet, private networks, the metadata service, and servers of the host", Program: hostile(ordinary, "egress", "tcp", "${tcp}"), Want: refused},
		{Name: "UDP", Does: "sends packets, to groups and everybody too", Program: hostile(ordinary, "udp"), Want: refused},
		{Name: "DNS", Does: "asks for a name", Program: hostile(ordinary, "dns"), Want: refused},
		{Name: "sockets", Does: "raw, packet, netlink, vsock, crypto, bluetooth and twelve more", Program: hostile(ordinary, "sockets"), Want: refused},
		{Name: "Unix sockets", Does: "connects to sockets of the host, abstract ones too", Program: hostile(ordinary, "unix-sockets", "${unix}"), Want: refused},
		{Name: "interfaces", Does: "looks for devices and routes, and changes the loopback", Program: hostile(ordinary, "interfaces"), Want: refused},
	}
}
