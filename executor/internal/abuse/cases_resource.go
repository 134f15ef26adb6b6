package abuse

import (
	"bytes"
	"fmt"

	"github.com/crucible-eval/crucible/pkg/eval"
)

func memoryCases() []Case {
	small := eval.Limits{WallMS: 10_000, MemoryBytes: 48 << 20}
	// Where no cgroup counts memory, what belongs to no process is refused or has a quota.
	uncounted := map[string]Promise{"namespaces-rlimit": refused, "landlock": refused.or(byMemory, byDisk)}
	const buffers = "what waits in sockets belongs to no process; descriptors x processes x the host's net.core.wmem_max bound it"
	return []Case{
		{Name: "memory bomb", Does: "takes and touches memory for ever", Program: hostile(small, "memory"), Want: byMemory, Least: "none"},
		{
			Name: "memory in children", Does: "ten children take 60 % of the limit each",
			Program: hostile(small, "memory-children", "10", "29"), Want: byMemory,
		},
		{
			Name: "memory in a child", Does: "a child is killed for memory, and main exits with 0",
			Program: hostile(small, "memory-child"), Want: byMemory,
		},
		{Name: "untouched memory", Does: "maps 2 GiB and uses none", Program: hostile(small, "untouched"), Want: refused},
		{Name: "shared memory", Does: "takes memory that counts as a file's", Program: hostile(small, "memory-shared"), Want: byMemory},
		{
			Name: "memfd", Does: "writes to a file that has no file system", Program: hostile(small, "memfd"),
			Want: byMemory, At: uncounted,
		},
		{
			Name: "System V segments", Does: "fills segments that no process keeps attached",
			Program: hostile(small, "memory-sysv"),
			Want:    byMemory, At: uncounted,
		},
		{Name: "page tables", Does: "reads one byte in each 2 MiB of terabytes", Program: hostile(small, "page-tables"), Want: byMemory.or(refused), At: atGVisor(byMemory.or(refused, byWall))},
		{
			Name: "/tmp as memory", Does: "writes to /tmp for ever", Program: hostile(small, "fill", "/tmp"),
			Want: byMemory, At: map[string]Promise{"namespaces-rlimit": refused, "landlock": refused.or(byMemory, byDisk)},
		},
		{
			Name: "/dev/shm as memory", Does: "writes to /dev/shm for ever", Program: hostile(small, "fill", "/dev/shm"),
			Want: byMemory, At: uncounted,
		},
		{Name: "locked memory", Does: "locks memory", Program: hostile(ordinary, "mlock"), Want: refused},
		{Name: "huge and merged pages", Does: "asks for huge pages, poisons pages, has them merged", Program: hostile(ordinary, "huge-pages"), Want: refused},
		{
			Name: "mapping larger than its disk", Does: "maps and fills a sparse file of a terabyte",
			Program: hostile(eval.Limits{WallMS: 10_000, MemoryBytes: 256 << 20}, "mmap-sparse"), Want: refused.or(byMemory),
		},
		{Name: "OOM score", Does: "shields itself from the host's OOM killer", Program: hostile(ordinary, "oom-score"), Want: refused, At: atGVisor(virtual)},
		{Name: "pipes", Does: "fills as many pipes as it can, a megabyte each", Program: hostile(small, "hoard-pipes"), Want: refused.or(byMemory)},
		{Name: "socket buffers", Does: "fills as many sockets as it can", Program: hostile(small, "hoard-sockets"), Want: refused.or(byMemory), Least: "namespaces", Open: buffers},
		{Name: "sockets in flight", Does: "sends sockets through themselves and closes them", Program: hostile(small, "socket-loop"), Want: refused.or(byMemory), At: atGVisor(refused.or(byMemory, signalled("SIGKILL")))},
		{Name: "descriptors of the kernel", Does: "hoards eventfd, timerfd, epoll, inotify, pidfd, signalfd", Program: hostile(ordinary, "hoard-descriptors"), Want: refused},
		{Name: "watches", Does: "watches as many folders as it can make", Program: hostile(ordinary, "hoard-watches"), Want: refused, At: map[string]Promise{"landlock": refused.or(byDisk)}},
		{Name: "message queues", Does: "makes POSIX message queues", Program: hostile(ordinary, "message-queues"), Want: refused, At: atGVisor(virtual)},
		{Name: "System V left-overs", Does: "leaves segments, queues and semaphores", Program: hostile(ordinary, "sysv-leftovers"), Want: refused},
		{
			Name: "huge static array, untouched", Does: "a C program with a gigabyte of zeros that it never uses",
			Program: source("c", "static char a[1<<30]; int main(int n, char **v) { return a[n] ; }", small), Want: harmless,
		},
		{
			Name: "huge static array, touched", Does: "the same, written from end to end",
			Program: source("c", "#include <string.h>\nstatic char a[1<<30]; int main(int n, char **v) { memset(a, n, sizeof a); return a[n]; }", small), Want: byMemory,
		},
		{
			Name: "stack overflow", Does: "endless recursion in C",
			Program: source("c", "int f(volatile int n) { volatile char b[1024]; b[0] = n; return f(n + 1) + b[0]; } int main() { return f(0); }", eval.Limits{WallMS: 10_000}), Want: signalled("SIGSEGV"),
		},
	}
}

