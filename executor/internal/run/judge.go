package run

import (
	"time"

	"golang.org/x/sys/unix"

	"github.com/crucible-eval/crucible/executor/internal/sandbox"
	"github.com/crucible-eval/crucible/pkg/eval"
)

// judge turns a report into a verdict.
func judge(rep sandbox.Report) (eval.Verdict, eval.Cause) {
	switch rep.Limit {
	case sandbox.LimitWall:
		return eval.TimeLimit, eval.CauseWall
	case sandbox.LimitCPU:
		return eval.TimeLimit, eval.CauseCPU
	case sandbox.LimitMemory:
		return eval.MemoryLimit, eval.CauseOOM
	case sandbox.LimitStdout:
		return eval.OutputLimit, eval.CauseStdout
	case sandbox.LimitStderr:
		return eval.OutputLimit, eval.CauseStderr
	case sandbox.LimitFileSize:
		return eval.RuntimeError, eval.CauseFileSize
	case sandbox.LimitDisk:
		return eval.RuntimeError, eval.CauseDisk
	case sandbox.LimitProcesses:
		return eval.RuntimeError, eval.CauseProcesses
	}
	switch {
	case rep.Signal != 0:
		return eval.RuntimeError, eval.CauseSignal
	case rep.ExitCode != 0:
		return eval.RuntimeError, eval.CauseExitCode
	}
	return eval.Accepted, ""
}

// usage is what a report says of the end and the resources.
func usage(rep sandbox.Report) eval.Usage {
	u := eval.Usage{
		WallMS: milliseconds(rep.Wall), CPUMS: milliseconds(rep.CPU),
		MemoryPeakBytes: rep.MemoryPeak, Processes: int64(rep.ProcessesPeak),
	}
	if rep.Signal != 0 {
		u.Signal = signalName(rep.Signal)
	} else if rep.ExitCode >= 0 {
		u.ExitCode = &rep.ExitCode
	}
	return u
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func signalName(n int) string {
	if name := unix.SignalName(unix.Signal(n)); name != "" {
		return name
	}
	return realTime(n)
}
