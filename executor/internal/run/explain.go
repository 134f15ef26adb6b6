package run

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/crucible-eval/crucible/executor/internal/lang"
	"github.com/crucible-eval/crucible/pkg/eval"
)

// explain says in a sentence what the verdict means.
func (o outcome) explain(l eval.Limits) string {
	if o.startError != "" {
		return fmt.Sprintf("The program could not be started: %s.", o.startError)
	}
	switch o.cause {
	case eval.CauseWall:
		return fmt.Sprintf("The program was stopped because it ran longer than its limit of %s ms.", grouped(l.WallMS))
	case eval.CauseCPU:
		return fmt.Sprintf("The program was stopped because it used more than its limit of %s ms of CPU time.", grouped(l.CPUMS))
	case eval.CauseOOM:
		return fmt.Sprintf("The program needed more than its limit of %s of memory.", size(l.MemoryBytes))
	case eval.CauseStdout, eval.CauseStderr:
		return fmt.Sprintf("The program was stopped because it wrote more than its limit of %s to %s.", size(l.OutputBytes), o.cause)
	case eval.CauseFileSize:
		return "The program was ended because a file that it wrote became too large."
	case eval.CauseDisk:
		return "The program was stopped because its files took more than its limit of " + size(l.DiskBytes) + ", or were too many."
	case eval.CauseProcesses:
		return fmt.Sprintf("The program was stopped because it had more than its limit of %d processes and threads.", l.Processes)
	case eval.CauseSignal:
		return strings.TrimSpace(explainSignal(o.usage.Signal) + " " + o.hint)
	case eval.CauseExitCode:
		if o.usage.ExitCode != nil {
			return strings.TrimSpace(explainExit(*o.usage.ExitCode) + " " + o.hint)
		}
	}
	return ""
}

func explainExit(code int) string {
	said := map[int]string{
		1:   "Exit code 1: the program reported an error, or an exception was not caught; stderr usually says which.",
		2:   "Exit code 2: the program reported an error; by convention, wrong usage.",
		124: "Exit code 124: by convention, a command inside ran into its own timeout.",
		125: "Exit code 125: by convention, a tool that runs another command failed itself.",
		126: "Exit code 126: by convention, a command was found but could not be executed.",
		127: "Exit code 127: by convention, a command was not found.",
	}
	if s, ok := said[code]; ok {
		return s
	}
	if code > 128 && code <= 128+64 {
		name := signalName(code - 128)
		if what := signalMeaning[name]; what != "" {
			return fmt.Sprintf("Exit code %d: by convention 128 + %d, a command inside was ended by %s (%s).", code, code-128, name, what)
		}
		return fmt.Sprintf("Exit code %d: by convention 128 + %d, a command inside was ended by %s.", code, code-128, name)
	}
	return fmt.Sprintf("The program ended with exit code %d.", code)
}

var signalMeaning = map[string]string{
	"SIGHUP": "hang-up", "SIGINT": "interrupted", "SIGQUIT": "quit", "SIGILL": "illegal instruction",
	"SIGTRAP": "trap", "SIGABRT": "aborted, for example by a failed assertion", "SIGBUS": "bad memory access",
	"SIGFPE": "arithmetic error, for example a division by zero", "SIGKILL": "killed",
	"SIGSEGV": "segmentation fault: memory that is not the program's, or a stack that is too deep",
	"SIGPIPE": "wrote to a closed pipe", "SIGALRM": "alarm", "SIGTERM": "terminated",
	"SIGXCPU": "too much CPU time", "SIGXFSZ": "file too large", "SIGSYS": "a system call that is forbidden here",
}

func explainSignal(name string) string {
	if what := signalMeaning[name]; what != "" {
		return fmt.Sprintf("The program was ended by signal %s (%s).", name, what)
	}
	return fmt.Sprintf("The program was ended by signal %s.", name)
}

func explainCompile(cause eval.Cause, t *lang.Toolchain) string {
	l := t.Compile.Limits
	switch cause {
	case eval.CauseCompileTime:
		return fmt.Sprintf("The compilation took longer than its limit of %s ms.", grouped(l.WallMS))
	case eval.CauseCompileMem:
		return fmt.Sprintf("The compilation needed more than its limit of %s of memory.", size(l.MemoryBytes))
	case eval.CauseCompileOut:
		return fmt.Sprintf("The compiler was stopped because its log exceeded %s.", size(l.OutputBytes))
	case eval.CauseDisk:
		return "The compiler filled the work folder."
	}
	return fmt.Sprintf("The %s compiler refused the program; compile.stderr and compile.stdout say why.", t.Name)
}

// grouped writes 12345678 as 12,345,678.
func grouped(n int64) string {
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

func size(n int64) string {
	switch {
	case n >= 1<<30 && n%(1<<30) == 0:
		return fmt.Sprintf("%d GiB", n>>30)
	case n >= 1<<20 && n%(1<<20) == 0:
		return fmt.Sprintf("%d MiB", n>>20)
	case n >= 1<<10 && n%(1<<10) == 0:
		return fmt.Sprintf("%d KiB", n>>10)
	}
	return grouped(n) + " bytes"
}
