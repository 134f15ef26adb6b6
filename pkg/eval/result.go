package eval

import (
	"encoding/json"
	"fmt"
	"slices"
)

// Result is what the program did. Times are in milliseconds with fractions.
type Result struct {
	Verdict Verdict `json:"verdict"`
	Cause   Cause   `json:"cause,omitempty"`
	Usage
	Stdout Stream `json:"stdout"`
	Stderr Stream `json:"stderr"`
	// Explanation says in a sentence what the exit code, signal or limit
	// means; empty when accepted.
	Explanation string       `json:"explanation,omitempty"`
	Compile     *Phase       `json:"compile,omitempty"` // languages that are compiled
	Tests       []TestResult `json:"tests,omitempty"`   // one for each test, in order
	Artifacts   []Artifact   `json:"artifacts,omitempty"`
	// ArtifactsCut says that there were more artifacts, or more files to look
	// at, than the server grants.
	ArtifactsCut bool        `json:"artifacts_cut,omitempty"`
	Language     LanguageRef `json:"language"`        // what really ran it
	Isolation    Isolation   `json:"isolation"`       // what was enforced
	Start        Start       `json:"start,omitempty"` // how the run began; with tests, the first
}

// Usage is how one run ended and what it used. With tests, a result's usage
// is the largest of each over the cases, and the exit of the first that
// failed.
type Usage struct {
	ExitCode        *int    `json:"exit_code,omitempty"` // nil when ended by a signal, or never started
	Signal          string  `json:"signal,omitempty"`    // such as SIGSEGV
	WallMS          float64 `json:"wall_ms"`
	CPUMS           float64 `json:"cpu_ms"` // summed over all processes
	MemoryPeakBytes int64   `json:"memory_peak_bytes"`
	Processes       int64   `json:"processes,omitempty"` // most alive at once, where the kernel counts them
}

// Phase is a step before the program ran.
type Phase struct {
	// Cached says that the same program was compiled before, and what was made
	// then ran: nothing was used now, and the streams are those of then.
	Cached bool `json:"cached,omitempty"`
	Usage
	Stdout Stream `json:"stdout"`
	Stderr Stream `json:"stderr"`
}

// TestResult is the outcome of one test.
type TestResult struct {
	Name    string  `json:"name,omitempty"`
	Verdict Verdict `json:"verdict"`
	Cause   Cause   `json:"cause,omitempty"`
	Message string  `json:"message,omitempty"` // what its checker says; at most MaxMessage bytes
	Usage
	Stdout Stream `json:"stdout"`
	Stderr Stream `json:"stderr"`
}

// MaxMessage bounds what a checker program may say of a test.
const MaxMessage = 4 << 10

// LanguageRef names the language that ran, and the version found.
type LanguageRef struct {
	ID      string `json:"id"`
	Version string `json:"version,omitempty"`
}

// Isolation says how well a sandbox holds.
type Isolation struct {
	Level    string    `json:"level"`
	Controls []Control `json:"controls,omitempty"`
}

// Brief is the isolation without the details of its controls, as it stands in
// every result.
func (i Isolation) Brief() Isolation {
	controls := make([]Control, len(i.Controls))
	for n, c := range i.Controls {
		controls[n] = Control{Name: c.Name, State: c.State}
	}
	return Isolation{Level: i.Level, Controls: controls}
}

// Control is one thing that a sandbox enforces, or does not.
type Control struct {
	Name   string `json:"name"`
	State  string `json:"state"`            // enforced, approximated or absent
	Detail string `json:"detail,omitempty"` // what was tried; not in results
	Remedy string `json:"remedy,omitempty"` // what to do about it; not in results
}

// States of a control.
const (
	ControlEnforced     = "enforced"
	ControlApproximated = "approximated"
	ControlAbsent       = "absent"
)

// IsolationLevels lists the levels, the strongest first.
func IsolationLevels() []string {
	return []string{"gvisor", "namespaces", "namespaces-rlimit", "landlock", "none"}
}

// StrongEnough tells whether a level of isolation is least or a stronger one.
// An empty least accepts any; a level that is not known is too weak.
func StrongEnough(level, least string) bool {
	levels := IsolationLevels()
	have := slices.Index(levels, level)
	return least == "" || have >= 0 && have <= slices.Index(levels, least)
}

// InlineBytes is the most of a stream that a Store keeps in the row. Longer
// streams are in [Blobs], and Data is their first InlineBytes.
const InlineBytes = 64 << 10

// Stream is what a program wrote to stdout or stderr.
type Stream struct {
	Data      []byte // all of it, or the first InlineBytes when Blob is set
	Bytes     int64  // how many bytes were kept: the stream's full length unless Truncated
	Truncated bool   // the program wrote more than output_bytes
	Blob      string // SHA-256 of the whole, in hex, when it is in Blobs
}

type streamJSON struct {
	Data      string `json:"data"`
	Encoding  string `json:"encoding"`
	Bytes     int64  `json:"bytes"`
	Truncated bool   `json:"truncated"`
	Preview   bool   `json:"preview,omitempty"` // data is only the beginning
	Blob      string `json:"blob,omitempty"`
}

// MarshalJSON writes {data, encoding, bytes, truncated}, and when the data is
// only the beginning, preview.
func (s Stream) MarshalJSON() ([]byte, error) {
	data, encoding := encode(s.Data)
	return marshal(streamJSON{data, encoding, s.Bytes, s.Truncated, int64(len(s.Data)) < s.Bytes, s.Blob})
}

// UnmarshalJSON reads what MarshalJSON writes.
func (s *Stream) UnmarshalJSON(raw []byte) error {
	var j streamJSON
	if err := json.Unmarshal(raw, &j); err != nil {
		return err
	}
	data, err := decode(j.Data, j.Encoding)
	if err != nil {
		return fmt.Errorf("stream: %w", err)
	}
	*s = Stream{Data: data, Bytes: j.Bytes, Truncated: j.Truncated, Blob: j.Blob}
	return nil
}

func (s Stream) summary() Stream { s.Data = nil; return s }

func (r Result) summary() *Result {
	r.Stdout, r.Stderr = r.Stdout.summary(), r.Stderr.summary()
	r.Tests, r.Compile, r.Isolation.Controls, r.Artifacts = nil, nil, nil, nil
	return &r
}

// Streams returns every stream in the result, those of artifacts included, to
// be read or replaced.
func (r *Result) Streams() []*Stream {
	all := []*Stream{&r.Stdout, &r.Stderr}
	if r.Compile != nil {
		all = append(all, &r.Compile.Stdout, &r.Compile.Stderr)
	}
	for i := range r.Tests {
		all = append(all, &r.Tests[i].Stdout, &r.Tests[i].Stderr)
	}
	for i := range r.Artifacts {
		if r.Artifacts[i].Error == "" {
			all = append(all, &r.Artifacts[i].Content)
		}
	}
	return all
}
