package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// bare runs a program without a platform: fork, exec, wait, in a temporary
// folder.
type bare struct {
	dir      string
	commands [][]string // one after the other; the last one prints
	stdout   string
	apart    bool // each run in a folder of its own below dir, as it makes files
}

func newBare(stdout string) (*bare, error) {
	dir, err := os.MkdirTemp("", "crucible-bench-")
	if err != nil {
		return nil, err
	}
	return &bare{dir: dir, stdout: stdout}, nil
}

func (b *bare) close() { _ = os.RemoveAll(b.dir) } // a folder in the system's temporary one

// write makes a file in the folder.
func (b *bare) write(name, content string) error {
	return os.WriteFile(filepath.Join(b.dir, name), []byte(content), 0o600)
}

// environ is what programs find in a box. The caller's own may make a bare
// process slow: more certificates for Node to read, say.
var environ = []string{"PATH=/usr/local/bin:/usr/bin:/bin", "HOME=/tmp", "TMPDIR=/tmp", "SHELL=/bin/sh", "LC_CTYPE=C.UTF-8"}

func (b *bare) run(ctx context.Context) (time.Duration, error) {
	dir := b.dir
	if b.apart {
		var err error
		if dir, err = os.MkdirTemp(b.dir, ""); err != nil {
			return 0, err
		}
	}
	var out bytes.Buffer
	began := time.Now()
	for _, argv := range b.commands {
		out.Reset()
		cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
		cmd.Dir, cmd.Env, cmd.Stdout = dir, environ, &out
		if err := cmd.Run(); err != nil {
			return 0, fmt.Errorf("bare %s: %w", argv[0], err)
		}
	}
	took := time.Since(began)
	if out.String() != b.stdout {
		return 0, fmt.Errorf("bare %s wrote %q", b.commands[len(b.commands)-1][0], out.String())
	}
	return took, nil
}

// interpreter finds a language's interpreter itself, which it prints when
// asked, rather than a version manager's shim, which would make bare
// processes look slow.
func interpreter(ctx context.Context, name string, ask ...string) (string, error) {
	shim, err := exec.LookPath(name)
	if err != nil {
		return "", errors.New(name + " is not in PATH: bench measures beside it")
	}
	out, err := exec.CommandContext(ctx, shim, ask...).Output()
	if err != nil {
		return "", fmt.Errorf("ask %s where it is: %w", name, err)
	}
	path, err := filepath.EvalSymlinks(strings.TrimSpace(string(out)))
	if err != nil {
		return "", fmt.Errorf("find %s: %w", name, err)
	}
	return path, nil
}

func python(ctx context.Context) (string, error) {
	return interpreter(ctx, "python3", "-c", "import sys; print(sys.executable)")
}

func node(ctx context.Context) (string, error) {
	return interpreter(ctx, "node", "-p", "process.execPath")
}

// barePython prints hello from a file.
func barePython(ctx context.Context) (*bare, error) {
	path, err := python(ctx)
	if err != nil {
		return nil, err
	}
	b, err := newBare("hello, world\n")
	if err != nil {
		return nil, err
	}
	b.commands = [][]string{{path, "hello.py"}}
	if err := b.write("hello.py", helloCode); err != nil {
		b.close()
		return nil, err
	}
	return b, nil
}
