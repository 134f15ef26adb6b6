package lang

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/crucible-eval/crucible/pkg/eval"
)

// Definition is a language as its file says it.
type Definition struct {
	ID         string            `yaml:"id"`
	Name       string            `yaml:"name"`
	Aliases    []string          `yaml:"aliases"`
	Extensions []string          `yaml:"extensions"` // with the dot
	Source     string            `yaml:"source"`     // what a program of one file is called
	Toolchain  []Tool            `yaml:"toolchain"`
	Versions   *Versions         `yaml:"versions"` // more toolchains beside the one above
	Binds      []string          `yaml:"binds"`    // more host folders that boxes see; patterns, and none need exist
	Cache      *Cache            `yaml:"cache"`
	Compile    *Compile          `yaml:"compile"` // nil: interpreted
	Run        []string          `yaml:"run"`
	Warm       *Warm             `yaml:"warm"` // nil: each run starts its interpreter
	Env        map[string]string `yaml:"env"`
	Version    Version           `yaml:"version"`
	Hints      []Hint            `yaml:"hints"`
	Example    string            `yaml:"example"`
	Smoke      Smoke             `yaml:"smoke"`

	pattern *regexp.Regexp // of Version
	digest  string         // of the file
}

// Tool is a program that the language needs. Its path is ${name} in argvs,
// its prefix ${name_prefix}.
type Tool struct {
	Name string `yaml:"name"`
	// Commands are names that are looked up in PATH, or patterns of whole paths
	// (/opt/toy-*/bin/toy, ~/toy/bin/toy). The first that works is taken.
	Commands []string `yaml:"commands"`
	// Ask are arguments that make the program print where it really is: its
	// path and, on a second line, its prefix. A shim can be asked like this.
	Ask []string `yaml:"ask"`
	// Answers "prefix" says that the only line is the prefix, and Command is
	// the program's path in it.
	Answers string `yaml:"answers"`
	Command string `yaml:"command"`
	// Script says that the program may be a script, as launchers of some
	// toolchains are. Those in a folder called shims stay out.
	Script bool `yaml:"script"`
	// Prefix is how many folders above the program its prefix is, where
	// nothing else says it. 0: the program stands alone.
	Prefix int `yaml:"prefix"`
}

// Versions are toolchains of other versions. For each name in Of, a tool in
// Tools is looked for by these commands, in which ${version} is the name.
// Those that are found and proven are offered beside the first.
type Versions struct {
	Of    []string            `yaml:"of"`
	Tools map[string][]string `yaml:"tools"`
}

// Hint explains how a runtime ends by itself, to people. Any program can
// print the same: a hint adds a sentence to the explanation, and never
// changes a verdict or a cause.
type Hint struct {
	Stderr string `yaml:"stderr"` // a pattern of what it prints
	Says   string `yaml:"says"`   // the sentence; variables as in argvs

	pattern *regexp.Regexp
}

// Cache is made on the host, once for each toolchain, and shown to boxes
// read-only as ${cache}.
type Cache struct {
	Argv   []string          `yaml:"argv"`
	Env    map[string]string `yaml:"env"`
	Stdout string            `yaml:"stdout"` // the file in the cache that keeps what it prints
}

// Compile is how a program is translated.
type Compile struct {
	Steps  [][]string `yaml:"steps"`
	Output string     `yaml:"output"` // the one file that the run needs, if it is one
	Limits Limits     `yaml:"limits"`
}

// Warm is how the interpreter can be started before its program is known: by
// way of a script in the sandbox's gate folder, ${gate}. See package gate.
type Warm struct {
	Modes []eval.Warm       `yaml:"modes"`
	Start []string          `yaml:"start"` // empty: as a run
	Env   map[string]string `yaml:"env"`   // of the start, and not of the program
	// ColdEnv are patterns of variables that have their effect when the
	// interpreter starts: a program that sets one has its own started.
	ColdEnv []string `yaml:"cold_env"`
}

