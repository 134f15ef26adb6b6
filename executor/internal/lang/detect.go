package lang

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
)

// detect finds the toolchains of a language on this machine, none of them
// proven: the one of its toolchain key, then those of its versions. Two that
// turn out to be the same programs are one. The error says why there is none.
func detect(ctx context.Context, d *Definition) ([]*Toolchain, error) {
	var all []*Toolchain
	var missing error
	for i, tools := range d.toolchains() {
		t, err := locate(ctx, d, tools)
		switch {
		case err != nil && i == 0:
			missing = err
		case err != nil: // a version that is not installed
		case !slices.ContainsFunc(all, func(o *Toolchain) bool { return o.tools == t.tools }):
			all = append(all, t)
		}
	}
	if len(all) == 0 {
		return nil, missing
	}
	return all, nil
}

// toolchains are the ways to find one, the default first.
func (d *Definition) toolchains() [][]Tool {
	all := [][]Tool{d.Toolchain}
	if d.Versions == nil {
		return all
	}
	for _, of := range d.Versions.Of {
		tools := slices.Clone(d.Toolchain)
		for i := range tools {
			if commands, ok := d.Versions.Tools[tools[i].Name]; ok {
				tools[i].Commands = expand(commands, map[string]string{"version": of}, nil)
			}
		}
		all = append(all, tools)
	}
	return all
}

func locate(ctx context.Context, d *Definition, tools []Tool) (*Toolchain, error) {
	all := map[string]found{}
	for _, tool := range tools {
		f, err := tool.find(ctx)
		if err != nil {
			return nil, err
		}
		all[tool.Name] = f
	}
	return assemble(d, all), nil
}

// glanceFolder looks at the files of a folder, and glanceTools at each program
// that a tool may be. What they return changes when one of them comes, goes or
// is replaced. They read and start nothing.
func glanceFolder(dir string) string {
	if dir == "" {
		return ""
	}
	files, err := os.ReadDir(dir)
	if err != nil {
		return err.Error()
	}
	var paths []string
	for _, file := range files {
		if isLanguageFile(file.Name()) {
			paths = append(paths, filepath.Join(dir, file.Name()))
		}
	}
	return glance(paths)
}

func glanceTools(all []*Definition) string {
	var paths []string
	for _, d := range all {
		for _, tools := range d.toolchains() {
			for _, tool := range tools {
				paths = append(paths, tool.candidates()...)
			}
		}
	}
	return glance(paths)
}

func glance(paths []string) string {
	var seen bytes.Buffer
	for _, path := range paths {
		if info, err := os.Stat(path); err == nil {
			fmt.Fprintf(&seen, "%s %d %d\n", path, info.Size(), info.ModTime().UnixNano())
		}
	}
	return digest(seen.Bytes())
}
