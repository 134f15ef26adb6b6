package boxinit

import (
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/crucible-eval/crucible/executor/internal/sandbox/wire"
)

const (
	sampleEvery = 10 * time.Millisecond
	clockTick   = int64(10 * time.Millisecond) // USER_HZ is 100 on every Linux
)

// watched is whose processes a sampler adds up.
type watched struct {
	members    func() []int // all but this process
	kill       func()
	ownCPU     int64 // nanoseconds that are not the program's
	limitTasks int64 // processes and threads, where no resource limit counts them; 0: none
}

// everyone is what the first process of a pid namespace watches.
func everyone() watched {
	return watched{
		members: func() []int {
			return slices.DeleteFunc(numbered("/proc"), func(pid int) bool { return pid == 1 })
		},
		kill: func() { _ = unix.Kill(-1, unix.SIGKILL) },
	}
}

// sampler stands in for cgroups where there are none: it adds up what the
// box's processes hold and have used, and kills them all above a limit. It
// is an approximation, and reported as one: memory between two samples, and
// CPU of children whose parent ignores SIGCHLD, go unseen.
type sampler struct {
	watched
	quit, done chan struct{}
	limitBytes int64
	limitCPU   int64

	peakBytes, peakProcs, ended int64
}

func startSampler(cmd *wire.Command, of watched) *sampler {
	s := &sampler{
		watched: of, quit: make(chan struct{}), done: make(chan struct{}),
		limitBytes: cmd.SampleMemory, limitCPU: cmd.SampleCPU,
	}
	go s.loop()
	return s
}

// stop ends the sampling and writes what it saw into the report.
func (s *sampler) stop(ended *wire.Ended) {
	close(s.quit)
	<-s.done
	ended.Sampled = s.ended
	ended.MemoryPeak = max(s.peakBytes, ended.MaxRSS)
	ended.ProcsPeak = max(s.peakProcs, 1)
}

func (s *sampler) loop() {
	defer close(s.done)
	tick := time.NewTicker(sampleEvery)
	defer tick.Stop()
	for {
		now := s.sample()
		s.peakBytes, s.peakProcs = max(s.peakBytes, now.bytes), max(s.peakProcs, now.procs)
		switch {
		case s.ended != wire.SampledNothing:
		case s.limitBytes > 0 && now.bytes > s.limitBytes:
			s.ended = wire.SampledMemory
		case s.limitCPU > 0 && now.cpu > s.limitCPU:
			s.ended = wire.SampledCPU
		case s.limitTasks > 0 && now.tasks > s.limitTasks:
			s.ended = wire.SampledProcesses
		}
		if s.ended != wire.SampledNothing {
			s.kill()
		}
		select {
		case <-s.quit:
			return
		case <-tick.C:
		}
	}
}

// held is what all processes hold at one moment, and have used.
type held struct{ bytes, cpu, procs, tasks int64 }

// sample sums over every process of the box: memory in bytes, CPU time in
// nanoseconds, and their number. Pages that processes share count for each,
// unless the sum is above the limit: then it is taken again, with care,
// because that costs a walk through all page tables.
func (s *sampler) sample() held {
	now := held{cpu: -s.ownCPU}
	pids := s.members()
	for _, pid := range pids {
		now.procs++
		bytes, _ := sum(pid, "status", inProcess, inTables)
		now.bytes += bytes
		if f := statOf(pid); len(f) > 17 {
			now.cpu += (number(f[13]) + number(f[14])) * clockTick // of its children that ended
			now.tasks += number(f[17])
		}
		now.cpu += cpuClock(int64(pid))
	}
	if s.limitBytes > 0 && now.bytes > s.limitBytes {
		now.bytes = 0
		for _, pid := range pids {
			bytes, ok := sum(pid, "smaps_rollup", inShares)
			if !ok {
				bytes, _ = sum(pid, "status", inProcess)
			}
			tables, _ := sum(pid, "status", inTables)
			now.bytes += bytes + tables
		}
	}
	var usage unix.Rusage
	if unix.Getrusage(unix.RUSAGE_CHILDREN, &usage) == nil {
		now.cpu += usage.Utime.Nano() + usage.Stime.Nano()
	}
	return now
}

// Lines of /proc/PID/status and smaps_rollup: what a process holds, its share
// of that, and what the kernel needs to know where it is. Pages of files are
// not counted, except those of memory that is a file.
var (
	inProcess = []string{"RssAnon", "RssShmem", "VmSwap"}
	inShares  = []string{"Pss_Anon", "Pss_Shmem", "SwapPss"}
	inTables  = []string{"VmPTE"}
)

// sum adds up lines of a process's file of the form "Key:   123 kB", in bytes.
// A program's name, which is in there too, has no line end of its own.
func sum(pid int, file string, keys ...[]string) (bytes int64, ok bool) {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/" + file)
	if err != nil {
		return 0, false
	}
	for line := range strings.Lines(string(text)) {
		key, rest, _ := strings.Cut(line, ":")
		for _, list := range keys {
			if slices.Contains(list, key) {
				bytes += number(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB"))) << 10
			}
		}
	}
	return bytes, true
}

// cpuClock is what a process used, in nanoseconds, where its stat file has it
// in ticks. The clock's id is that of MAKE_PROCESS_CPUCLOCK with
// CPUCLOCK_SCHED in the kernel's include/linux/posix-timers_types.h.
func cpuClock(pid int64) int64 {
	var ts unix.Timespec
	if unix.ClockGettime(int32(^pid<<3|2), &ts) != nil {
		return 0
	}
	return ts.Nano()
}

func number(s string) int64 {
	n, _ := strconv.ParseInt(s, 10, 64)
	return n
}