// Limits of a compilation; zero fields have defaults.
type Limits struct {
	WallMS      int64 `yaml:"wall_ms"`
	CPUMS       int64 `yaml:"cpu_ms"`
	MemoryBytes int64 `yaml:"memory_bytes"`
	Processes   int64 `yaml:"processes"`
	OutputBytes int64 `yaml:"output_bytes"` // of the log, each stream
	DiskBytes   int64 `yaml:"disk_bytes"`   // room in the work folder beside the program's own
}

// Wall is WallMS as a duration.
func (l Limits) Wall() time.Duration { return time.Duration(l.WallMS) * time.Millisecond }

// CPU is CPUMS as a duration.
func (l Limits) CPU() time.Duration { return time.Duration(l.CPUMS) * time.Millisecond }

// Version is how to learn the toolchain's version, in a box.
type Version struct {
	Argv    []string `yaml:"argv"`
	Pattern string   `yaml:"pattern"` // its first group; empty: the first line
}

// Smoke is a program whose output proves that the language works.
type Smoke struct {
	Code   string `yaml:"code"`
	Stdin  string `yaml:"stdin"`
	Stdout string `yaml:"stdout"`
}

//go:embed languages/*.yaml
var builtin embed.FS

const (
	// maxDefinition bounds a language file.
	maxDefinition = 1 << 20
	// maxVersions bounds the toolchains of a language.
	maxVersions = 32
)

// Load reads the built-in languages and those in dir, which replace built-in
// ones of the same id; an empty dir is none. only, when not empty, names the
// ids to keep. The list is ordered by id.
func Load(dir string, only []string) ([]*Definition, error) {
	sub, err := fs.Sub(builtin, "languages")
	if err != nil {
		return nil, err
	}
	byID := map[string]*Definition{}
	if err := loadAll(sub, byID); err != nil {
		return nil, err
	}
	if dir != "" {
		more := map[string]*Definition{}
		if err := loadAll(os.DirFS(dir), more); err != nil {
			return nil, fmt.Errorf("languages in %s: %w", dir, err)
		}
		maps.Copy(byID, more)
	}
	for _, id := range only {
		if byID[id] == nil {
			return nil, fmt.Errorf("there is no language %q to offer", id)
		}
	}
	var all []*Definition
	names := map[string]string{}
	for _, d := range byID {
		if len(only) > 0 && !slices.Contains(only, d.ID) {
			continue
		}
		for _, name := range append([]string{d.ID}, d.Aliases...) {
			if other := names[name]; other != "" {
				return nil, fmt.Errorf("languages %s and %s both claim the name %q", other, d.ID, name)
			}
			names[name] = d.ID
		}
		all = append(all, d)
	}
	slices.SortFunc(all, func(a, b *Definition) int { return strings.Compare(a.ID, b.ID) })
	return all, nil
}

func loadAll(from fs.FS, into map[string]*Definition) error {
	files, err := fs.ReadDir(from, ".")
	if err != nil {
		return err
	}
	for _, file := range files {
		name := file.Name()
		if !isLanguageFile(name) {
			continue
		}
		d, err := loadFile(from, name)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if into[d.ID] != nil {
			return fmt.Errorf("%s: a second language %q", name, d.ID)
		}
		into[d.ID] = d
	}
	return nil
}

// isLanguageFile leaves out what editors and package managers keep beside
// files, which starts with a dot.
func isLanguageFile(name string) bool {
	return strings.HasSuffix(name, ".yaml") && !strings.HasPrefix(name, ".")
}

func loadFile(from fs.FS, name string) (*Definition, error) {
	f, err := from.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	raw, err := io.ReadAll(io.LimitReader(f, maxDefinition+1))
	if err != nil {
		return nil, err
	}
	if len(raw) > maxDefinition {
		return nil, fmt.Errorf("longer than %d bytes", maxDefinition)
	}
	return Parse(raw)
}

// Parse reads a language file. Unknown fields and missing ones are errors.
func Parse(raw []byte) (*Definition, error) {
	d := &Definition{digest: digest(raw)}
	dec := yaml.NewDecoder(bytes.NewReader(raw))
	dec.KnownFields(true)
	if err := dec.Decode(d); err != nil {
		return nil, err
	}
	return d, d.check()
}

var validName = regexp.MustCompile(`^[a-z0-9][a-z0-9+#._-]{0,31}$`)

