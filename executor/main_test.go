package executor_test

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/crucible-eval/crucible/executor"
)

func TestMain(m *testing.M) {
	executor.MaybeInit()
	goleak.VerifyTestMain(m)
}
