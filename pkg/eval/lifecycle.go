package eval

import (
	"fmt"
	"time"
)

// Rules are the numbers of the life cycle.
type Rules struct {
	// FirstLook is how long after a dispatch the reconciler checks that a
	// queued evaluation is still in the queue.
	FirstLook time.Duration
	// PoisonAfter fails an evaluation that took down this many workers or
	// executors while nothing else ran there.
	PoisonAfter int
	// MaxLost fails an evaluation whose worker or executor vanished this
	// often, whoever is to blame.
	MaxLost int
	// Window is how many evaluations of one priority wait in the queue at
	// once; the others wait in the store, where the next is chosen fairly.
	Window int
	// AgeAfter is how long an evaluation waits until it is dispatched at the
	// next higher priority.
	AgeAfter time.Duration
	// MaxRunning bounds the evaluations of one client that run at once. 0: no bound.
	MaxRunning int
	// FullFor is the age at which waiting for a free slot ends in failure.
	FullFor time.Duration
}

// DefaultRules returns the rules that crucible starts with.
func DefaultRules() Rules {
	return Rules{
		FirstLook: 5 * time.Second, PoisonAfter: 3, MaxLost: 10, Window: 64, AgeAfter: time.Minute, FullFor: 24 * time.Hour,
	}
}

// Change is what one operation did to one evaluation. A store writes all of
// it in one transaction, or nothing.
type Change struct {
	Evaluation Evaluation // as it is now
	Event      *Event     // to append; Cursor is given by the store
	Attempt    *Attempt   // to insert, or to replace by its number
	DeadLetter *DeadLetter
	Callback   *Callback // to insert: the evaluation has ended and its client wants to hear of it
}

// Outcome is what a worker reports about its attempt: exactly one of a
// result, a failure or a cancel.
type Outcome struct {
	Result     *Result       `json:"result,omitempty"`
	Failure    *Failure      `json:"failure,omitempty"`
	Cancelled  bool          `json:"cancelled,omitempty"`   // with the partial Result, if there is one
	RetryAfter time.Duration `json:"retry_after,omitempty"` // with a failure: not sooner than this, nanoseconds
	Executor   string        `json:"executor,omitempty"`    // where it ran
}

// Accept makes a queued evaluation of a validated spec: attempt 0, event 1.
// Its CreatedAt may say that it was accepted before now, elsewhere.
func Accept(e Evaluation, now time.Time, rules Rules) Change {
	e.Status, e.DispatchSeq = Queued, 1
	if e.CreatedAt.IsZero() || e.CreatedAt.After(now) {
		e.CreatedAt = now
	}
	next := now.Add(rules.FirstLook)
	if e.Spec.RunAt != nil && e.Spec.RunAt.After(now) {
		next = *e.Spec.RunAt
	}
	e.NextDispatchAt, e.DispatchedAt = &next, &now
	if e.Spec.ExpiresIn > 0 {
		from := e.CreatedAt
		if e.Spec.RunAt != nil && e.Spec.RunAt.After(from) {
			from = *e.Spec.RunAt
		}
		e.ExpiresAt = ptr(StoreTime(from.Add(time.Duration(e.Spec.ExpiresIn))))
	}
	return e.changed(EventQueued, now, "")
}

// Suspect reports whether a worker or an executor has vanished while it ran
// this evaluation. It then runs alone, so that it takes no other down with it
// and so that the blame is certain.
func (e Evaluation) Suspect() bool { return e.Lost > 0 }

// Claim gives a queued evaluation to a worker until now + lease. Any other
// status, and a dispatch that was replaced by a later one, is a KindConflict
// error that carries the status.
func (e Evaluation) Claim(r ClaimRequest, now time.Time) (Change, error) {
	if e.Status != Queued {
		return Change{}, e.conflict("cannot be claimed")
	}
	if r.Seq != 0 && r.Seq != e.DispatchSeq {
		return Change{}, &Error{Kind: KindConflict, Status: e.Status,
			Message: fmt.Sprintf("dispatch %d of evaluation %s was replaced by dispatch %d", r.Seq, e.ID, e.DispatchSeq)}
	}
	e.Status, e.Worker, e.Executor, e.Failure = Running, r.Worker, "", nil
	e.Attempt++
	e.StartedAt, e.LeaseUntil, e.NextDispatchAt, e.DispatchedAt = &now, ptr(StoreTime(now.Add(r.Lease))), nil, nil
	c := e.changed(EventRunning, now, "")
	c.Attempt = &Attempt{Key: e.Key, Number: e.Attempt, Worker: r.Worker, StartedAt: now, Outcome: AttemptRunning, Alone: r.Alone}
	return c, nil
}

