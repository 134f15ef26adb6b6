//go:build linux

// Package parts tells which part of the sandbox this process is.
package parts

import (
	"os"
	"runtime"

	"github.com/crucible-eval/crucible/executor/internal/sandbox/boxinit"
	"github.com/crucible-eval/crucible/executor/internal/sandbox/launcher"
	"github.com/crucible-eval/crucible/executor/internal/sandbox/probe"
	"github.com/crucible-eval/crucible/executor/internal/sandbox/wire"
)

// The leader of init's threads must stay the privileged one, and the one of
// the process that becomes the program must be the one that does; only here is
// the main goroutine sure to be on it.
func init() {
	if len(os.Args) > 0 && (os.Args[0] == wire.InitArg || os.Args[0] == wire.ProgramArg) {
		runtime.LockOSThread()
	}
}

// Run becomes the part that argv0 names and does not return, or returns at
// once where argv0 names none.
func Run(argv0 string) {
	switch argv0 {
	case wire.LauncherArg:
		launcher.Main()
	case wire.InitArg:
		boxinit.Main()
	case wire.ConfinedArg:
		boxinit.ConfinedMain()
	case wire.ProgramArg:
		boxinit.ProgramMain()
	case wire.ProbeArg:
		probe.Main()
	}
}
