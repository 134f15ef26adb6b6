package eval

import (
	"slices"
	"time"
)

// Program is what an executor needs to know: the code, its input, its limits.
// The code is either Code (one file, named by the language) or Files with an
// Entrypoint.
type Program struct {
	Language   string            `json:"language"`             // id or alias of a language, as in GET /languages
	Version    string            `json:"version,omitempty"`    // of the language, or its beginning: 3.11 for 3.11.7; default: the executor's first
	Code       Bytes             `json:"code,omitempty"`       // the program, when it is one file
	Files      map[string]Bytes  `json:"files,omitempty"`      // relative path -> content
	Entrypoint string            `json:"entrypoint,omitempty"` // which of Files starts; may be left out when there is one
	Stdin      Bytes             `json:"stdin,omitempty"`
	Args       []string          `json:"args,omitempty"`
	Env        map[string]string `json:"env,omitempty"`
	Limits     Limits            `json:"limits,omitzero"` // zero fields take the server's defaults
	Tests      []Test            `json:"tests,omitempty"` // when there are any, the program runs once per test

	// Of tests: what checks those that do not say; whether those after the
	// first failure are skipped; and how many may run at once, where the
	// executor has slots that nobody else waits for (0 is 1).
	Checker       Checker `json:"checker,omitzero"`
	StopOnFailure bool    `json:"stop_on_failure,omitempty"`
	Parallel      int     `json:"parallel,omitempty"`

	// Artifacts are the files to bring back from the work folder when the
	// program has ended. Not together with tests.
	Artifacts []Pattern `json:"artifacts,omitempty"`
	// MinIsolation refuses a run (503) in a sandbox weaker than this level.
	MinIsolation string `json:"min_isolation,omitempty"`
	// Warm is as far as the executor may go to spare the interpreter's start;
	// never further than the executor's own setting. Empty: that far.
	Warm Warm `json:"warm,omitempty"`
}

// Test is one case: the program is compiled once and run for each.
// The expected output never enters the sandbox.
type Test struct {
	Name           string   `json:"name,omitempty"`
	Stdin          Bytes    `json:"stdin,omitempty"`
	Args           []string `json:"args,omitempty"`            // in place of the program's
	ExpectedStdout *Bytes   `json:"expected_stdout,omitempty"` // nil: only the exit code counts, and what a checker program says
	Checker        Checker  `json:"checker,omitzero"`          // default: the program's, or lines
	Limits         Limits   `json:"limits,omitzero"`           // zero: the program's; zero fields take the program's
}

// MaxParallel bounds Program.Parallel.
const MaxParallel = 64

// LimitsOf returns the limits of a test: its own, or the program's.
func (p Program) LimitsOf(t Test) Limits {
	if t.Limits != (Limits{}) {
		return t.Limits
	}
	return p.Limits
}

// Longest is how long the program may run at most, with all of its tests one
// after another and their checkers; without what is compiled.
func (p Program) Longest() time.Duration {
	if len(p.Tests) == 0 {
		return p.Limits.Wall()
	}
	var sum time.Duration
	for _, t := range p.Tests {
		sum += p.LimitsOf(t).Wall()
		if c := p.CheckerOf(t); c.Type == CheckProgram {
			sum += c.Limits.Wall()
		}
	}
	return sum
}

// Spec is what a client asks for: a program, and how to treat it.
type Spec struct {
	Program
	Priority    Priority   `json:"priority,omitempty"`     // default: default
	RetryPolicy string     `json:"retry_policy,omitempty"` // one of RetryPolicies; default: default
	Tags        []string   `json:"tags,omitempty"`
	RunAt       *time.Time `json:"run_at,omitempty"` // not before this time
	// ExpiresIn fails the evaluation when it has not ended this long after it
	// was accepted, or after RunAt. 0: never.
	ExpiresIn Duration `json:"expires_in,omitempty"`
	// CallbackURL gets the evaluation when it has ended.
	CallbackURL string `json:"callback_url,omitempty"`
}

// Priority names the queue that an evaluation waits in.
type Priority string

const (
	PriorityCritical Priority = "critical"
	PriorityHigh     Priority = "high"
	PriorityDefault  Priority = "default"
	PriorityLow      Priority = "low"
)

// Priorities lists every priority, the most urgent first.
func Priorities() []Priority {
	return []Priority{PriorityCritical, PriorityHigh, PriorityDefault, PriorityLow}
}

// Valid reports whether p is one of [Priorities].
func (p Priority) Valid() bool { return slices.Contains(Priorities(), p) }
