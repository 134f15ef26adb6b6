package abuse

import (
	"fmt"

	"github.com/crucible-eval/crucible/pkg/eval"
)

func processCases() []Case {
	short := eval.Limits{WallMS: 300, CPUMS: 10_000, Processes: 32}
	return []Case{
		{
			Name: "fork bomb", Does: "every process forks for ever", Program: hostile(short, "fork-bomb"),
			Want: byWall.and(processes(33)),
			At:   atGVisor(byWall),
		},
		{
			Name: "fork and exit chain", Does: "each process burns 2 ms, forks and exits",
			Program: hostile(eval.Limits{WallMS: 5000, CPUMS: 150}, "fork-chain"),
			Want:    byCPU,
		},
		{
			Name: "daemon", Does: "forks twice into a session of its own, and main exits with 0",
			Program: hostile(ordinary, "daemon"), Want: refused.and(soon),
		},
		{
			Name: "thread bomb", Does: "starts threads until the kernel refuses one, which ends a Go program with code 2",
			Program: hostile(ordinary, "thread-bomb"), Want: failed,
		},
		{Name: "zombies", Does: "leaves dead children that nobody waits for", Program: hostile(ordinary, "zombies"), Want: refused},
		{Name: "orphans", Does: "leaves 1,500 orphans for init to bury", Program: hostile(ordinary, "orphans"), Want: refused, At: atGVisor(refused.or(byWall))},
		{
			Name: "vfork and stop", Does: "waits in the kernel for a child that stopped itself",
			Program: hostile(short, "vfork-stop"), Want: byWall,
		},
		{Name: "subreaper", Does: "collects orphans instead of init, and exits with them alive", Program: hostile(ordinary, "subreaper"), Want: refused.and(soon)},
		{
			Name: "siblings", Does: "clones siblings that exit with 77 before main does, by CLONE_PARENT",
			Program: hostile(ordinary, "clone-parent"), Want: refused,
		},
		{
			Name: "survivor", Does: "leaves a child without a death signal, deaf to signals, that spins",
			Program: hostile(ordinary, "pdeathsig"), Want: refused.and(soon),
		},
		{
			Name: "CPU in children", Does: "eight children spin, and main sleeps",
			Program: hostile(eval.Limits{WallMS: 5000, CPUMS: 200}, "spin-children"), Want: byCPU,
		},
		{Name: "sleep", Does: "sleeps for ever", Program: hostile(short, "sleep"), Want: byWall.and(wallWithin(300, 50)), Least: "none"},
		{Name: "far clock", Does: "sleeps until a time that no clock reaches", Program: hostile(short, "sleep-far"), Want: byWall, Least: "none"},
		{Name: "exit code 256 + 7", Does: "exits with more than a byte", Program: hostile(ordinary, "exit", "263"), Want: failed.and(exitCode(7)), Least: "none"},
		{Name: "exit code -1", Does: "exits with all bits set", Program: hostile(ordinary, "exit", "-1"), Want: failed.and(exitCode(255)), Least: "none"},
		{Name: "interpreter loop", Does: "scripts whose interpreters are each other", Program: hostile(ordinary, "shebang-loop"), Want: refused},
		{Name: "malformed programs", Does: "executes headers that a careless loader believes", Program: hostile(ordinary, "malformed-elf"), Want: refused},
		{
			Name: "wide arguments", Does: "executes itself with up to 40 MB of arguments",
			Program: hostile(ordinary, "wide-argv"), Want: refused.or(byMemory),
		},
	}
}

func signalCases() []Case {
	short := eval.Limits{WallMS: 300, CPUMS: 10_000}
	return []Case{
		{
			Name: "deaf and busy", Does: "blocks every signal and spins",
			Program: hostile(eval.Limits{WallMS: 5000, CPUMS: 150}, "ignore-signals"), Want: byCPU,
		},
		{Name: "stopped", Does: "stops itself with SIGSTOP", Program: hostile(short, "stop-self"), Want: byWall, Least: "none"},
		{Name: "kill -1", Does: "kills and stops every process that it may", Program: hostile(ordinary, "kill-all"), Want: refused},
		{
			Name: "signals to init", Does: "sends every signal to process 1 and its threads, in four ways",
			Program: hostile(ordinary, "signal-init"), Want: refused,
		},
		{
			Name: "own group", Does: "kills its own process group",
			Program: hostile(ordinary, "kill-own-group"), Want: signalled("SIGKILL"),
		},
		{Name: "own SIGKILL", Does: "kills itself, which must not look like a lack of memory", Program: hostile(ordinary, "raise", "9"), Want: signalled("SIGKILL"), Least: "none"},
		{Name: "own SIGSYS", Does: "ends by the signal of a filter", Program: hostile(ordinary, "raise", "31"), Want: signalled("SIGSYS")},
		{Name: "own SIGXCPU", Does: "ends by the signal of a CPU limit", Program: hostile(ordinary, "raise", "24"), Want: signalled("SIGXCPU")},
		{Name: "own real-time signal", Does: "ends by signal 40", Program: hostile(ordinary, "raise", "40"), Want: Promise{Outcomes: []Outcome{{eval.RuntimeError, eval.CauseSignal, ""}}}},
		{Name: "queued signals", Does: "queues signals that wait for ever", Program: hostile(ordinary, "queue-signals"), Want: refused},
		{Name: "timers", Does: "creates timers of a microsecond until they are refused", Program: hostile(eval.Limits{WallMS: 500}, "hoard-timers"), Want: refused.or(byWall, byCPU)},
		{
			Name: "limits and priorities", Does: "raises its own limits and priority, and asks for real time",
			Program: hostile(ordinary, "raise-limits"), Want: refused,
			At: atGVisor(virtual),
		},
	}
}

// processes checks the most processes at once.
func processes(most int64) func(eval.Result) error {
	return func(r eval.Result) error {
		if r.Processes > most {
			return fmt.Errorf("%d processes at once, and %d are allowed", r.Processes, most)
		}
		return nil
	}
}

// soon checks that the result did not wait for what was left behind.
func soon(r eval.Result) error {
	if r.WallMS > 5000 {
		return fmt.Errorf("the result came after %.0f ms", r.WallMS)
	}
	return nil
}

// wallWithin checks that a program was ended at its limit, and little later.
// A machine that is busy may be late; the exactness itself has tests of its own.
func wallWithin(limit, late float64) func(eval.Result) error {
	return func(r eval.Result) error {
		if r.WallMS < limit || r.WallMS > limit+20*late {
			return fmt.Errorf("ended after %.1f ms, the limit being %.0f", r.WallMS, limit)
		}
		return nil
	}
}

func exitCode(want int) func(eval.Result) error {
	return func(r eval.Result) error {
		if r.ExitCode == nil || *r.ExitCode != want {
			return fmt.Errorf("the exit code is not %d", want)
		}
		return nil
	}
}
