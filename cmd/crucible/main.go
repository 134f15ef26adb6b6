// Command crucible is all of Crucible in one program: the platform, its
// services one by one, and a client for them. crucible --help tells.
package main

import (
	"os"

	"github.com/crucible-eval/crucible/cmd/internal/cli"
	"github.com/crucible-eval/crucible/executor"
)

func main() {
	executor.MaybeInit() // this process may be a part of the sandbox
	ctx, hard, stop := cli.Signals()
	code := cli.Main(ctx, hard, os.Args[1:], cli.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr})
	stop()
	os.Exit(code)
}
