package lang

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/crucible-eval/crucible/executor/internal/sandbox"
)

// askTimeout bounds a question to a tool. A version manager's shim can take
// half a second.
const askTimeout = 10 * time.Second

// inBoxes are the host folders that every box has.
var inBoxes = []string{"/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"}

// managers are programs that stand in for others under their names. One that
// cannot be asked for the real program is passed over.
var managers = []string{"rustup", "ccache", "distcc", "sccache", "mise", "asdf", "volta-shim", "pyenv", "rbenv", "nodenv", "jenv"}

// found is a tool on this machine.
type found struct {
	path   string // the real program, links followed
	prefix string // its installation, or ""
	stamp  string // changes when the program does
}

// find looks a tool up.
func (t *Tool) find(ctx context.Context) (found, error) {
	var errs []error
	seen := map[string]bool{}
	for _, candidate := range t.candidates() {
		real, err := filepath.EvalSymlinks(candidate)
		as := real + "\x00" + filepath.Base(candidate)
		if err != nil || seen[as] {
			continue
		}
		seen[as] = true
		f, err := t.resolve(ctx, candidate, real)
		if err == nil {
			return f, nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", candidate, err))
	}
	if len(errs) > 0 {
		return found{}, errors.Join(errs...)
	}
	return found{}, fmt.Errorf("none of %s is in PATH; install it, or add its folder to PATH", strings.Join(t.Commands, ", "))
}

// candidates are the programs on this machine that a tool may be, the best
// first.
func (t *Tool) candidates() []string {
	var list []string
	for _, command := range t.Commands {
		if home, ok := strings.CutPrefix(command, "~/"); ok {
			command = filepath.Join(os.Getenv("HOME"), home)
		}
		var paths []string
		if filepath.IsAbs(command) {
			paths, _ = filepath.Glob(command) // a bad pattern matches nothing
		} else {
			for _, dir := range filepath.SplitList(os.Getenv("PATH")) {
				paths = append(paths, filepath.Join(dir, command))
			}
		}
		for _, path := range paths {
			if filepath.IsAbs(path) && executable(path) {
				list = append(list, path)
			}
		}
	}
	return list
}

func (t *Tool) resolve(ctx context.Context, candidate, real string) (found, error) {
	f := found{path: real}
	switch {
	case len(t.Ask) > 0:
		answer, err := ask(ctx, candidate, t.Ask)
		if err != nil {
			return found{}, err
		}
		f.path = answer[0]
		if len(answer) > 1 {
			f.prefix = answer[1]
		}
		if t.Answers == "prefix" {
			f.prefix, f.path = answer[0], filepath.Join(answer[0], t.Command)
		}
	case isManager(real):
		return found{}, fmt.Errorf("is %s in disguise, which does not say where the real one is", filepath.Base(real))
	}
	path, err := filepath.EvalSymlinks(f.path)
	if err != nil {
		return found{}, err
	}
	if !filepath.IsAbs(path) || !executable(path) {
		return found{}, fmt.Errorf("says it is %q, which cannot be executed", f.path)
	}
	if script(path) && (!t.Script || filepath.Base(filepath.Dir(path)) == "shims") {
		return found{}, fmt.Errorf("%s is a script, not the real program", path)
	}
	f.path = path
	if f.prefix == "" && t.Prefix > 0 {
		f.prefix = path
		for range t.Prefix {
			f.prefix = filepath.Dir(f.prefix)
		}
	}
	if f.prefix != "" {
		if f.prefix, err = filepath.EvalSymlinks(f.prefix); err != nil {
			return found{}, err
		}
	}
	info, err := os.Stat(path)
	if err != nil {
		return found{}, err
	}
	f.stamp = fmt.Sprintf("%s %s %d %d", f.path, f.prefix, info.Size(), info.ModTime().UnixNano())
	return f, nil
}

// ask runs a tool on the host and returns the lines that it prints. The tool
// is the operator's, as PATH is; no program of a user comes near it.
func ask(ctx context.Context, path string, args []string) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Dir, cmd.Env, cmd.WaitDelay = "/", hostEnv(nil), time.Second
	var out, errs capped
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		line, _, _ := strings.Cut(strings.TrimSpace(errs.String()), "\n")
		return nil, fmt.Errorf("asked where the real one is: %w: %s", err, line)
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if lines[0] == "" {
		return nil, errors.New("asked where the real one is, it said nothing")
	}
	return lines, nil
}

// hostEnv is what a tool on the host gets of the executor's environment: what
// version managers need to find their versions, and nothing that may be secret.
func hostEnv(more map[string]string) []string {
	var env []string
	for _, kv := range os.Environ() {
		name, _, _ := strings.Cut(kv, "=")
		if slices.Contains([]string{"PATH", "HOME", "LANG", "TMPDIR", "GOROOT", "JAVA_HOME", "XDG_DATA_HOME"}, name) ||
			slices.ContainsFunc([]string{"PYENV_", "RBENV_", "NODENV_", "RUSTUP_", "ASDF_", "MISE_", "NVM_"}, func(p string) bool { return strings.HasPrefix(name, p) }) {
			env = append(env, kv)
		}
	}
	for name, value := range more {
		env = append(env, name+"="+value)
	}
	return env
}

// binds shows what of the host a box needs beyond what it always has.
func (f found) binds() []sandbox.Bind {
	show := f.prefix
	if show == "" {
		show = f.path
	}
	if inBox(show) {
		return nil
	}
	return []sandbox.Bind{{Host: show, Box: show}}
}

func inBox(path string) bool {
	return slices.ContainsFunc(inBoxes, func(root string) bool { return path == root || strings.HasPrefix(path, root+"/") })
}

func executable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}

func script(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer func() { _ = f.Close() }()
	head := make([]byte, 2)
	_, err = io.ReadFull(f, head)
	return err == nil && string(head) == "#!"
}

func isManager(path string) bool { return slices.Contains(managers, filepath.Base(path)) }

func digest(parts ...[]byte) string {
	h := sha256.New()
	for _, p := range parts {
		_, _ = fmt.Fprintf(h, "%d ", len(p))
		_, _ = h.Write(p)
	}
	return hex.EncodeToString(h.Sum(nil))[:24]
}

// capped keeps the first 64 KiB that are written to it.
type capped struct{ bytes.Buffer }

func (c *capped) Write(p []byte) (int, error) {
	if room := 64<<10 - c.Len(); room > 0 {
		_, _ = c.Buffer.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}