// Beat extends the lease of an attempt that still holds the evaluation.
// Otherwise it is a KindLeaseLost error.
func (e Evaluation) Beat(attempt int, lease time.Duration, now time.Time) (Change, error) {
	if err := e.held(attempt); err != nil {
		return Change{}, err
	}
	e.LeaseUntil, e.UpdatedAt = ptr(StoreTime(now.Add(lease))), now
	return Change{Evaluation: e}, nil
}

// RequestCancel ends a queued evaluation at once and asks for the end of a
// running one. Asking again while it runs changes nothing. A terminal one is
// a KindConflict error that carries the status.
func (e Evaluation) RequestCancel(reason string, now time.Time) (Change, error) {
	if e.Status.Terminal() {
		return Change{}, e.conflict("has already ended")
	}
	if e.CancelRequestedAt != nil {
		return Change{Evaluation: e}, nil
	}
	e.CancelRequestedAt, e.Reason = &now, reason
	if e.Status == Queued {
		return e.end(Cancelled, now, reason), nil
	}
	return e.changed(EventCancelRequested, now, reason), nil
}

// Finish applies the outcome of an attempt that still holds the evaluation;
// otherwise it is a KindLeaseLost error. attempt is the row written by Claim.
// rnd lies in [0, 1) and is the jitter of a retry.
func (e Evaluation) Finish(attempt Attempt, o Outcome, now time.Time, rnd float64, rules Rules) (Change, error) {
	if err := e.held(attempt.Number); err != nil {
		return Change{}, err
	}
	e.Executor, e.LeaseUntil = o.Executor, nil
	attempt.Executor, attempt.FinishedAt, attempt.Failure = o.Executor, &now, o.Failure
	if o.Result != nil {
		attempt.WallMS, attempt.CPUMS, attempt.MemoryPeak = o.Result.WallMS, o.Result.CPUMS, o.Result.MemoryPeakBytes
	}
	var c Change
	switch {
	case o.Cancelled, o.Failure != nil && e.CancelRequestedAt != nil:
		attempt.Outcome, e.Result = AttemptCancelled, o.Result
		c = e.end(Cancelled, now, e.Reason)
	case o.Result != nil:
		attempt.Outcome = AttemptCompleted
		e.Result, e.Verdict, e.Cause = o.Result, o.Result.Verdict, o.Result.Cause
		c = e.end(Completed, now, "")
	case o.Failure != nil:
		c = e.failed(*o.Failure, o.RetryAfter, now, rnd, rules)
		attempt.Outcome = AttemptRetried
		if c.Evaluation.Status == Failed {
			attempt.Outcome = AttemptFailed
		}
	default:
		return Change{}, Errorf(KindInvalid, "an outcome needs a result, a failure or a cancel")
	}
	c.Attempt = &attempt
	return c, nil
}

// Reap takes a running evaluation from a worker whose lease has run out. It
// is queued again, or cancelled if that was asked for, or failed as poison.
// ok is false when the lease still holds.
func (e Evaluation) Reap(attempt Attempt, now time.Time, rnd float64, rules Rules) (c Change, ok bool) {
	if e.Status != Running || e.LeaseUntil == nil || e.LeaseUntil.After(now) {
		return Change{}, false
	}
	e.Lost++
	e.LeaseUntil = nil
	f := Failure{KindUnavailable, fmt.Sprintf("worker %s stopped renewing its lease during attempt %d", e.Worker, e.Attempt)}
	switch {
	case e.CancelRequestedAt != nil:
		c = e.end(Cancelled, now, e.Reason)
	case e.Lost >= rules.PoisonAfter:
		f = Failure{KindPoison, fmt.Sprintf("%d workers vanished while running it; it will not be tried again by itself", e.Lost)}
		e.Failure = &f
		c = e.end(Failed, now, f.Message)
	default:
		c = e.failed(f, 0, now, rnd, rules)
		if c.Evaluation.Status == Queued { // the wait for the lease was delay enough
			c.Evaluation.NextDispatchAt = &now
		}
	}
	attempt.Outcome, attempt.FinishedAt, attempt.Failure = AttemptLost, &now, &f
	c.Attempt = &attempt
	return c, true
}

