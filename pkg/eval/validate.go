package eval

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Bounds on the parts of a spec that no policy changes.
const (
	MaxArgs     = 256
	MaxArgBytes = 128 << 10 // all args together
	MaxEnv      = 128
	MaxEnvBytes = 64 << 10 // all names and values together
	MaxTags     = 16
	MaxTagBytes = 64
	MaxPath     = 255 // bytes in a file's path
	MaxVersion  = 64  // bytes in the version of a language
)

// Validate checks a spec against the policy and returns it as granted: the
// language by its id, every default filled in. known finds a language by id
// or alias; nil accepts any name. All wrong fields are reported at once.
func (p Policy) Validate(s Spec, now time.Time, known func(string) (Language, bool)) (Spec, []FieldError) {
	var bad []FieldError
	wrong := func(field, format string, args ...any) {
		bad = append(bad, FieldError{field, fmt.Sprintf(format, args...)})
	}

	switch lang, ok := lookup(known, s.Language); {
	case s.Language == "":
		wrong("language", "is required")
	case !ok:
		wrong("language", "%q is not known here; GET /api/v1/languages lists what is", clip(s.Language))
	case !lang.Offered():
		wrong("language", "%q is not available here: %s", lang.ID, lang.Problem)
	default:
		s.Language = lang.ID
		// What is not known yet is for the executor to decide.
		if _, ok := MatchVersion(lang.Versions, s.Version); s.Version != "" && !ok && len(lang.Versions) > 0 {
			wrong("version", "%q of %s is not available here; there are %s", clip(s.Version), lang.ID, strings.Join(lang.Versions, ", "))
		}
	}
	bad = append(bad, ValidateProgram(s.Program)...)
	if n := s.size(); n > p.MaxProgramBytes {
		wrong("code", "with files, stdin and tests has %d bytes; at most %d are accepted", n, p.MaxProgramBytes)
	}
	if len(s.Files) > p.MaxFiles {
		wrong("files", "has %d entries; at most %d are accepted", len(s.Files), p.MaxFiles)
	}
	if len(s.Tests) > p.MaxTests {
		wrong("tests", "has %d entries; at most %d are accepted", len(s.Tests), p.MaxTests)
	}
	granted, limits := p.Grant(s.Limits)
	s.Limits = granted
	bad = append(bad, limits...)

	if s.Priority == "" {
		s.Priority = PriorityDefault
	}
	if !s.Priority.Valid() {
		wrong("priority", "%q is not one of %s", clip(string(s.Priority)), join(Priorities()))
	}
	if policy, ok := RetryPolicyByName(s.RetryPolicy); ok {
		s.RetryPolicy = policy.Name
	} else {
		wrong("retry_policy", "%q is not one of default, aggressive, conservative, quota_exceeded", clip(s.RetryPolicy))
	}
	validateTags(s.Tags, wrong)
	if s.RunAt != nil && s.RunAt.After(now.Add(p.MaxRunAhead)) {
		wrong("run_at", "is more than %s ahead", p.MaxRunAhead)
	}
	return s, bad
}

// ValidateProgram checks what holds for any policy: an executor checks it
// again. Limits are not looked at.
func ValidateProgram(p Program) []FieldError {
	var bad []FieldError
	wrong := func(field, format string, args ...any) {
		bad = append(bad, FieldError{field, fmt.Sprintf(format, args...)})
	}
	if len(p.Version) > MaxVersion || !utf8.ValidString(p.Version) || strings.ContainsFunc(p.Version, unicode.IsControl) {
		wrong("version", "must have at most %d bytes and no control characters", MaxVersion)
	}
	switch {
	case len(p.Code) == 0 && len(p.Files) == 0:
		wrong("code", "is empty; give code, or files with an entrypoint")
	case len(p.Code) > 0 && len(p.Files) > 0:
		wrong("files", "cannot be given together with code")
	case len(p.Files) > 1 && p.Entrypoint == "":
		wrong("entrypoint", "is required when there are several files")
	}
	for _, name := range slices.Sorted(maps.Keys(p.Files)) {
		if problem := CheckPath(name); problem != "" {
			wrong("files["+fmt.Sprintf("%q", clip(name))+"]", "%s", problem)
		}
	}
	if p.Entrypoint != "" {
		if _, ok := p.Files[p.Entrypoint]; !ok {
			wrong("entrypoint", "%q is not one of files", clip(p.Entrypoint))
		}
	}
	validateArgs("args", p.Args, wrong)
	validateEnv(p.Env, wrong)
	for i, t := range p.Tests {
		at := fmt.Sprintf("tests[%d]", i)
		validateArgs(at+".args", t.Args, wrong)
		if t.Checker != "" && !slices.Contains(Checkers(), t.Checker) {
			wrong(at+".checker", "%q is not one of %s", clip(string(t.Checker)), join(Checkers()))
		}
		if len(t.Name) > 128 {
			wrong(at+".name", "has %d bytes; at most 128 are accepted", len(t.Name))
		}
	}
	if p.MinIsolation != "" && !slices.Contains(IsolationLevels(), p.MinIsolation) {
		wrong("min_isolation", "%q is not one of %s", clip(p.MinIsolation), strings.Join(IsolationLevels(), ", "))
	}
	return bad
}

