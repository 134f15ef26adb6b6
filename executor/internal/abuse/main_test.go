//go:build linux

package abuse_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/crucible-eval/crucible/executor"
	"github.com/crucible-eval/crucible/executor/internal/abuse"
	"github.com/crucible-eval/crucible/pkg/testkit"
)

// made is what the tests build once: the programs for the boxes, as they are
// shipped rather than with the race detector, and a folder of languages.
var made struct {
	dir, hostile, init, languages string
}

func TestMain(m *testing.M) {
	executor.MaybeInit()
	if err := build(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		_ = os.RemoveAll(made.dir)
		os.Exit(1)
	}
	// What executors look for in their environment and must not pass on.
	_ = os.Setenv("CRUCIBLE_SECRET", strings.Join(abuse.Secret[:], "-"))
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		_ = os.RemoveAll(made.dir)
		os.Exit(code)
	}))
}

func build() error {
	// Not in /tmp, where boxes have a file system of their own, and readable for
	// the users of boxes.
	var err error
	if made.dir, err = os.MkdirTemp("/var/tmp", "crucible-abuse-"); err != nil {
		return err
	}
	made.hostile, made.init = filepath.Join(made.dir, "hostile"), filepath.Join(made.dir, "sandbox-init")
	made.languages = filepath.Join(made.dir, "languages")
	if err := os.Chmod(made.dir, 0o755); err != nil {
		return err
	}
	if err := testkit.Build(made.dir, "./hostile", "../../cmd/sandbox-init"); err != nil {
		return err
	}
	if err := os.CopyFS(made.languages, os.DirFS("testdata/languages")); err != nil {
		return err
	}
	for id, compile := range map[string]string{
		abuse.Hostile: "",
		abuse.Planted: fmt.Sprintf("compile: {steps: [[%q, plant]], limits: {disk_bytes: 1048576}}\n", made.hostile),
	} {
		if err := os.WriteFile(filepath.Join(made.languages, id+".yaml"), language(id, compile), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// language is the file of a language whose programs are our own.
func language(id, compile string) []byte {
	return fmt.Appendf(nil, `
id: %s
name: Hostile
source: main.txt
%[3]sbinds: [%[2]q]
run: [%[2]q]
env:
  # Forks of a Go program have one thread, and nobody to collect their garbage.
  GOGC: "off"
  GOMAXPROCS: "1"
  GODEBUG: asyncpreemptoff=1
version:
  argv: [%[2]q, version]
example: "-"
smoke:
  code: "-"
  stdout: "usage: hostile NAME [ARGUMENT...]; hostile list\n"
`, id, made.hostile, compile)
}