// Expire fails a queued evaluation whose deadline has passed. ok is false
// when it has not.
func (e Evaluation) Expire(now time.Time) (c Change, ok bool) {
	if e.Status != Queued || e.ExpiresAt == nil || e.ExpiresAt.After(now) {
		return Change{}, false
	}
	e.Failure = &Failure{KindExpired, fmt.Sprintf("it had not ended %s after it was due to run; give expires_in more time, or ask for less at once", e.Spec.ExpiresIn)}
	return e.end(Failed, now, e.Failure.Message), true
}

// failed decides between another try and the end, by the table of kinds and
// the evaluation's retry policy.
func (e Evaluation) failed(f Failure, after time.Duration, now time.Time, rnd float64, rules Rules) Change {
	policy, ok := RetryPolicyByName(e.Spec.RetryPolicy)
	if !ok {
		policy, _ = RetryPolicyByName(PolicyDefault)
	}
	e.Failure = &f
	again, delay := true, time.Duration(0)
	switch f.Kind.Info().Retry {
	case RetryCounted:
		e.Tries++
		again, delay = e.Tries < policy.Tries, policy.Delay(e.Tries, rnd)
	case RetryLater:
		quota, _ := RetryPolicyByName(PolicyQuotaExceeded)
		again, delay = now.Sub(e.CreatedAt) < rules.FullFor, quota.Delay(1, rnd)
		if after > 0 {
			delay = after
		}
	case RetryAtOnce:
	default:
		again = false
	}
	if !again {
		return e.end(Failed, now, f.Message)
	}
	e.Status = Queued
	e.DispatchSeq++
	e.NextDispatchAt = ptr(StoreTime(now.Add(max(delay, after))))
	return e.changed(EventRequeued, now, f.Message)
}

func (e Evaluation) end(s Status, now time.Time, why string) Change {
	e.Status, e.FinishedAt, e.NextDispatchAt, e.DispatchedAt, e.LeaseUntil = s, &now, nil, nil, nil
	c := e.changed(map[Status]EventType{Completed: EventCompleted, Failed: EventFailed, Cancelled: EventCancelled}[s], now, why)
	c.Callback = c.Evaluation.callback(now)
	if s == Failed {
		c.DeadLetter = &DeadLetter{Key: e.Key, Language: e.Spec.Language, Failure: *e.Failure, Attempts: e.Attempt, FailedAt: now}
	}
	return c
}

func (e Evaluation) changed(t EventType, now time.Time, message string) Change {
	e.EventSeq++
	e.UpdatedAt = now
	return Change{Evaluation: e, Event: &Event{
		Key: e.Key, Seq: e.EventSeq, Type: t, Status: e.Status, Verdict: e.Verdict, Cause: e.Cause,
		Attempt: e.Attempt, At: now, Worker: e.Worker, Message: message,
	}}
}

func (e Evaluation) held(attempt int) error {
	if e.Status != Running || e.Attempt != attempt {
		return &Error{Kind: KindLeaseLost, Status: e.Status,
			Message: fmt.Sprintf("attempt %d no longer holds evaluation %s: it is %s at attempt %d", attempt, e.ID, e.Status, e.Attempt)}
	}
	return nil
}

func (e Evaluation) conflict(what string) error {
	return &Error{Kind: KindConflict, Status: e.Status, Message: fmt.Sprintf("evaluation %s %s: it is %s", e.ID, what, e.Status)}
}
