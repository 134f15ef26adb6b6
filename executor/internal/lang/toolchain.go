package lang

import (
	"fmt"
	"maps"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/crucible-eval/crucible/executor/internal/sandbox"
	"github.com/crucible-eval/crucible/pkg/eval"
)

// Toolchain is a language with its tools found.
type Toolchain struct {
	*Definition
	Binds   []sandbox.Bind // what boxes need to see
	Version string         // as the toolchain says it; set once it is proven

	vars  map[string]string
	path  string // PATH in boxes
	tools string // changes when a tool does
	stamp string // changes when a tool or the definition does
}

// Source is a program laid out in its work folder.
type Source struct {
	Files       map[string]eval.Bytes
	Entrypoint  string // one of Files
	MemoryBytes int64  // the limit of the run
}

// Layout names the files of a program. The error is for its author.
func (t *Toolchain) Layout(p *eval.Program) (Source, error) {
	s := Source{Files: p.Files, Entrypoint: p.Entrypoint}
	if len(p.Files) == 0 {
		s.Files, s.Entrypoint = map[string]eval.Bytes{t.Definition.Source: p.Code}, t.Definition.Source
	}
	if s.Entrypoint == "" { // there is exactly one
		for name := range s.Files {
			s.Entrypoint = name
		}
	}
	var bad []eval.FieldError
	for name := range s.Files {
		if err := sandbox.ValidatePath(name); err != nil {
			bad = append(bad, eval.FieldError{Field: fmt.Sprintf("files[%q]", name), Message: err.Error()})
		}
		// A file cannot be a folder of another.
		for dir := path.Dir(name); dir != "." && dir != "/"; dir = path.Dir(dir) {
			if _, clash := s.Files[dir]; clash {
				bad = append(bad, eval.FieldError{Field: fmt.Sprintf("files[%q]", name), Message: fmt.Sprintf("needs %q to be a folder, and it is a file", dir)})
			}
		}
	}
	if t.Compile != nil && len(t.Extensions) > 0 && !slices.Contains(t.Extensions, path.Ext(s.Entrypoint)) {
		bad = append(bad, eval.FieldError{Field: "entrypoint", Message: fmt.Sprintf("%q does not end in %s", s.Entrypoint, strings.Join(t.Extensions, " or "))})
	}
	return s, eval.Invalid(bad)
}

// Stamp changes when one of its tools does, or its file.
func (t *Toolchain) Stamp() string { return t.stamp }

// Path is where its first tool is, or nothing for a language without tools.
func (t *Toolchain) Path() string {
	if len(t.Toolchain) == 0 {
		return ""
	}
	return t.vars[t.Toolchain[0].Name]
}

// maxHint is how much of the end of stderr hints look at.
const maxHint = 64 << 10

// Hint returns what the language has to say about a program that failed and
// wrote this to stderr, or nothing.
func (t *Toolchain) Hint(s Source, stderr []byte) string {
	stderr = stderr[max(len(stderr)-maxHint, 0):]
	for _, h := range t.Hints {
		if h.pattern.Match(stderr) {
			return substitute(h.Says, t.with(s))
		}
	}
	return ""
}

// Steps returns the command lines of the compilation.
func (t *Toolchain) Steps(s Source) [][]string {
	if t.Compile == nil {
		return nil
	}
	vars := t.with(s)
	steps := make([][]string, len(t.Compile.Steps))
	for i, step := range t.Compile.Steps {
		steps[i] = expand(step, vars, t.sources(s))
	}
	return steps
}

// Command returns the command line of a run.
func (t *Toolchain) Command(s Source, args []string) []string {
	return append(expand(t.Run, t.with(s), t.sources(s)), args...)
}

// VersionCommand returns the command line that prints the version.
func (t *Toolchain) VersionCommand() []string { return expand(t.Definition.Version.Argv, t.vars, nil) }