// CheckPath says what is wrong with the path of a file in a program, or "".
// A good path is relative, clean, without "..", NUL and backslash, and valid
// UTF-8.
func CheckPath(name string) string {
	switch {
	case name == "":
		return "is empty"
	case len(name) > MaxPath:
		return fmt.Sprintf("is longer than %d bytes", MaxPath)
	case !utf8.ValidString(name):
		return "is not valid UTF-8"
	case strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f || r == '\\' }):
		return "contains a control character or a backslash"
	case strings.HasPrefix(name, "/"):
		return "must be relative"
	case path.Clean(name) != name || name == "." || name == ".." || strings.HasPrefix(name, "../"):
		return "must be a clean path below the work folder"
	}
	return ""
}

func validateArgs(field string, args []string, wrong func(string, string, ...any)) {
	if len(args) > MaxArgs {
		wrong(field, "has %d entries; at most %d are accepted", len(args), MaxArgs)
	}
	total := 0
	for i, a := range args {
		total += len(a)
		if strings.ContainsRune(a, 0) {
			wrong(fmt.Sprintf("%s[%d]", field, i), "contains a NUL byte")
		}
	}
	if total > MaxArgBytes {
		wrong(field, "has %d bytes; at most %d are accepted", total, MaxArgBytes)
	}
}

func validateEnv(env map[string]string, wrong func(string, string, ...any)) {
	if len(env) > MaxEnv {
		wrong("env", "has %d entries; at most %d are accepted", len(env), MaxEnv)
	}
	total := 0
	for _, name := range slices.Sorted(maps.Keys(env)) {
		total += len(name) + len(env[name])
		if name == "" || strings.ContainsAny(name, "=\x00") || strings.ContainsRune(env[name], 0) {
			wrong(fmt.Sprintf("env[%q]", clip(name)), "names are not empty and have no '='; neither names nor values have a NUL byte")
		}
	}
	if total > MaxEnvBytes {
		wrong("env", "has %d bytes; at most %d are accepted", total, MaxEnvBytes)
	}
}

func validateTags(tags []string, wrong func(string, string, ...any)) {
	if len(tags) > MaxTags {
		wrong("tags", "has %d entries; at most %d are accepted", len(tags), MaxTags)
	}
	for i, tag := range tags {
		if tag == "" || len(tag) > MaxTagBytes || strings.ContainsFunc(tag, func(r rune) bool { return r < ' ' || r == utf8.RuneError }) {
			wrong(fmt.Sprintf("tags[%d]", i), "must have 1 to %d bytes and no control characters", MaxTagBytes)
		}
	}
}

// size counts the bytes that a program brings.
func (p Program) size() int64 {
	n := len(p.Code) + len(p.Stdin)
	for name, content := range p.Files {
		n += len(name) + len(content)
	}
	for _, t := range p.Tests {
		n += len(t.Stdin)
		if t.ExpectedStdout != nil {
			n += len(*t.ExpectedStdout)
		}
	}
	return int64(n)
}

func lookup(known func(string) (Language, bool), name string) (Language, bool) {
	if known == nil {
		return Language{ID: name, Available: true}, true
	}
	return known(name)
}

func join[T ~string](all []T) string {
	words := make([]string, len(all))
	for i, v := range all {
		words[i] = string(v)
	}
	return strings.Join(words, ", ")
}

// clip keeps what a user sent from filling an error message.
func clip(s string) string {
	if len(s) > 64 {
		return strings.ToValidUTF8(s[:64], "") + "..."
	}
	return s
}
