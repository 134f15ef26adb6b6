// Command boundaries checks who may import whom. The rules stand in rules.go, each with its reason.
//
//	go run ./cmd/boundaries ROOT
//
// It reads the imports of every Go file under ROOT, for every operating system and build tag, prints one line for
// each import that breaks a rule, and then exits with 1.
package main

import (
	"fmt"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "boundaries:", err)
		os.Exit(1)
	}
}

func run(args []string, stdout io.Writer) error {
	if len(args) != 1 {
		return fmt.Errorf("want one argument, the repository's root; got %d", len(args))
	}
	files, err := scan(args[0])
	if err != nil {
		return err
	}
	if len(files) == 0 {
		return fmt.Errorf("no Go file under %s", args[0])
	}
	broken := check(files)
	for _, line := range broken {
		fmt.Fprintln(stdout, line)
	}
	if len(broken) > 0 {
		return fmt.Errorf("%d imports break a rule (see tools/cmd/boundaries/rules.go)", len(broken))
	}
	fmt.Fprintf(stdout, "boundaries: %d files keep the rules\n", len(files))
	return nil
}

// file is one Go file: where it is, and what it imports.
type file struct {
	path    string // below the root, with slashes
	imports []imported
}

type imported struct {
	path string
	line int
}

// dir is the file's package, as a path below the root.
func (f file) dir() string { return path.Dir(f.path) }

// isTest is true for test files and for the files of packages that exist for tests: testkit, and by convention
// every package whose name ends in "test".
func (f file) isTest() bool {
	return strings.HasSuffix(f.path, "_test.go") || isTestPackage(f.dir())
}

func isTestPackage(dir string) bool {
	name := path.Base(dir)
	return name == "testkit" || strings.HasSuffix(name, "test")
}

// skipped are folders that hold no code of ours, or code that is meant to be wrong.
var skipped = []string{"testdata", "vendor", "node_modules", "bin"}

func scan(root string) ([]file, error) {
	var files []file
	err := filepath.WalkDir(root, func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		base := entry.Name()
		if entry.IsDir() {
			if name != root && (slices.Contains(skipped, base) || strings.HasPrefix(base, ".")) {
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(base, ".go") {
			return nil
		}
		below, err := filepath.Rel(root, name)
		if err != nil {
			return err
		}
		imports, err := importsOf(name)
		if err != nil {
			return err
		}
		files = append(files, file{path: filepath.ToSlash(below), imports: imports})
		return nil
	})
	return files, err
}

func importsOf(name string) ([]imported, error) {
	positions := token.NewFileSet()
	parsed, err := parser.ParseFile(positions, name, nil, parser.ImportsOnly)
	if err != nil {
		return nil, err
	}
	var imports []imported
	for _, spec := range parsed.Imports {
		importPath, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			return nil, err
		}
		imports = append(imports, imported{path: importPath, line: positions.Position(spec.Pos()).Line})
	}
	return imports, nil
}

// check returns one line for each import that breaks a rule.
func check(files []file) []string {
	var broken []string
	for _, f := range files {
		for _, i := range f.imports {
			for _, r := range rules {
				if r.breaks(f, i.path) {
					broken = append(broken, fmt.Sprintf("%s:%d: imports %s, but %s", f.path, i.line, i.path, r.says))
				}
			}
		}
	}
	return broken
}