func outputCases() []Case {
	small := eval.Limits{WallMS: 10_000, OutputBytes: 64 << 10}
	return []Case{
		{Name: "stdout flood", Does: "writes to stdout for ever", Program: hostile(small, "flood", "1"), Want: byStdout.and(kept(64 << 10)), Least: "none"},
		{Name: "stderr flood", Does: "writes to stderr for ever", Program: hostile(small, "flood", "2"), Want: byStderr, Least: "none"},
		{Name: "flood of both", Does: "writes to both for ever", Program: hostile(small, "flood", "1", "2"), Want: byStdout.or(byStderr)},
		{Name: "flood byte by byte", Does: "writes single bytes for ever", Program: hostile(eval.Limits{WallMS: 10_000, OutputBytes: 4 << 10}, "flood-small"), Want: byStdout.and(kept(4 << 10)), Least: "none"},
		{Name: "flood of lent pages", Does: "gives pages to the pipe by vmsplice", Program: hostile(small, "flood-vmsplice"), Want: byStdout},
		{Name: "every byte", Does: "writes all 256 values, broken UTF-8, escape sequences, NUL", Program: hostile(ordinary, "all-bytes"), Want: refused.and(allBytes)},
		{
			Name: "line of 10 MB", Does: "writes one line of 10 MiB",
			Program: hostile(eval.Limits{WallMS: 10_000, OutputBytes: 16 << 20}, "long-line"), Want: harmless.and(kept(10 << 20)),
		},
		{Name: "output held open", Does: "a grandchild keeps stdout open", Program: hostile(ordinary, "held-open"), Want: refused.and(soon)},
		{Name: "output after the end", Does: "a grandchild goes on writing", Program: hostile(ordinary, "after-the-end"), Want: Promise{Outcomes: []Outcome{{Verdict: eval.Accepted}, {Verdict: eval.OutputLimit, Cause: eval.CauseStdout}}}.and(soon)},
		{Name: "closed streams", Does: "closes all three streams and goes on", Program: hostile(ordinary, "close-streams"), Want: harmless},
		{Name: "pipe games", Does: "changes flags, owner, signal, size and locks of its pipes, and reads its own output", Program: hostile(ordinary, "pipe-games"), Want: harmless},
		{
			Name: "ignored input", Does: "closes stdin with a megabyte waiting",
			Program: func() eval.Program {
				p := hostile(ordinary, "ignore-input")
				p.Stdin = bytes.Repeat([]byte("i"), 1<<20)
				return p
			}(), Want: refused,
		},
	}
}

