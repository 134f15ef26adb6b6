package eval

import (
	"context"
	"slices"
	"strings"
	"time"
)

// Request asks a Runner for one attempt at running a program.
type Request struct {
	ID      ID  `json:"id"`
	Attempt int `json:"attempt"` // from 1
	// Client is for whom the program runs, at most MaxClientBytes: programs of
	// different clients share no interpreter. Empty: one client without a name.
	Client string `json:"client,omitempty"`
	// Exclusive asks for a run beside which no other runs: see
	// [Evaluation.Suspect].
	Exclusive bool `json:"exclusive,omitempty"`
	// Silence is how long the run goes on when nothing is heard of its caller,
	// though the connection is open: shorter than the lease under which the
	// caller holds the attempt. 0, or in one process: the run lives as long as
	// the connection. Otherwise at least MinSilence.
	Silence Duration `json:"silence,omitempty"`
	Program
}

// MinSilence is the least [Request.Silence]: words travel and may be late.
const MinSilence = Duration(time.Second)

// RunEventType names what a run event says.
type RunEventType string

const (
	RunAdmitted RunEventType = "admitted" // on the wire only: the run is taken on; losing the executor from here on may be the program's doing
	RunStarted  RunEventType = "started"  // the program's first process is about to start; after compilation
	RunStdout   RunEventType = "stdout"   // Data was written to stdout
	RunStderr   RunEventType = "stderr"   // Data was written to stderr
	RunFinished RunEventType = "finished" // on the wire only: the result follows
)

// RunEvent is something that happened while a program ran.
type RunEvent struct {
	Type RunEventType `json:"type"`
	Data Bytes        `json:"data,omitempty"`
	At   time.Time    `json:"at"`
}

// Runner runs programs in a sandbox.
type Runner interface {
	// Run runs the program once and returns what it did. sink, when not nil,
	// gets events in order from one goroutine at a time: every byte of
	// stdout and stderr that the result counts, as it comes (without tests;
	// with tests only started). Run returns after the last call of sink. A
	// slow sink does not slow the program. The result holds each stream
	// whole in Data, up to output_bytes.
	//
	// When ctx ends, everything that runs is killed and Run returns the
	// partial result together with an error that wraps ctx's cause.
	//
	// A program that crashes, exceeds a limit, does not compile or does
	// nothing is a Result. An error means that the platform failed, or that
	// the request can never run:
	//   - KindInvalid: the request is refused (unknown language, bad path...)
	//   - KindFull: no slot is free; RetryAfter says when to come back
	//   - KindStopping: the executor is shutting down
	//   - KindConflict: a higher attempt of this id has been seen
	//   - KindIsolation: the sandbox is weaker than min_isolation
	//   - KindSandbox: the sandbox could not start, or broke
	//   - KindUnavailable: the executor cannot be reached
	//   - KindExecutorLost: the connection was cut after the run had been taken on
	// An exclusive request may wait up to a minute, until nothing else runs.
	// A request with a higher attempt than a run of the same id kills that
	// run, which then returns KindConflict.
	Run(ctx context.Context, req Request, sink func(RunEvent)) (Result, error)
}

// Executor is a Runner that can say what it offers.
type Executor interface {
	Runner
	// Status returns what the executor is and does now. KindUnavailable.
	Status(ctx context.Context) (ExecutorStatus, error)
	// Stop kills the run with this id. KindNotFound when there is none.
	Stop(ctx context.Context, id ID) error
}

// ExecutorStatus describes an executor.
type ExecutorStatus struct {
	Name    string `json:"name"` // host and process
	Version string `json:"version"`
	Load
	Running []RunningInfo `json:"running"` // the runs under way, the oldest first
	// Problem says why no run is taken on now, though the executor answers;
	// empty: it is well.
	Problem   string     `json:"problem,omitempty"`
	Isolation Isolation  `json:"isolation"`
	Languages []Language `json:"languages"`
	// LanguagesProblem says why changed language files were not taken over;
	// Languages are then those of before.
	LanguagesProblem string `json:"languages_problem,omitempty"`
}

// Language is a language as an executor found it.
type Language struct {
	ID         string   `json:"id"`
	Name       string   `json:"name"`
	Aliases    []string `json:"aliases,omitempty"`
	Extensions []string `json:"extensions,omitempty"` // with the dot
	SourceFile string   `json:"source_file"`          // what the code is named
	Compiled   bool     `json:"compiled"`
	Available  bool     `json:"available"`          // its toolchain is here and the smoke test passed
	Checking   bool     `json:"checking,omitempty"` // not known yet: a run waits for the outcome
	Version    string   `json:"version,omitempty"`  // as the toolchain says it; the one that runs unless another is asked for
	Versions   []string `json:"versions,omitempty"` // all that can be asked for, the default first
	Problem    string   `json:"problem,omitempty"`  // why it is not available
	Example    string   `json:"example,omitempty"`  // a program that prints hello
}

// Offered reports whether a program in this language may be accepted.
func (l Language) Offered() bool { return l.Available || l.Checking }

// MatchVersion returns the first of versions that is want, or begins with it
// up to the end of a number: 3.1 is 3.1.4 and not 3.11.7.
func MatchVersion(versions []string, want string) (index int, ok bool) {
	i := slices.IndexFunc(versions, func(v string) bool {
		rest, begins := strings.CutPrefix(v, want)
		return begins && want != "" && (rest == "" || rest[0] < '0' || rest[0] > '9')
	})
	return i, i >= 0
}
