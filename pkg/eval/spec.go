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
	// MinIsolation refuses a run (503) in a sandbox weaker than this level.
	MinIsolation string `json:"min_isolation,omitempty"`
}

// Test is one case: the program is compiled once and run for each.
// The expected output never enters the sandbox.
type Test struct {
	Name           string   `json:"name,omitempty"`
	Stdin          Bytes    `json:"stdin,omitempty"`
	Args           []string `json:"args,omitempty"`            // in place of the program's
	ExpectedStdout *Bytes   `json:"expected_stdout,omitempty"` // nil: only the exit code counts
	Checker        Checker  `json:"checker,omitempty"`         // default: lines
}

// Checker names how a test's stdout is compared with the expected one.
type Checker string

const (
	CheckExact  Checker = "exact"  // byte for byte
	CheckLines  Checker = "lines"  // line by line; white space at line ends and empty lines at the end do not count
	CheckTokens Checker = "tokens" // the words between white space
)

// Checkers lists every checker.
func Checkers() []Checker { return []Checker{CheckExact, CheckLines, CheckTokens} }

// Spec is what a client asks for: a program, and how to treat it.
type Spec struct {
	Program
	Priority    Priority   `json:"priority,omitempty"`     // default: default
	RetryPolicy string     `json:"retry_policy,omitempty"` // one of RetryPolicies; default: default
	Tags        []string   `json:"tags,omitempty"`
	RunAt       *time.Time `json:"run_at,omitempty"` // not before this time
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
