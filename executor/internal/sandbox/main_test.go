//go:build linux

package sandbox_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"

	"github.com/crucible-eval/crucible/executor/internal/sandbox"
	"github.com/crucible-eval/crucible/pkg/testkit"
)

func TestMain(m *testing.M) {
	sandbox.MaybeInit()
	if filepath.Base(os.Args[0]) == "runsc" {
		os.Exit(fakeRunsc(os.Args[1]))
	}
	remove, err := testkit.BuildPrograms("./payload", "../../cmd/sandbox-init")
	if err != nil {
		remove()
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		remove()
		os.Exit(code)
	}))
}
