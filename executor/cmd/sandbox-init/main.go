//go:build linux

// Command sandbox-init is the part of the sandbox that runs outside the
// executor: the launcher, and the first process of each box. The executor
// uses it when it lies beside its own binary, because a small program starts
// faster; without it, the executor runs itself again under another name.
package main

import (
	"fmt"
	"os"

	"github.com/crucible-eval/crucible/executor/internal/sandbox/parts"
)

func main() {
	parts.Run(os.Args[0])
	fmt.Fprintln(os.Stderr, "sandbox-init is started by the Crucible executor, not by hand")
	os.Exit(2)
}
