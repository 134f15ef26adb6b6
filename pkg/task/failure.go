package task

import (
	"errors"
	"time"
)

// Failure is how a [Handler] tells the queue that an evaluation was not brought to its end. The store has already
// decided what becomes of the evaluation; the queue follows, so that its own lists of retries and of archived tasks
// tell the same story. Any other error is tried again after a second.
type Failure struct {
	Err   error
	Delay time.Duration // until the next try
	Final bool          // there is no next try: the task is archived
}

func (f *Failure) Error() string { return f.Err.Error() }

func (f *Failure) Unwrap() error { return f.Err }

// delayOf returns the time before a failed task's next try.
func delayOf(err error) time.Duration {
	if f, ok := errors.AsType[*Failure](err); ok {
		return max(f.Delay, 0)
	}
	return time.Second
}