func fileCases() []Case {
	return []Case{
		{Name: "disk fill", Does: "writes to the work folder until it is refused", Program: hostile(eval.Limits{WallMS: 10_000, MemoryBytes: 256 << 20}, "fill", "/w"), Want: refused, At: map[string]Promise{"landlock": refused.or(byDisk)}},
		{Name: "disk fill without names", Does: "the same with O_TMPFILE", Program: hostile(eval.Limits{WallMS: 10_000, MemoryBytes: 256 << 20}, "nameless", "/w"), Want: refused, At: map[string]Promise{"landlock": refused.or(byDisk)}},
		{Name: "inode fill", Does: "creates files until it is refused", Program: hostile(eval.Limits{WallMS: 4000, MemoryBytes: 128 << 20}, "inodes", "/w"), Want: refused, At: map[string]Promise{"gvisor": refused.or(byWall), "landlock": refused.or(byDisk, byWall)}},
		{Name: "inode fill of /tmp", Does: "the same in /tmp", Program: hostile(eval.Limits{WallMS: 4000, MemoryBytes: 128 << 20}, "inodes", "/tmp"), Want: refused, At: map[string]Promise{"gvisor": refused.or(byMemory, byWall, signalled("SIGKILL")), "landlock": refused.or(byDisk, byWall)}},
		{Name: "deep tree", Does: "100,000 folders, each in the one before", Program: hostile(ordinary, "deep-tree"), Want: refused, At: map[string]Promise{"landlock": refused.or(byDisk)}},
		{Name: "hard links", Does: "links files of the host, and one of its own a million times", Program: hostile(ordinary, "hard-links"), Want: refused, At: map[string]Promise{"landlock": refused.or(byDisk)}},
		{Name: "sparse files", Does: "makes files of exabytes", Program: hostile(ordinary, "sparse"), Want: refused},
		{Name: "descriptors", Does: "opens files for ever", Program: hostile(ordinary, "descriptors"), Want: refused},
		{Name: "strange names", Does: "names like options, patterns and escape sequences, and folders without permissions", Program: hostile(ordinary, "strange-names"), Want: refused},
		{Name: "traps", Does: "leaves links, pipes and sockets where the platform may look, and makes devices", Program: hostile(ordinary, "traps"), Want: refused},
		{
			Name: "traps as artifacts", Does: "the same, asked back as artifacts",
			Program: artifacts(hostile(ordinary, "traps"), "*", "shadow", "root/etc/passwd", "missing"), Want: refused.and(onlyFine),
		},
		{
			Name: "deep tree as artifacts", Does: "the deep tree, asked back",
			Program: artifacts(hostile(ordinary, "deep-tree"), "**"), Want: refused, At: map[string]Promise{"landlock": refused.or(byDisk)},
		},
		{
			Name: "too many artifacts", Does: "all files that fit, asked back",
			Program: artifacts(hostile(eval.Limits{WallMS: 4000, MemoryBytes: 128 << 20}, "inodes", "/w"), "**"), Want: refused.and(boundedArtifacts),
			At: map[string]Promise{"gvisor": refused.or(byWall).and(boundedArtifacts), "landlock": refused.or(byDisk, byWall).and(boundedArtifacts)},
		},
		{
			Name: "strange artifacts", Does: "strange names and exabytes, asked back",
			Program: artifacts(hostile(ordinary, "strange-names"), "**"), Want: refused,
		},
		{
			Name: "sparse artifacts", Does: "a file of exabytes, asked back",
			Program: artifacts(hostile(ordinary, "sparse"), "sparse"), Want: refused.and(nothingBack),
		},
		{
			Name: "planted links", Does: "the compilation leaves links where the run writes",
			Program: eval.Program{Language: Planted, Code: eval.Bytes("-"), Args: []string{"write-through"}, Limits: ordinary}, Want: refused,
		},
		{
			Name: "persistence", Does: "marks everything that can be written; a second run looks for it",
			Before: []string{"persist-write"}, Program: hostile(ordinary, "persist-look"), Want: refused,
		},
		{Name: "set-user-id programs", Does: "runs its own, those of the system, and gives a file capabilities", Program: hostile(ordinary, "setuid"), Want: refused},
		{Name: "privileges", Does: "looks for an id or a capability that it should not have", Program: hostile(ordinary, "who"), Want: refused},
		{Name: "shared locks", Does: "locks and leases files that all boxes share", Program: hostile(ordinary, "shared-locks"), Want: refused},
	}
}

func artifacts(p eval.Program, patterns ...eval.Pattern) eval.Program {
	p.Artifacts = patterns
	return p
}

// onlyFine checks that of all traps only the one plain file came back.
func onlyFine(r eval.Result) error {
	fine := false
	for _, a := range r.Artifacts {
		switch {
		case a.Path == "ok.txt" && string(a.Content.Data) == "fine":
			fine = true
		case a.Error == "" || len(a.Content.Data) > 0:
			return fmt.Errorf("artifact %s came back: %.100q", a.Path, a.Content.Data)
		}
	}
	if !fine {
		return fmt.Errorf("the one plain file did not come back: %v", r.Artifacts)
	}
	return nil
}

func boundedArtifacts(r eval.Result) error {
	if most := eval.DefaultPolicy().MaxArtifacts; len(r.Artifacts) > most || !r.ArtifactsCut {
		return fmt.Errorf("%d artifacts, the rest cut: %v", len(r.Artifacts), r.ArtifactsCut)
	}
	return nil
}

// nothingBack checks that no zeros by the exabyte came back. Where a level
// limits the size of files, the file is empty.
func nothingBack(r eval.Result) error {
	if len(r.Artifacts) != 1 || r.Artifacts[0].Error == "" && r.Artifacts[0].Content.Bytes > 1<<20 {
		return fmt.Errorf("%d artifacts, and no error", len(r.Artifacts))
	}
	return nil
}

func source(language, code string, l eval.Limits) eval.Program {
	return eval.Program{Language: language, Code: eval.Bytes(code), Limits: l}
}

// kept checks how much of stdout there is.
func kept(want int64) func(eval.Result) error {
	return func(r eval.Result) error {
		if r.Stdout.Bytes != want {
			return fmt.Errorf("%d bytes of output were kept, not %d", r.Stdout.Bytes, want)
		}
		return nil
	}
}

func allBytes(r eval.Result) error {
	for i := range 256 {
		if len(r.Stdout.Data) <= i || r.Stdout.Data[i] != byte(i) {
			return fmt.Errorf("byte %d of the output was changed", i)
		}
	}
	if !bytes.Contains(r.Stdout.Data, []byte("\xff\xfe\xc3\x28\xed\xa0\x80\x1b[31mred\x1b]0;title\a\x00\x00\"\\\n")) {
		return fmt.Errorf("broken UTF-8 was changed")
	}
	return nil
}
