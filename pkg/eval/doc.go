// Package eval is the domain of Crucible: what an evaluation is, how it
// lives, and the small interfaces that everything else implements. It imports
// the standard library only.
//
// # The system in one page
//
// A client submits a [Spec]: a program in some language, its input, its
// limits, and perhaps test cases. The API turns it into an [Evaluation] and
// writes it to a [Store] with status [Queued]; only then does it answer 202.
// The row in the store is the truth. After the commit the API hands the
// evaluation's key to a [Queue], which is Redis through asynq. Redis is
// disposable: a reconciler in every worker asks the store what is due
// ([Scheduler]) and enqueues it again, so a lost Redis costs a moment and
// never an evaluation. The queue is kept short: what it has no room for waits
// in the store, where clients take turns (fair.go).
//
// A worker takes a key from the queue and claims it ([Leaser]): queued
// becomes running, the attempt number grows by one, and the worker holds a
// lease that it renews by beats. It passes the program to a [Runner], which
// is an executor: a service that runs it in a sandbox and answers with a
// [Result]. A program that crashes, exceeds a limit or is refused by its
// compiler is a Result with a [Verdict], never an error; an error from a
// Runner means that the platform failed, and its [Kind] says whether another
// try makes sense. Output is seen while the program runs through an
// [OutputLog]; streams too large for a row go to [Blobs].
//
// The worker finishes with an [Outcome]. The store accepts it only from the
// attempt that still holds the evaluation, so what a worker that was thought
// dead reports late changes nothing. A finished evaluation is [Completed]
// (the program ran, see its verdict), [Failed] (the platform gave up; it is a
// dead letter with a reason) or [Cancelled]. These are final, and every
// accepted evaluation reaches exactly one of them.
//
//	          claim (attempt n+1, lease)            finish (attempt n)
//	queued ---------------------> running ----------------------------> completed
//	  ^  |                          | |  \---- platform failed for good -> failed
//	  |  \-- cancel -> cancelled <--/ |
//	  \------ lease lost / retryable platform failure --/
//
// # Where each rule stands
//
//   - status.go has the transitions, as one table.
//   - lifecycle.go has every change of state as a pure function from an
//     Evaluation to a [Change]. Stores call these inside a transaction: no
//     backend has rules of its own.
//   - fair.go has whose turn it is among those that wait.
//   - kind.go has the error kinds: the HTTP status of each, and what it means
//     for a retry. retry.go has the retry policies.
//   - limits.go and validate.go have what a client may ask for.
//   - store.go, runner.go, queue.go, blobs.go and live.go have the interfaces.
//     Package evaltest holds one conformance suite for each.
//
// In one process (crucible up) the local implementations are handed out; in
// a cluster their HTTP twins (package remote) are, and no other code knows
// the difference.
package eval
