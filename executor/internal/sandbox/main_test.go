//go:build linux

package sandbox_test

import (
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/crucible-eval/crucible/executor/internal/sandbox"
)

func TestMain(m *testing.M) {
	sandbox.MaybeInit()
	if len(os.Args) > 0 && os.Args[0] == payloadArg {
		payload(os.Args[1:])
		return
	}
	goleak.VerifyTestMain(m)
}
