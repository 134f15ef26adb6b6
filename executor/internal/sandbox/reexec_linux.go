package sandbox

import (
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"

	"github.com/crucible-eval/crucible/executor/internal/sandbox/parts"
)

// hooked says that this program's main calls MaybeInit, so that starting it
// again cannot run it in earnest.
var hooked atomic.Bool

// MaybeInit makes this process a part of the sandbox, if it was started as
// one; it does not return then. Call it first in main, and first in TestMain.
func MaybeInit() {
	hooked.Store(true)
	parts.Run(os.Args[0])
}

// initProgram opens the program that becomes launcher and init.
func initProgram(configured string) (*os.File, error) {
	if configured != "" {
		return os.Open(configured)
	}
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find own executable: %w", err)
	}
	if f, err := os.Open(filepath.Join(filepath.Dir(self), "sandbox-init")); err == nil {
		return f, nil
	}
	if !hooked.Load() {
		return nil, fmt.Errorf("%w: no sandbox-init beside %s, and its main does not call sandbox.MaybeInit", ErrUnsupported, filepath.Base(self))
	}
	// The running program, even when its file was replaced meanwhile.
	return os.Open("/proc/self/exe")
}
