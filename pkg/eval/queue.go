package eval

import (
	"context"
	"time"
)

// Dispatch asks for an evaluation to be run.
type Dispatch struct {
	Key
	Seq      int       `json:"seq"` // Evaluation.DispatchSeq
	Priority Priority  `json:"priority"`
	RunAt    time.Time `json:"run_at,omitzero"`
	Trace    string    `json:"trace,omitempty"`
	// Reason is why the store hands it out; empty where it was just accepted.
	Reason DispatchReason `json:"reason,omitempty"`
	// Alone asks the worker to run nothing else beside it: see
	// [Evaluation.Suspect].
	Alone bool `json:"alone,omitempty"`
}

// DispatchReason is why an evaluation is handed to the queue.
type DispatchReason string

const (
	DispatchTurn  DispatchReason = "turn"  // its turn has come
	DispatchRetry DispatchReason = "retry" // the time of its next try has come
	DispatchAgain DispatchReason = "again" // it was dispatched a while ago and has not been claimed: is it in the queue?
)

// Dispatch returns the evaluation's current dispatch.
func (e Evaluation) Dispatch() Dispatch {
	d := Dispatch{Key: e.Key, Seq: e.DispatchSeq, Priority: e.Spec.Priority, Trace: e.Trace, Alone: e.Suspect()}
	if e.Spec.RunAt != nil {
		d.RunAt = *e.Spec.RunAt
	}
	return d
}

// Queue remembers that evaluations must run. It may forget: the store is the
// truth, and the reconciler enqueues again.
type Queue interface {
	// Enqueue makes sure that a worker will be handed the key. Enqueueing
	// the same id and seq twice is not an error and adds nothing while the
	// first still waits. KindUnavailable when the queue cannot be reached.
	Enqueue(ctx context.Context, d Dispatch) error
	// Cancel forgets a dispatch, and wakes the worker that runs the
	// evaluation, so that it asks the store.
	Cancel(ctx context.Context, d Dispatch) error
	// Forget takes dispatches, and those before them of the same
	// evaluations, from the queue and from the list of what it gave up on.
	// What a worker has in hand stays there, and what is not there is no
	// error. KindUnavailable when the queue cannot be reached.
	Forget(ctx context.Context, all []Dispatch) error
}