// Environ returns the environment of a box: a few fixed variables, the
// language's, and what the program asked for, each before the next.
func (t *Toolchain) Environ(program map[string]string) []string {
	env := map[string]string{
		"PATH": t.path, "HOME": sandbox.WorkDir, "PWD": sandbox.WorkDir, "TMPDIR": "/tmp",
		"USER": "sandbox", "LOGNAME": "sandbox", "SHELL": "/bin/sh",
		// Text is UTF-8. LANG would say so too, but has every shell and
		// interpreter read a dozen more files, which say what C says.
		"LC_CTYPE": "C.UTF-8",
	}
	for name, value := range t.Env {
		env[name] = substitute(value, t.vars)
	}
	maps.Copy(env, program)
	list := make([]string, 0, len(env))
	for _, name := range slices.Sorted(maps.Keys(env)) {
		list = append(list, name+"="+env[name])
	}
	return list
}

// with adds what belongs to one program.
func (t *Toolchain) with(s Source) map[string]string {
	vars := map[string]string{}
	maps.Copy(vars, t.vars)
	mib := s.MemoryBytes >> 20
	stem := strings.TrimSuffix(s.Entrypoint, path.Ext(s.Entrypoint))
	vars["entrypoint"] = path.Join(sandbox.WorkDir, s.Entrypoint)
	vars["entrypoint_file"] = argument(s.Entrypoint)
	vars["stem"] = argument(stem)
	vars["class"] = strings.ReplaceAll(stem, "/", ".")
	vars["memory_mib"] = fmt.Sprint(max(mib, 1))
	// A managed heap beside the runtime that manages it.
	vars["heap_mib"] = fmt.Sprint(max(mib/2, mib-128, 1))
	return vars
}

// sources are the files of the language, the entrypoint first.
func (t *Toolchain) sources(s Source) []string {
	list := []string{argument(s.Entrypoint)}
	for _, name := range slices.Sorted(maps.Keys(s.Files)) {
		if name != s.Entrypoint && slices.Contains(t.Extensions, path.Ext(name)) {
			list = append(list, argument(name))
		}
	}
	return list
}

// argument makes a file's name safe to stand in a command line: it is no
// option, and no list of more arguments.
func argument(name string) string {
	if strings.HasPrefix(name, "-") || strings.HasPrefix(name, "@") {
		return "./" + name
	}
	return name
}

func expand(argv []string, vars map[string]string, sources []string) []string {
	list := make([]string, 0, len(argv)+len(sources))
	for _, arg := range argv {
		if arg == "${sources}" {
			list = append(list, sources...)
			continue
		}
		list = append(list, substitute(arg, vars))
	}
	return list
}

// substitute replaces each ${name}. What is put in is not looked at again.
func substitute(arg string, vars map[string]string) string {
	if !strings.Contains(arg, "${") {
		return arg
	}
	var out strings.Builder
	for {
		before, rest, ok := strings.Cut(arg, "${")
		out.WriteString(before)
		if !ok {
			return out.String()
		}
		name, after, closed := strings.Cut(rest, "}")
		value, known := vars[name]
		if !closed || !known {
			out.WriteString("${")
			arg = rest
			continue
		}
		out.WriteString(value)
		arg = after
	}
}

// assemble puts the tools that were found together.
func assemble(d *Definition, tools map[string]found) *Toolchain {
	t := &Toolchain{Definition: d, vars: map[string]string{"goarch": runtime.GOARCH, "gate": sandbox.GateDir}}
	folders := []string{}
	var stamps [][]byte
	bind := func(b sandbox.Bind) {
		if !slices.Contains(t.Binds, b) {
			t.Binds = append(t.Binds, b)
		}
	}
	for _, tool := range d.Toolchain {
		f := tools[tool.Name]
		t.vars[tool.Name], t.vars[tool.Name+"_prefix"] = f.path, f.prefix
		stamps = append(stamps, []byte(f.stamp))
		for _, b := range f.binds() {
			bind(b)
		}
		if dir := filepath.Dir(f.path); !slices.Contains(folders, dir) {
			folders = append(folders, dir)
		}
	}
	for _, pattern := range d.Binds {
		hosts, _ := filepath.Glob(pattern)
		for _, host := range hosts {
			if !inBox(host) {
				bind(sandbox.Bind{Host: host, Box: host})
			}
		}
	}
	for _, dir := range []string{"/usr/local/bin", "/usr/bin", "/bin"} {
		if !slices.Contains(folders, dir) {
			folders = append(folders, dir)
		}
	}
	t.path, t.tools = strings.Join(folders, ":"), digest(stamps...)
	t.stamp = digest([]byte(d.digest), []byte(t.tools))
	return t
}
