package eval

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"regexp/syntax"
	"slices"
	"strings"
	"unicode/utf8"
)

// Checker decides whether a test's stdout is right. In JSON it is the name of
// its type, or an object where there is more to say.
type Checker struct {
	Type CheckerType `json:"type,omitempty"` // default: lines

	// Floats and JSON: two numbers are the same when they differ by at most
	// Absolute, or by at most Relative times the expected one. Both 0: 1e-6
	// each for floats, and exactly the same number for JSON.
	Absolute float64 `json:"absolute,omitempty"`
	Relative float64 `json:"relative,omitempty"`

	// Program: what decides. It runs in a box of its own, see [CheckProgram].
	Language   string           `json:"language,omitempty"`
	Code       Bytes            `json:"code,omitempty"`
	Files      map[string]Bytes `json:"files,omitempty"`
	Entrypoint string           `json:"entrypoint,omitempty"`
	Limits     Limits           `json:"limits,omitzero"` // zero fields take the server's defaults, not the program's
}

// CheckerType names how a test's stdout is compared with the expected one.
type CheckerType string

const (
	CheckExact  CheckerType = "exact"  // byte for byte
	CheckLines  CheckerType = "lines"  // line by line; white space at line ends and empty lines at the end do not count
	CheckTokens CheckerType = "tokens" // the words between white space
	// CheckFloats compares words as numbers where both are, else as text. NaN
	// is only like NaN, an infinity only like itself.
	CheckFloats CheckerType = "floats"
	// CheckRegex wants the whole output, with or without the line break at its
	// end, to match the expected one, which is a regular expression of RE2.
	CheckRegex CheckerType = "regex"
	// CheckJSON compares two JSON values: the order of keys does not count,
	// that of arrays does.
	CheckJSON CheckerType = "json"
	// CheckProgram asks a program of the sender's, which gets the output as
	// stdin and the files input, expected and feedback/ as arguments. It exits
	// with AcceptedExit or WrongExit: an output validator as the problem
	// package format of ICPC, DOMjudge and Kattis has them.
	CheckProgram CheckerType = "program"
)

// Exit codes of a [CheckProgram]. Any other end is a failure of the checker.
const (
	AcceptedExit = 42
	WrongExit    = 43
)

// CheckerTypes lists every type.
func CheckerTypes() []CheckerType {
	return []CheckerType{CheckExact, CheckLines, CheckTokens, CheckFloats, CheckRegex, CheckJSON, CheckProgram}
}

// Bounds of checkers.
const (
	// MaxCheckerPrograms is how many different ones one request may have: each
	// is compiled.
	MaxCheckerPrograms = 8

	MaxRegexBytes = 4 << 10 // of an expression
	MaxRegexSize  = 10_000  // elements of it, with repetitions written out
	MaxJSONBytes  = 1 << 20 // of each of the two values
)

// IsZero reports whether nothing is said.
func (c Checker) IsZero() bool { return c.Type == "" && c.bare() }

// bare reports whether the type is all there is.
func (c Checker) bare() bool {
	return c.Absolute == 0 && c.Relative == 0 && c.Language == "" && len(c.Code) == 0 && len(c.Files) == 0 && c.Entrypoint == "" && c.Limits == Limits{}
}

// Key is the same for checkers that are the same.
func (c Checker) Key() string {
	raw, err := c.MarshalJSON()
	if err != nil { // a tolerance that JSON does not have
		return err.Error()
	}
	return string(raw)
}

type checkerJSON Checker

// MarshalJSON writes the name of the type when that is all there is.
func (c Checker) MarshalJSON() ([]byte, error) {
	if c.bare() {
		return marshal(c.Type)
	}
	return marshal(checkerJSON(c))
}

