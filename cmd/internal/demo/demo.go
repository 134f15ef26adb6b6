// Package demo runs the demonstrations of the folder demos: programs whose
// outcome is written down beside them as data.
package demo

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/crucible-eval/crucible/pkg/eval"
)

// Demo is one demonstration.
type Demo struct {
	Folder string `yaml:"-"`
	Title  string `yaml:"title"`
	Story  string `yaml:"story"`
	Steps  bool   `yaml:"steps"` // show each step of its life
	Cases  []Case `yaml:"cases"`
}

// Case is one request and what has to come of it.
type Case struct {
	Name    string         `yaml:"name"`
	File    string         `yaml:"file"`    // the program, beside demo.yaml
	Request map[string]any `yaml:"request"` // as POST /api/v1/evaluations takes it, without the code
	Times   int            `yaml:"times"`   // send it so often at once; {{n}} and {{n*n}} are then 1, 2, 3 ...
	Expect  Expect         `yaml:"expect"`

	code []byte
}

// Expect is the outcome; what is left out may be anything.
type Expect struct {
	Status          eval.Status       `yaml:"status"`
	Verdict         eval.Verdict      `yaml:"verdict"`
	Cause           eval.Cause        `yaml:"cause"`
	ExitCode        *int              `yaml:"exit_code"`
	Signal          string            `yaml:"signal"`
	Attempt         int               `yaml:"attempt"`
	Stdout          *string           `yaml:"stdout"`
	Stderr          *string           `yaml:"stderr"`
	StdoutContains  []string          `yaml:"stdout_contains"`
	StderrContains  []string          `yaml:"stderr_contains"`
	CompileContains []string          `yaml:"compile_contains"`
	StdoutBytes     *int64            `yaml:"stdout_bytes"`
	StdoutSHA256    string            `yaml:"stdout_sha256"` // of the whole stream, read at the output endpoint
	Truncated       *bool             `yaml:"truncated"`     // stdout
	Tests           []string          `yaml:"tests"`         // the verdict of each
	Artifacts       map[string]string `yaml:"artifacts"`     // path -> SHA-256 of the content as it is downloaded, or its error; all there are
	WallMS          *Range            `yaml:"wall_ms"`
	CPUMS           *Range            `yaml:"cpu_ms"`
	MemoryPeakBytes *Range            `yaml:"memory_peak_bytes"` // its max only where the memory limit is enforced
}

// Range is from Min to Max.
type Range struct {
	Min float64 `yaml:"min"`
	Max float64 `yaml:"max"`
}

// Find returns the folder of the demonstrations: dir when it is given, else
// demos in the working folder, beside the program, or above it.
func Find(dir string) (string, error) {
	candidates := []string{dir}
	if dir == "" {
		candidates = []string{"demos"}
		if program, err := os.Executable(); err == nil {
			beside := filepath.Dir(program)
			candidates = append(candidates, filepath.Join(beside, "demos"), filepath.Join(beside, "..", "demos"),
				filepath.Join(beside, "..", "share", "crucible", "demos"))
		}
	}
	for _, c := range candidates {
		if found, _ := filepath.Glob(filepath.Join(c, "*", "demo.yaml")); len(found) > 0 {
			return c, nil
		}
	}
	return "", fmt.Errorf("no demonstrations in %s: name their folder with --demos", strings.Join(candidates, ", "))
}

// Load reads all demonstrations of a folder, in the order of their names.
// A field that is not known, or a file that is missing, is an error.
func Load(folder fs.FS) ([]Demo, error) {
	names, err := fs.Glob(folder, "*/demo.yaml")
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	var all []Demo
	var errs []error
	for _, name := range names {
		d, err := load(folder, name)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", name, err))
			continue
		}
		all = append(all, d)
	}
	return all, errors.Join(errs...)
}

func load(folder fs.FS, name string) (Demo, error) {
	d := Demo{Folder: path.Dir(name)}
	raw, err := fs.ReadFile(folder, name)
	if err != nil {
		return d, err
	}
	dec := yaml.NewDecoder(bytes.NewReader(raw))
	dec.KnownFields(true)
	if err := dec.Decode(&d); err != nil {
		return d, err
	}
	if d.Title == "" || d.Story == "" || len(d.Cases) == 0 {
		return d, errors.New("a demonstration needs a title, a story and cases")
	}
	for i := range d.Cases {
		c := &d.Cases[i]
		if c.code, err = fs.ReadFile(folder, path.Join(d.Folder, c.File)); err != nil {
			return d, fmt.Errorf("case %d: %w", i+1, err)
		}
		if c.Expect.Status == "" {
			return d, fmt.Errorf("case %d expects no status", i+1)
		}
		c.Times = max(c.Times, 1)
		if _, err := c.spec(1); err != nil {
			return d, fmt.Errorf("case %d: %w", i+1, err)
		}
	}
	return d, nil
}

// spec is the nth request of a case.
func (c *Case) spec(n int) (eval.Spec, error) {
	var s eval.Spec
	raw, err := json.Marshal(c.Request)
	if err != nil {
		return s, err
	}
	dec := json.NewDecoder(strings.NewReader(numbered(string(raw), n)))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&s); err != nil {
		return s, fmt.Errorf("request: %w", err)
	}
	s.Code = c.code
	s.Tags = append(s.Tags, "demo")
	return s, nil
}

// numbered fills in the number of a request.
func numbered(text string, n int) string {
	return strings.NewReplacer("{{n}}", fmt.Sprint(n), "{{n*n}}", fmt.Sprint(n*n)).Replace(text)
}
