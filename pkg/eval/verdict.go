package eval

import "slices"

// Verdict says what the program did. It is set only on a completed
// evaluation, and on each test case.
type Verdict string

const (
	Accepted     Verdict = "accepted"      // exit code 0, and every test passed
	WrongAnswer  Verdict = "wrong_answer"  // a test's output is not the expected one
	CompileError Verdict = "compile_error" // the compiler refused, or exceeded its limits
	RuntimeError Verdict = "runtime_error" // exit code other than 0, or ended by a signal
	TimeLimit    Verdict = "time_limit"    // wall or CPU time used up
	MemoryLimit  Verdict = "memory_limit"  // the kernel's OOM counter says so
	OutputLimit  Verdict = "output_limit"  // a stream exceeded its limit
	// CheckerError: a test's checker program failed, so that nobody knows
	// whether the output is right. The cause is the checker's.
	CheckerError Verdict = "checker_error"
	// Skipped: the test was not run. It is a test's only, and no evaluation's.
	Skipped Verdict = "skipped"
)

// Verdicts lists every verdict of an evaluation.
func Verdicts() []Verdict {
	return []Verdict{Accepted, WrongAnswer, CompileError, RuntimeError, TimeLimit, MemoryLimit, OutputLimit, CheckerError}
}

// Valid reports whether v is one of [Verdicts].
func (v Verdict) Valid() bool { return slices.Contains(Verdicts(), v) }

// Cause says which limit or which end led to a verdict.
type Cause string

const (
	CauseExitCode    Cause = "exit_code"      // runtime_error: see exit_code
	CauseSignal      Cause = "signal"         // runtime_error: see signal
	CauseCPU         Cause = "cpu"            // time_limit
	CauseWall        Cause = "wall"           // time_limit
	CauseOOM         Cause = "oom"            // memory_limit
	CauseStdout      Cause = "stdout"         // output_limit
	CauseStderr      Cause = "stderr"         // output_limit
	CauseFileSize    Cause = "file_size"      // runtime_error: SIGXFSZ
	CauseDisk        Cause = "disk"           // compile_error: the work folder was full; runtime_error: a run was ended for it
	CauseProcesses   Cause = "processes"      // runtime_error: ended for too many; where the kernel refuses them, it is not
	CauseCompile     Cause = "compiler"       // compile_error: the compiler said no
	CauseCompileTime Cause = "compile_time"   // compile_error: its time was used up
	CauseCompileMem  Cause = "compile_memory" // compile_error: its memory was used up
	CauseCompileOut  Cause = "compile_output" // compile_error: its log exceeded the limit
	CauseTest        Cause = "test"           // wrong_answer: see tests
)
