package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/crucible-eval/crucible/pkg/eval"
)

// hello is the program that also runs bare.
const hello = "hello"

const helloCode = `print("hello, world")` + "\n"

var programs = map[string]struct {
	program eval.Program
	stdout  string
}{
	hello:        {eval.Program{Language: "python", Code: eval.Bytes(helloCode)}, "hello, world\n"},
	"bash":       {eval.Program{Language: "bash", Code: eval.Bytes("echo $((6 * 7))\n")}, "42\n"},
	"javascript": {eval.Program{Language: "javascript", Code: eval.Bytes("console.log([3, 1, 2].sort().join());\n")}, "1,2,3\n"},
	"sum":        {eval.Program{Language: "python", Code: eval.Bytes("print(sum(i * i for i in range(100000)))\n")}, "333328333350000\n"},
}

// Programs lists what can be measured.
func Programs() []string { return slices.Sorted(maps.Keys(programs)) }

// bare runs the hello program without a platform.
type bare struct {
	interpreter string
	file        string
	dir         string
}

// newBare finds the interpreter itself, rather than a version manager's
// shim, which would make bare processes look slow.
func newBare(ctx context.Context) (*bare, error) {
	shim, err := exec.LookPath("python3")
	if err != nil {
		return nil, errors.New("python3 is not in PATH: bench measures beside it")
	}
	out, err := exec.CommandContext(ctx, shim, "-c", "import sys; print(sys.executable)").Output()
	if err != nil {
		return nil, fmt.Errorf("ask python3 where it is: %w", err)
	}
	interpreter, err := filepath.EvalSymlinks(strings.TrimSpace(string(out)))
	if err != nil {
		return nil, fmt.Errorf("find python3: %w", err)
	}
	dir, err := os.MkdirTemp("", "crucible-bench-")
	if err != nil {
		return nil, err
	}
	b := &bare{interpreter: interpreter, dir: dir, file: filepath.Join(dir, "hello.py")}
	if err := os.WriteFile(b.file, []byte(helloCode), 0o600); err != nil {
		b.close()
		return nil, err
	}
	return b, nil
}

func (b *bare) close() { _ = os.RemoveAll(b.dir) } // a folder in the system's temporary one

func (b *bare) run(ctx context.Context) (time.Duration, error) {
	cmd := exec.CommandContext(ctx, b.interpreter, b.file)
	var out bytes.Buffer
	cmd.Stdout = &out
	began := time.Now()
	if err := cmd.Run(); err != nil {
		return 0, fmt.Errorf("bare %s: %w", b.interpreter, err)
	}
	took := time.Since(began)
	if out.String() != "hello, world\n" {
		return 0, fmt.Errorf("bare %s wrote %q", b.interpreter, out.String())
	}
	return took, nil
}
