// Package task is how evaluations travel from those who accept them to the workers: through Redis, by asynq. It is
// the only package that knows asynq, so that what a queue is made of is decided in one place.
//
//   - [Open] connects to a Redis, or starts one inside the process.
//   - [NewQueue] is the sending side, an eval.Queue.
//   - [Server] is the receiving side: it hands each dispatch to a [Handler].
//   - [Inspector] looks at the queues, pauses them, and is a Prometheus collector.
//
// Redis is disposable. Each evaluation is a row in the store, and the reconciler of every worker enqueues again what
// the queue has lost, so nothing here tries to be the truth: a task carries the key of an evaluation and no more.
//
// A task's id is "<evaluation>:<dispatch_seq>", so that the same dispatch twice is one task. asynq's Unique locks
// are not used: they outlive archived tasks.
package task

import "github.com/crucible-eval/crucible/pkg/eval"

// typeRun is the type of the tasks that ask for a run.
const typeRun = "evaluation:run"

// weights says how often each queue is looked at first, out of their sum. They are not strict: a backlog of critical
// work slows low work down and does not stop it. More queues than these would slow all of them: asynq polls each.
var weights = map[string]int{
	string(eval.PriorityCritical): 6,
	string(eval.PriorityHigh):     4,
	string(eval.PriorityDefault):  3,
	string(eval.PriorityLow):      1,
}

// Queues lists the queues, the most urgent first. There is one for each priority.
func Queues() []string {
	var names []string
	for _, p := range eval.Priorities() {
		names = append(names, string(p))
	}
	return names
}

func queueOf(p eval.Priority) string {
	if !p.Valid() {
		p = eval.PriorityDefault
	}
	return string(p)
}
