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

// sampler stands in for cgroups where there are none: it adds up what the
// box's processes hold and have used, and kills them all above a limit. It
// is an approximation, and reported as one: memory between two samples, and
// CPU of children whose parent ignores SIGCHLD, go unseen.
type sampler struct {
	quit, done chan struct{}
	limitBytes int64
	limitCPU   int64

	peakBytes, peakProcs, ended int64
}

func startSampler(cmd *wire.Command) *sampler {
	s := &sampler{
		quit: make(chan struct{}), done: make(chan struct{}),
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
		bytes, cpu, procs := sampleAll(s.limitBytes)
		s.peakBytes, s.peakProcs = max(s.peakBytes, bytes), max(s.peakProcs, procs)
		switch {
		case s.ended != wire.SampledNothing:
		case s.limitBytes > 0 && bytes > s.limitBytes:
			s.ended = wire.SampledMemory
		case s.limitCPU > 0 && cpu > s.limitCPU:
			s.ended = wire.SampledCPU
		}
		if s.ended != wire.SampledNothing {
			_ = unix.Kill(-1, unix.SIGKILL)
		}
		select {
		case <-s.quit:
			return
		case <-tick.C:
		}
	}
}

// sampleAll sums over every process of the box except this one: memory in
// bytes, CPU time in nanoseconds, and their number. Pages that processes share
// count for each, unless the sum is above limit: then it is taken again, with
// care, because that costs a walk through all page tables.
func sampleAll(limit int64) (bytes, cpu, procs int64) {
	dir, err := os.Open("/proc")
	if err != nil {
		return 0, 0, 0
	}
	names, _ := dir.Readdirnames(-1)
	_ = dir.Close()
	names = slices.DeleteFunc(names, func(name string) bool { return name[0] < '0' || name[0] > '9' || name == "1" })
	for _, name := range names {
		held, _ := sum("/proc/"+name+"/status", inProcess, inTables)
		bytes += held
		if stat, err := os.ReadFile("/proc/" + name + "/stat"); err == nil {
			// The name in parentheses may hold anything: fields count from after it.
			text := string(stat)
			if f := strings.Fields(text[strings.LastIndexByte(text, ')')+1:]); len(f) > 14 {
				cpu += (number(f[13]) + number(f[14])) * clockTick // of its children that ended
			}
		}
		cpu += cpuClock(number(name))
	}
	if limit > 0 && bytes > limit {
		bytes = 0
		for _, name := range names {
			held, ok := sum("/proc/"+name+"/smaps_rollup", inShares)
			if !ok {
				held, _ = sum("/proc/"+name+"/status", inProcess)
			}
			tables, _ := sum("/proc/"+name+"/status", inTables)
			bytes += held + tables
		}
	}
	var usage unix.Rusage
	if unix.Getrusage(unix.RUSAGE_CHILDREN, &usage) == nil {
		cpu += usage.Utime.Nano() + usage.Stime.Nano()
	}
	return bytes, cpu, int64(len(names))
}

// Lines of /proc/PID/status and smaps_rollup: what a process holds, its share
// of that, and what the kernel needs to know where it is. Pages of files are
// not counted, except those of memory that is a file.
var (
	inProcess = []string{"RssAnon", "RssShmem", "VmSwap"}
	inShares  = []string{"Pss_Anon", "Pss_Shmem", "SwapPss"}
	inTables  = []string{"VmPTE"}
)

// sum adds up lines of a file of the form "Key:   123 kB", in bytes. A
// program's name, which is in there too, has no line end of its own.
func sum(file string, keys ...[]string) (bytes int64, ok bool) {
	text, err := os.ReadFile(file)
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
