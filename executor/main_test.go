//go:build linux

package executor_test

import (
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/crucible-eval/crucible/executor"
	"github.com/crucible-eval/crucible/pkg/testkit"
)

func TestMain(m *testing.M) {
	executor.MaybeInit()
	remove, err := testkit.BuildPrograms("./cmd/sandbox-init")
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
