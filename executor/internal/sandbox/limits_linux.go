package sandbox

import (
	"fmt"
	"math"
	"time"

	"golang.org/x/sys/unix"

	"github.com/crucible-eval/crucible/executor/internal/sandbox/wire"
)

// check refuses limits that mean nothing, and fills in the defaults.
func (l *Limits) check() error {
	if l.Wall < 0 || l.CPU < 0 || l.MemoryBytes < 0 || l.Processes < 0 || l.FileBytes < 0 ||
		l.OpenFiles < 0 || l.StackBytes < 0 || l.OutputBytes < 0 {
		return fmt.Errorf("%w: a limit is negative", ErrCommand)
	}
	l.Wall = orDefault(l.Wall, 10*time.Second)
	l.MemoryBytes = orDefault(l.MemoryBytes, 256<<20)
	l.Processes = orDefault(l.Processes, 64)
	l.OpenFiles = orDefault(l.OpenFiles, 256)
	l.StackBytes = min(orDefault(l.StackBytes, 64<<20), l.MemoryBytes)
	l.OutputBytes = orDefault(l.OutputBytes, 1<<20)
	if l.MemoryBytes < 1<<20 {
		return fmt.Errorf("%w: a memory limit of %d bytes is too small for any program", ErrCommand, l.MemoryBytes)
	}
	return nil
}

func orDefault[T ~int | ~int64](v, def T) T {
	if v == 0 {
		return def
	}
	return v
}

// dataSlack is how much more than its memory limit one process may map
// privately where sampling stands in for a cgroup: runtimes map much that they
// never touch, stacks of threads above all, and the sampler counts what is
// touched.
const dataSlack = 4 << 30

// rlimits are what the kernel keeps per process. exact says that a cgroup
// bounds the memory of the whole box.
func (l *Limits) rlimits(exact bool) []wire.Rlimit {
	list := []wire.Rlimit{
		{Resource: unix.RLIMIT_CORE, Value: 0},
		{Resource: unix.RLIMIT_NOFILE, Value: int64(l.OpenFiles)},
		{Resource: unix.RLIMIT_STACK, Value: l.StackBytes},
		{Resource: unix.RLIMIT_MEMLOCK, Value: 64 << 10},
		{Resource: unix.RLIMIT_MSGQUEUE, Value: 0}, // queues are kernel memory beyond their maker's life
		{Resource: unix.RLIMIT_SIGPENDING, Value: 1024},
		{Resource: unix.RLIMIT_NICE, Value: 0},
		{Resource: unix.RLIMIT_RTPRIO, Value: 0},
	}
	if l.FileBytes > 0 {
		list = append(list, wire.Rlimit{Resource: unix.RLIMIT_FSIZE, Value: l.FileBytes})
	}
	if l.CPU > 0 {
		// Per process, in whole seconds: a backstop, never the one that tells.
		list = append(list, wire.Rlimit{Resource: unix.RLIMIT_CPU, Value: int64(math.Ceil(l.CPU.Seconds())) + 1})
	}
	if !exact {
		list = append(list, wire.Rlimit{Resource: unix.RLIMIT_DATA, Value: l.MemoryBytes + dataSlack})
	}
	return list
}
