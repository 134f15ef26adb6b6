// Package executor runs programs that nobody trusts, in sandboxes, and says
// exactly what happened to them.
//
// [Open] makes a [Local]: an eval.Executor in this process. [New] puts one
// behind HTTP; package remote has the client. A program whose main uses
// either must call [MaybeInit] first, because the sandbox starts the same
// program again as a part of itself:
//
//	func main() {
//		executor.MaybeInit()
//		...
//		local, err := executor.Open(ctx, executor.Config{DataDir: dir}, logger, registry)
//		...
//		defer local.Close()
//		server, err := executor.New(executor.ServiceConfig{Listen: "127.0.0.1:8082"}, local, logger, registry)
//		...
//	}
//
// Boxes need Linux; elsewhere Open fails and says so.
package executor
