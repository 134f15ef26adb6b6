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

	MaxClientBytes = 128
)

// maxWrong bounds how many wrong fields are named.
const maxWrong = 100

// Validate checks a spec against the policy and returns it as granted: the
// language by its id, every default filled in. known finds a language by id
// or alias; nil accepts any name. All wrong fields are reported at once.
func (p Policy) Validate(s Spec, now time.Time, known func(string) (Language, bool)) (Spec, []FieldError) {
	var bad []FieldError
	wrong := func(field, format string, args ...any) {
		if len(bad) < maxWrong {
			bad = append(bad, FieldError{field, fmt.Sprintf(format, args...)})
		}
	}

	if lang, problem := resolve(known, s.Language); problem != "" {
		wrong("language", "%s", problem)
	} else {
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
	s.Program = p.grantTests(s.Program, known, wrong)

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
	if s.ExpiresIn < 0 || s.ExpiresIn > Duration(p.MaxRunAhead) {
		wrong("expires_in", "is %s; it must be between 0s, which is never, and %s", s.ExpiresIn, p.MaxRunAhead)
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
		if len(bad) < maxWrong {
			bad = append(bad, FieldError{field, fmt.Sprintf(format, args...)})
		}
	}
	if len(p.Version) > MaxVersion || !utf8.ValidString(p.Version) || strings.ContainsFunc(p.Version, unicode.IsControl) {
		wrong("version", "must have at most %d bytes and no control characters", MaxVersion)
	}
	validateCode("", p.Code, p.Files, p.Entrypoint, wrong)
	validateArgs("args", p.Args, wrong)
	validateEnv(p.Env, wrong)
	p.validateTests(wrong)
	p.validateArtifacts(wrong)
	if p.MinIsolation != "" && !slices.Contains(IsolationLevels(), p.MinIsolation) {
		wrong("min_isolation", "%q is not one of %s", clip(p.MinIsolation), strings.Join(IsolationLevels(), ", "))
	}
	if p.Warm != "" && !slices.Contains(WarmModes(), p.Warm) {
		wrong("warm", "%q is not one of %s", clip(string(p.Warm)), join(WarmModes()))
	}
	return bad
}

// validateCode checks a program's text. at stands in front of its fields.
func validateCode(at string, code Bytes, files map[string]Bytes, entrypoint string, wrong func(string, string, ...any)) {
	switch {
	case len(code) == 0 && len(files) == 0:
		wrong(at+"code", "is empty; give code, or files with an entrypoint")
	case len(code) > 0 && len(files) > 0:
		wrong(at+"files", "cannot be given together with code")
	case len(files) > 1 && entrypoint == "":
		wrong(at+"entrypoint", "is required when there are several files")
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if problem := CheckPath(name); problem != "" {
			wrong(fmt.Sprintf("%sfiles[%q]", at, clip(name)), "%s", problem)
		}
	}
	if entrypoint != "" {
		if _, ok := files[entrypoint]; !ok {
			wrong(at+"entrypoint", "%q is not one of files", clip(entrypoint))
		}
	}
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
	n := textSize(p.Code, p.Files) + len(p.Stdin) + textSize(p.Checker.Code, p.Checker.Files)
	for _, t := range p.Tests {
		n += textSize(t.Checker.Code, t.Checker.Files)
		n += len(t.Stdin)
		if t.ExpectedStdout != nil {
			n += len(*t.ExpectedStdout)
		}
	}
	return int64(n)
}

func textSize(code Bytes, files map[string]Bytes) int {
	n := len(code)
	for name, content := range files {
		n += len(name) + len(content)
	}
	return n
}

// resolve finds a language, or says what is wrong with the name.
func resolve(known func(string) (Language, bool), name string) (found Language, problem string) {
	switch lang, ok := lookup(known, name); {
	case name == "":
		return lang, "is required"
	case !ok:
		return lang, fmt.Sprintf("%q is not known here; GET /api/v1/languages lists what is", clip(name))
	case !lang.Offered():
		return lang, fmt.Sprintf("%q is not available here: %s", lang.ID, lang.Problem)
	default:
		return lang, ""
	}
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
