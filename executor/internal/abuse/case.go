package abuse

import (
	"fmt"
	"slices"
	"strings"

	"github.com/crucible-eval/crucible/pkg/eval"
)

// Hostile is the language of the programs of package hostile: its arguments
// say which one.
const Hostile = "hostile"

// Planted is the same language with a compilation, which leaves traps for
// the run.
const Planted = "planted"

// Case is one attack.
type Case struct {
	Name  string
	Class Class
	Does  string // what the program does, as a half-sentence

	// Program is what is run. In its arguments and files, ${tcp}, ${unix} and
	// ${file} stand for a server, an abstract socket and a secret file of the
	// host.
	Program eval.Program
	// Before, when it is not nil, is run to its end before, in a box of its own.
	Before []string

	Want Promise
	// At is what a level promises instead; a level that is not named and is
	// not weaker than Least promises Want.
	At map[string]Promise
	// Least is the weakest level that promises anything; Open says why weaker
	// ones do not, and there the case is not run. Empty: landlock.
	Least, Open string
}

// Promise is what must come out. At least one of Outcomes holds.
type Promise struct {
	Outcomes []Outcome
	Says     string // what stdout must end with, but for white space
	Check    func(eval.Result) error
	// Means is what the page says instead of the outcomes.
	Means string
	// Not, when set, is why this level makes no promise. The case is not run.
	Not string
}

// Outcome is a verdict with its cause.
type Outcome struct {
	Verdict eval.Verdict
	Cause   eval.Cause
	Signal  string // as in a result; empty: any or none
}

func (o Outcome) String() string {
	s := string(o.Verdict)
	if o.Cause != "" {
		s += ", " + string(o.Cause)
	}
	if o.Signal != "" {
		s += " " + o.Signal
	}
	return s
}

func (p Promise) String() string {
	switch {
	case p.Not != "":
		return "no promise: " + p.Not
	case p.Means != "":
		return p.Means
	case p.Says == contained:
		s := contained
		if len(p.Outcomes) > 1 {
			s += ", or " + joined(p.Outcomes[1:])
		}
		return s
	}
	return joined(p.Outcomes)
}

func joined(all []Outcome) string {
	words := make([]string, len(all))
	for i, o := range all {
		words[i] = o.String()
	}
	return strings.Join(words, ", or ")
}

// Hold tells how a result breaks the promise.
func (p Promise) Hold(r eval.Result) error {
	got := Outcome{r.Verdict, r.Cause, r.Signal}
	held := slices.ContainsFunc(p.Outcomes, func(o Outcome) bool {
		return o.Verdict == got.Verdict && o.Cause == got.Cause && (o.Signal == "" || o.Signal == got.Signal)
	})
	if !held {
		return fmt.Errorf("got %s, not %s", got, joined(p.Outcomes))
	}
	if r.Verdict == p.Outcomes[0].Verdict && !strings.HasSuffix(strings.TrimSpace(string(r.Stdout.Data)), p.Says) {
		return fmt.Errorf("its output does not end with %q", p.Says)
	}
	if p.Check != nil {
		return p.Check(r)
	}
	return nil
}

// Promised is what the case promises at a level. A promise that is Not made
// says why.
func (c Case) Promised(level string) Promise {
	if p, ok := c.At[level]; ok {
		return p
	}
	levels := eval.IsolationLevels()
	least := c.Least
	if least == "" {
		least = "landlock"
	}
	if slices.Index(levels, level) > slices.Index(levels, least) {
		why := c.Open
		if why == "" {
			why = unsafe
		}
		return Promise{Not: why}
	}
	return c.Want
}

// contained is what a hostile program prints last when all was refused.
const contained = "contained"

// What comes out, by name.
var (
	refused    = Promise{Outcomes: []Outcome{{Verdict: eval.Accepted}}, Says: contained}
	harmless   = Promise{Outcomes: []Outcome{{Verdict: eval.Accepted}}}
	byWall     = ended(eval.TimeLimit, eval.CauseWall)
	byCPU      = ended(eval.TimeLimit, eval.CauseCPU)
	byMemory   = ended(eval.MemoryLimit, eval.CauseOOM)
	byDisk     = ended(eval.RuntimeError, eval.CauseDisk)
	byStdout   = ended(eval.OutputLimit, eval.CauseStdout)
	byStderr   = ended(eval.OutputLimit, eval.CauseStderr)
	failed     = ended(eval.RuntimeError, eval.CauseExitCode)
	uncompiled = ended(eval.CompileError, eval.CauseCompile)
)

// virtual is what comes out where gVisor's own kernel grants what ours
// refuses: it is of that kernel, and ends with the box.
var virtual = Promise{
	Outcomes: []Outcome{{eval.RuntimeError, eval.CauseExitCode, ""}, {Verdict: eval.Accepted}},
	Means:    "granted in part, by gVisor's own kernel, which ends with the box",
}

func atGVisor(p Promise) map[string]Promise { return map[string]Promise{"gvisor": p} }

func ended(v eval.Verdict, c eval.Cause) Promise {
	return Promise{Outcomes: []Outcome{{Verdict: v, Cause: c}}}
}

func signalled(name string) Promise {
	return Promise{Outcomes: []Outcome{{eval.RuntimeError, eval.CauseSignal, name}}}
}

// or accepts the outcomes of others too.
func (p Promise) or(others ...Promise) Promise {
	p.Outcomes = slices.Clone(p.Outcomes)
	for _, o := range others {
		p.Outcomes = append(p.Outcomes, o.Outcomes...)
	}
	return p
}

// and checks more.
func (p Promise) and(check func(eval.Result) error) Promise {
	p.Check = check
	return p
}

// Cases are all attacks, class by class.
func Cases() []Case {
	return slices.Concat(
		of(Processes, processCases()), of(Signals, signalCases()), of(Memory, memoryCases()), of(Output, outputCases()),
		of(Files, fileCases()), of(Host, hostCases()), of(Calls, callCases()), of(Network, networkCases()), of(Compilers, compileCases()),
	)
}

func of(class Class, cases []Case) []Case {
	for i := range cases {
		cases[i].Class = class
	}
	return cases
}

// hostile is a run of one of the programs of package hostile.
func hostile(l eval.Limits, args ...string) eval.Program {
	return eval.Program{Language: Hostile, Code: eval.Bytes("-"), Args: args, Limits: l}
}

// limits of a run that is expected to end by itself.
var ordinary = eval.Limits{WallMS: 10_000, MemoryBytes: 128 << 20}