func (d *Definition) check() error {
	for _, name := range append([]string{d.ID}, d.Aliases...) {
		if !validName.MatchString(name) {
			return fmt.Errorf("name %q: use small letters, digits and any of + # . _ -", name)
		}
	}
	switch {
	case d.Name == "" || d.Example == "" || d.Smoke.Code == "" || d.Smoke.Stdout == "":
		return errors.New("name, example, smoke.code and smoke.stdout are required")
	case eval.CheckPath(d.Source) != "" || filepath.Base(d.Source) != d.Source:
		return fmt.Errorf("source %q is not the name of a file", d.Source)
	case len(d.Run) == 0 || len(d.Version.Argv) == 0:
		return errors.New("run and version.argv are required")
	case d.Compile != nil && len(d.Compile.Steps) == 0:
		return errors.New("compile without steps; leave it out for an interpreted language")
	case d.Warm != nil && d.Warm.check(d) != nil:
		return d.Warm.check(d)
	case d.Cache != nil && len(d.Cache.Argv) == 0:
		return errors.New("cache without argv")
	}
	for _, ext := range d.Extensions {
		if len(ext) < 2 || ext[0] != '.' {
			return fmt.Errorf("extension %q has no dot at its start", ext)
		}
	}
	for _, t := range d.Toolchain {
		if t.Name == "" || len(t.Commands) == 0 {
			return errors.New("a tool needs a name and commands")
		}
		if t.Answers != "" && (t.Answers != "prefix" || t.Command == "" || len(t.Ask) == 0) {
			return fmt.Errorf("tool %s: answers can be prefix, with ask and command", t.Name)
		}
	}
	if err := d.checkVersions(); err != nil {
		return err
	}
	var err error
	for i := range d.Hints {
		h := &d.Hints[i]
		if h.Stderr == "" || h.Says == "" {
			return fmt.Errorf("hints[%d] needs stderr and says", i)
		}
		if h.pattern, err = regexp.Compile(h.Stderr); err != nil {
			return fmt.Errorf("hints[%d].stderr: %w", i, err)
		}
	}
	if d.pattern, err = regexp.Compile(d.Version.Pattern); err != nil {
		return fmt.Errorf("version.pattern: %w", err)
	}
	if d.Compile != nil {
		d.Compile.Limits.fill()
	}
	return nil
}

func (d *Definition) checkVersions() error {
	if d.Versions == nil {
		return nil
	}
	if len(d.Versions.Of) == 0 || len(d.Versions.Of) > maxVersions || len(d.Versions.Tools) == 0 {
		return fmt.Errorf("versions needs of, with 1 to %d names, and tools", maxVersions)
	}
	for name := range d.Versions.Tools {
		if !slices.ContainsFunc(d.Toolchain, func(t Tool) bool { return t.Name == name }) {
			return fmt.Errorf("versions.tools: %q is not a tool of toolchain", name)
		}
	}
	return nil
}

// fill sets the defaults: a compiler is trusted with more than a program, and
// what it translates is not.
func (l *Limits) fill() {
	def := Limits{WallMS: 15_000, CPUMS: 15_000, MemoryBytes: 1 << 30, Processes: 128, OutputBytes: 256 << 10, DiskBytes: 128 << 20}
	for _, f := range [][2]*int64{
		{&l.WallMS, &def.WallMS}, {&l.CPUMS, &def.CPUMS}, {&l.MemoryBytes, &def.MemoryBytes},
		{&l.Processes, &def.Processes}, {&l.OutputBytes, &def.OutputBytes}, {&l.DiskBytes, &def.DiskBytes},
	} {
		if *f[0] <= 0 {
			*f[0] = *f[1]
		}
	}
}

// slow tells whether proving the language takes more than a moment.
func (d *Definition) slow() bool { return d.Compile != nil || d.Cache != nil }

// FindVersion picks the version out of what the version command printed.
func (d *Definition) FindVersion(out string) string {
	if d.Version.Pattern != "" {
		if m := d.pattern.FindStringSubmatch(out); len(m) > 1 {
			return m[1]
		}
		return ""
	}
	line, _, _ := strings.Cut(strings.TrimSpace(out), "\n")
	return line
}
