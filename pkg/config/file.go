package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
	"gopkg.in/yaml.v3"
)

// File is a configuration file. It implements kong.Resolver.
type File struct {
	name   string
	values map[string]any
}

// Load reads a configuration file.
func Load(path string) (*File, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("configuration file: %w", err)
	}
	return Parse(path, raw)
}

// Parse reads the YAML of a configuration file; name is for errors.
func Parse(name string, raw []byte) (*File, error) {
	f := &File{name: name, values: map[string]any{}}
	dec := yaml.NewDecoder(bytes.NewReader(raw))
	if err := dec.Decode(&f.values); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("configuration file %s: %w", name, err)
	}
	if err := dec.Decode(new(any)); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("configuration file %s: only one YAML document is read", name)
	}
	return f, nil
}

// Validate implements kong.Resolver. A key that no setting has is an error
// that names it, and so is a secret that was redacted.
func (f *File) Validate(app *kong.Application) error {
	all, sections := map[string]Setting{}, map[string]map[string]Setting{}
	for _, s := range Settings(app.Node) {
		all[s.Key] = s
		for _, c := range s.Commands {
			if sections[c] == nil {
				sections[c] = map[string]Setting{}
			}
			sections[c][s.Key] = s
		}
	}
	var errs []error
	check := func(where, key string, value any, known map[string]Setting) {
		s, ok := known[key]
		switch {
		case !ok:
			errs = append(errs, fmt.Errorf("configuration file %s: %s%s is not a setting; `crucible config print` lists them", f.name, where, key))
		case s.Secret && strings.Contains(fmt.Sprint(value), Redacted):
			errs = append(errs, fmt.Errorf("configuration file %s: %s%s is redacted: write the real one, or print the file with --show-secrets", f.name, where, key))
		}
	}
	for _, key := range sortedKeys(f.values) {
		section, isSection := f.values[key].(map[string]any)
		if _, known := sections[key]; !isSection || !known {
			check("", key, f.values[key], all)
			continue
		}
		for _, k := range sortedKeys(section) {
			check(key+".", k, section[k], sections[key])
		}
	}
	return errors.Join(errs...)
}

// Resolve implements kong.Resolver. A flag whose environment variable is set
// is left alone: kong by itself would let the file win.
func (f *File) Resolve(ctx *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
	if len(flag.Envs) == 0 {
		return nil, nil
	}
	for _, env := range flag.Envs {
		if _, set := os.LookupEnv(env); set {
			return nil, nil
		}
	}
	key := keyOf(flag)
	if node := ctx.Selected(); node != nil {
		if section, ok := f.values[node.Name].(map[string]any); ok {
			if v, ok := section[key]; ok {
				return plain(v), nil
			}
		}
	}
	if v, ok := f.values[key]; ok {
		return plain(v), nil
	}
	return nil, nil
}

// plain writes a YAML value the way that a flag is written, so that both go
// through the same parser.
func plain(v any) any {
	switch v := v.(type) {
	case nil:
		return ""
	case bool:
		return v
	case []any:
		out := make([]any, len(v))
		for i := range v {
			out[i] = plain(v[i])
		}
		return out
	default:
		return fmt.Sprint(v)
	}
}

func keyOf(flag *kong.Flag) string { return strings.ReplaceAll(flag.Name, "-", "_") }

func sortedKeys(m map[string]any) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