// UnmarshalJSON reads a name or an object. An unknown field is an error.
func (c *Checker) UnmarshalJSON(raw []byte) error {
	if raw = bytes.TrimSpace(raw); len(raw) > 0 && raw[0] == '{' {
		dec := json.NewDecoder(bytes.NewReader(raw))
		dec.DisallowUnknownFields()
		var j checkerJSON
		if err := dec.Decode(&j); err != nil {
			return err
		}
		*c = Checker(j)
		return nil
	}
	var name *CheckerType
	if err := json.Unmarshal(raw, &name); err != nil {
		return fmt.Errorf("must be the name of a checker, or an object with its type")
	}
	if name != nil {
		*c = Checker{Type: *name}
	}
	return nil
}

// CheckerOf returns the checker of a test: its own, the program's, or lines.
func (p Program) CheckerOf(t Test) Checker {
	c := t.Checker
	if c.IsZero() {
		c = p.Checker
	}
	if c.Type == "" {
		c.Type = CheckLines
	}
	return c
}

// Tolerance returns how far numbers may be apart.
func (c Checker) Tolerance() (absolute, relative float64) {
	if c.Type == CheckFloats && c.Absolute == 0 && c.Relative == 0 {
		return 1e-6, 1e-6
	}
	return c.Absolute, c.Relative
}

// validate checks what holds for any policy. at is the checker's field.
func (c Checker) validate(at string, wrong func(string, string, ...any)) {
	if c.Type != "" && !slices.Contains(CheckerTypes(), c.Type) {
		wrong(at, "%q is not one of %s", clip(string(c.Type)), join(CheckerTypes()))
		return
	}
	tolerance := func(name string, v float64) {
		switch {
		case v == 0:
		case c.Type != CheckFloats && c.Type != CheckJSON:
			wrong(at+"."+name, "is for the checkers floats and json")
		case v < 0 || math.IsNaN(v) || math.IsInf(v, 0):
			wrong(at+"."+name, "must be a number from 0")
		}
	}
	tolerance("absolute", c.Absolute)
	tolerance("relative", c.Relative)
	if c.Type == CheckProgram {
		if c.Language == "" {
			wrong(at+".language", "is required")
		}
		validateCode(at+".", c.Code, c.Files, c.Entrypoint, wrong)
		for _, name := range slices.Sorted(maps.Keys(c.Files)) {
			if top, _, _ := strings.Cut(name, "/"); top == "input" || top == "expected" || top == "feedback" {
				wrong(fmt.Sprintf("%s.files[%q]", at, clip(name)), "is where a checker finds its test")
			}
		}
		return
	}
	foreign := func(name string, there bool) {
		if there {
			wrong(at+"."+name, "is for the checker program")
		}
	}
	foreign("language", c.Language != "")
	foreign("code", len(c.Code) > 0)
	foreign("files", len(c.Files) > 0)
	foreign("entrypoint", c.Entrypoint != "")
	foreign("limits", c.Limits != Limits{})
}

// validateExpected checks an expected output for the checker that reads it.
func (c Checker) validateExpected(at string, expected *Bytes, wrong func(string, string, ...any)) {
	if expected == nil {
		return
	}
	switch c.Type {
	case CheckRegex:
		if problem := CheckExpression(*expected); problem != "" {
			wrong(at, "%s", problem)
		}
	case CheckJSON:
		if len(*expected) > MaxJSONBytes {
			wrong(at, "has %d bytes; at most %d are compared as JSON", len(*expected), MaxJSONBytes)
		} else if !utf8.Valid(*expected) || !json.Valid(*expected) {
			wrong(at, "is not valid JSON, which its checker wants")
		}
	}
}

// CheckExpression says what is wrong with a regular expression, or "". A good
// one is of RE2 and not too large.
func CheckExpression(expr []byte) string {
	if len(expr) > MaxRegexBytes {
		return fmt.Sprintf("has %d bytes; a regular expression has at most %d", len(expr), MaxRegexBytes)
	}
	if !utf8.Valid(expr) {
		return "is not valid UTF-8, which a regular expression has to be"
	}
	re, err := syntax.Parse(string(expr), syntax.Perl)
	if err == nil { // and whole within others: \Q without \E is not
		_, err = syntax.Parse("(?:"+string(expr)+")", syntax.Perl)
	}
	if err != nil {
		return "is not a regular expression of RE2: " + clip(err.Error())
	}
	if n := regexSize(re); n > MaxRegexSize {
		return fmt.Sprintf("is a regular expression of more than %d elements, with its repetitions written out", MaxRegexSize)
	}
	return ""
}

