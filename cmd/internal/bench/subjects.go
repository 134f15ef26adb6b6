package bench

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"

	"github.com/crucible-eval/crucible/pkg/eval"
)

// subject is a program that is posted to an executor, and what does the same
// without one.
type subject struct {
	name    string
	program eval.Program
	stdout  string
	// more measures one more run of a compiled program: a request with this
	// many test cases more, less one without, divided by their number.
	more int
	bare func(ctx context.Context, b *bare) error
}

const (
	helloJS = `console.log("hello, world");` + "\n"
	helloC  = `#include <stdio.h>` + "\n" + `int main(void) { puts("hello, world"); return 0; }` + "\n"
	emptyC  = `int main(void) { return 0; }` + "\n"
)

// subjects are what an executor is measured with, by name.
var subjects = []subject{
	{
		name: "bash", program: eval.Program{Language: "bash", Code: eval.Bytes("exit 0")},
		bare: func(_ context.Context, b *bare) error {
			path, err := exec.LookPath("bash")
			b.commands = [][]string{{path, "-c", "exit 0"}}
			return err
		},
	},
	{
		name: "compiled", program: eval.Program{Language: "c", Code: eval.Bytes(emptyC)}, more: 10,
		bare: func(ctx context.Context, b *bare) error {
			b.commands = [][]string{{"./a.out"}}
			if err := b.write("main.c", emptyC); err != nil {
				return err
			}
			argv, err := cc("main.c")
			if err != nil {
				return err
			}
			cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
			cmd.Dir = b.dir
			if out, err := cmd.CombinedOutput(); err != nil {
				return fmt.Errorf("%w: %s", err, out)
			}
			return nil
		},
	},
	{
		name: "python", program: eval.Program{Language: "python", Code: eval.Bytes(helloCode)}, stdout: "hello, world\n",
		bare: func(ctx context.Context, b *bare) error {
			path, err := python(ctx)
			b.commands = [][]string{{path, "-c", helloCode}}
			return err
		},
	},
	{
		name: "javascript", program: eval.Program{Language: "javascript", Code: eval.Bytes(helloJS)}, stdout: "hello, world\n",
		bare: func(ctx context.Context, b *bare) error {
			path, err := node(ctx)
			b.commands = [][]string{{path, "-e", helloJS}}
			return err
		},
	},
	{
		name: "c", program: eval.Program{Language: "c", Code: eval.Bytes(helloC)}, stdout: "hello, world\n",
		bare: func(_ context.Context, b *bare) error {
			argv, err := cc("../main.c")
			b.commands, b.apart = [][]string{argv, {"./a.out"}}, true
			return errors.Join(err, b.write("main.c", helloC))
		},
	},
}

// Subjects lists what an executor can be measured with.
func Subjects() []string {
	var names []string
	for _, s := range subjects {
		names = append(names, s.name)
	}
	return names
}

func findSubject(name string) (subject, error) {
	i := slices.IndexFunc(subjects, func(s subject) bool { return s.name == name })
	if i < 0 {
		return subject{}, fmt.Errorf("there is no program %q to measure: use %v", name, Subjects())
	}
	return subjects[i], nil
}

// cc compiles a source into a.out as the language file of C does.
func cc(source string) ([]string, error) {
	for _, name := range []string{"gcc", "cc", "clang"} {
		if path, err := exec.LookPath(name); err == nil {
			return []string{path, "-O2", "-std=gnu17", "-o", "a.out", source, "-lm"}, nil
		}
	}
	return nil, errors.New("no C compiler is in PATH: bench measures beside it")
}