// regexSize counts the elements of an expression as it is compiled, up to a
// little more than MaxRegexSize.
func regexSize(re *syntax.Regexp) int {
	n := 1 + len(re.Rune)/2
	if re.Op == syntax.OpLiteral {
		n = len(re.Rune)
	}
	for _, sub := range re.Sub {
		n += regexSize(sub)
	}
	if re.Op == syntax.OpRepeat {
		n *= max(re.Max, re.Min+1)
	}
	return min(n, MaxRegexSize+1)
}

// checkers calls visit with each checker of the program and its field.
func (p *Program) checkers(visit func(at string, c *Checker)) {
	visit("checker", &p.Checker)
	for i := range p.Tests {
		visit(fmt.Sprintf("tests[%d].checker", i), &p.Tests[i].Checker)
	}
}

// validateTests checks the tests and what belongs to them, for any policy.
func (p Program) validateTests(wrong func(string, string, ...any)) {
	if len(p.Tests) == 0 {
		idle := func(name string, there bool) {
			if there {
				wrong(name, "is for tests, and there are none")
			}
		}
		idle("checker", !p.Checker.IsZero())
		idle("stop_on_failure", p.StopOnFailure)
		idle("parallel", p.Parallel != 0)
		return
	}
	programs := map[string]bool{}
	p.checkers(func(at string, c *Checker) {
		c.validate(at, wrong)
		if c.Type == CheckProgram {
			programs[c.Key()] = true
		}
	})
	if len(programs) > MaxCheckerPrograms {
		wrong("tests", "have %d different checker programs; at most %d are accepted", len(programs), MaxCheckerPrograms)
	}
	if p.Parallel < 0 || p.Parallel > MaxParallel {
		wrong("parallel", "is %d; it must be 1 to %d", p.Parallel, MaxParallel)
	}
	for i, t := range p.Tests {
		at := fmt.Sprintf("tests[%d]", i)
		validateArgs(at+".args", t.Args, wrong)
		p.CheckerOf(t).validateExpected(at+".expected_stdout", t.ExpectedStdout, wrong)
		if len(t.Name) > 128 {
			wrong(at+".name", "has %d bytes; at most 128 are accepted", len(t.Name))
		}
	}
}

// grantTests checks the limits and the languages of tests and checkers, and
// returns the program with what is granted.
func (p Policy) grantTests(s Program, known func(string) (Language, bool), wrong func(string, string, ...any)) Program {
	s.Tests = slices.Clone(s.Tests)
	refuse := func(at string, bad []FieldError) {
		for _, b := range bad {
			wrong(at+"."+b.Field, "%s", b.Message)
		}
	}
	s.checkers(func(at string, c *Checker) {
		if c.Type != CheckProgram {
			return
		}
		if lang, problem := resolve(known, c.Language); problem == "" {
			c.Language = lang.ID
		} else if c.Language != "" {
			wrong(at+".language", "%s", problem)
		}
		if len(c.Files) > p.MaxFiles {
			wrong(at+".files", "has %d entries; at most %d are accepted", len(c.Files), p.MaxFiles)
		}
		var bad []FieldError
		c.Limits, bad = p.Grant(c.Limits)
		refuse(at, bad)
	})
	for i := range s.Tests {
		if t := &s.Tests[i]; t.Limits != (Limits{}) {
			var bad []FieldError
			t.Limits, bad = p.grant(t.Limits, s.Limits)
			refuse(fmt.Sprintf("tests[%d]", i), bad)
		}
	}
	if longest := s.Longest(); len(s.Tests) > 0 && longest > p.MaxTestsWall {
		wrong("tests", "may run for %s together with their checkers; at most %s are granted: lower their limits.wall_ms", longest, p.MaxTestsWall)
	}
	return s
}
