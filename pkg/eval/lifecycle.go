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

// Check refuses numbers that make no sense. KindInvalid.
func (r Rules) Check() error {
	var bad []FieldError
	atLeast := func(field string, ok bool, least string) {
		if !ok {
			bad = append(bad, FieldError{field, "must be at least " + least})
		}
	}
	atLeast("first_look", r.FirstLook >= time.Millisecond, "1ms")
	atLeast("poison_after", r.PoisonAfter >= 1, "1")
	atLeast("max_lost", r.MaxLost >= r.PoisonAfter, "poison_after")
	atLeast("window", r.Window >= 1, "1")
	atLeast("age_after", r.AgeAfter >= time.Second, "1s")
	atLeast("max_running", r.MaxRunning >= 0, "0, which is no bound")
	atLeast("full_for", r.FullFor >= time.Second, "1s")
	return Invalid(bad)
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
// result, a failure or a cancel. A cancel, and a failure of KindExpired, come
// with the partial Result, if there is one.
type Outcome struct {
	Result     *Result       `json:"result,omitempty"`
	Failure    *Failure      `json:"failure,omitempty"`
	Cancelled  bool          `json:"cancelled,omitempty"`
	RetryAfter time.Duration `json:"retry_after,omitempty"` // with a failure: not sooner than this, nanoseconds
	Executor   string        `json:"executor,omitempty"`    // where it ran
}

// Accept makes a queued evaluation of a validated spec: attempt 0, event 1.
// Its CreatedAt may say that it was accepted before now, elsewhere. It waits
// for its run_at or in the line, where [Standing.Join] gives it its turn.
func Accept(e Evaluation, now time.Time) Change {
	e.Status, e.DispatchSeq = Queued, 1
	if e.CreatedAt.IsZero() || e.CreatedAt.After(now) {
		e.CreatedAt = now
	}
	e.NextDispatchAt, e.DispatchedAt = nil, nil
	if e.Spec.RunAt != nil && e.Spec.RunAt.After(now) {
		e.NextDispatchAt = ptr(*e.Spec.RunAt)
	}
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
// status, a dispatch that was replaced by a later one, and a deadline that has
// passed are KindConflict errors that carry the status.
func (e Evaluation) Claim(r ClaimRequest, now time.Time) (Change, error) {
	switch {
	case e.Status != Queued:
		return Change{}, e.conflict("cannot be claimed")
	case r.Seq != 0 && r.Seq != e.DispatchSeq:
		return Change{}, &Error{Kind: KindConflict, Status: e.Status,
			Message: fmt.Sprintf("dispatch %d of evaluation %s was replaced by dispatch %d", r.Seq, e.ID, e.DispatchSeq)}
	case e.expired(now):
		return Change{}, e.conflict("has passed its deadline")
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
	e.Executor = o.Executor
	attempt.Executor = o.Executor
	if o.Result != nil {
		attempt.WallMS, attempt.CPUMS, attempt.MemoryPeak = o.Result.WallMS, o.Result.CPUMS, o.Result.MemoryPeakBytes
	}
	switch {
	case o.Cancelled, o.Failure != nil && e.CancelRequestedAt != nil:
		e.Result, attempt.Failure = o.Result, o.Failure
		return e.end(Cancelled, now, e.Reason).ending(attempt, AttemptCancelled), nil
	case o.Failure != nil:
		if o.Failure.Kind == KindExpired {
			e.Result = o.Result
		}
		c := e.failed(&attempt, *o.Failure, o.RetryAfter, now, rnd, rules)
		if c.Evaluation.Status == Failed {
			return c.ending(attempt, AttemptFailed), nil
		}
		return c.ending(attempt, AttemptRetried), nil
	case o.Result != nil:
		e.Result, e.Verdict, e.Cause = o.Result, o.Result.Verdict, o.Result.Cause
		return e.end(Completed, now, "").ending(attempt, AttemptCompleted), nil
	}
	return Change{}, Errorf(KindInvalid, "an outcome needs a result, a failure or a cancel")
}

// Reap takes a running evaluation from a worker whose lease has run out. It
// is queued again, or cancelled if that was asked for, or failed: as poison,
// or because its deadline has passed. ok is false when the lease still holds.
func (e Evaluation) Reap(attempt Attempt, now time.Time, rnd float64, rules Rules) (c Change, ok bool) {
	if e.Status != Running || e.LeaseUntil == nil || e.LeaseUntil.After(now) {
		return Change{}, false
	}
	f := Failure{KindWorkerLost, fmt.Sprintf("worker %s stopped renewing its lease during attempt %d", e.Worker, e.Attempt)}
	if e.CancelRequestedAt != nil {
		e = e.lost(attempt)
		attempt.Failure = &f
		c = e.end(Cancelled, now, e.Reason)
	} else {
		c = e.failed(&attempt, f, 0, now, rnd, rules)
	}
	return c.ending(attempt, AttemptLost), true
}

// ending adds the row of the attempt that has ended by the change.
func (c Change) ending(attempt Attempt, o AttemptOutcome) Change {
	attempt.Outcome, attempt.FinishedAt, attempt.NextTryAt = o, ptr(c.Evaluation.UpdatedAt), c.Evaluation.NextDispatchAt
	c.Attempt = &attempt
	return c
}

// Expire fails a queued evaluation whose deadline has passed. ok is false
// when it has not.
func (e Evaluation) Expire(now time.Time) (c Change, ok bool) {
	if e.Status != Queued || !e.expired(now) {
		return Change{}, false
	}
	message := fmt.Sprintf("it had not ended %s after it was due to run; give expires_in more time, or ask for less at once", e.Spec.ExpiresIn)
	if e.Failure != nil {
		message += "; the last attempt: " + e.Failure.Message
	}
	e.Failure = &Failure{KindExpired, message}
	return e.end(Failed, now, message), true
}

func (e Evaluation) expired(now time.Time) bool { return e.ExpiresAt != nil && !e.ExpiresAt.After(now) }

// Due is when it was to run at first: when it was accepted, or its run_at.
func (e Evaluation) Due() time.Time {
	if e.Spec.RunAt != nil && e.Spec.RunAt.After(e.CreatedAt) {
		return *e.Spec.RunAt
	}
	return e.CreatedAt
}

// lost counts an attempt whose worker or executor vanished.
func (e Evaluation) lost(attempt Attempt) Evaluation {
	e.Lost++
	if attempt.Alone {
		e.LostAlone++
	}
	return e
}

// poison says why an evaluation that was lost too often is not run again, or
// "". Nobody is blamed for what happened while others ran beside it.
func (e Evaluation) poison(rules Rules) string {
	switch {
	case e.LostAlone >= rules.PoisonAfter:
		return fmt.Sprintf("%d of %d attempts took their worker or executor down while nothing else ran there: it is the program's doing, and it is not tried again by itself", e.LostAlone, e.Attempt)
	case e.Lost >= rules.MaxLost:
		return fmt.Sprintf("%d of %d attempts lost their worker or executor, and it is not tried again by itself: look for the reason in their logs, then retry it", e.Lost, e.Attempt)
	}
	return ""
}

// failed decides between another try and the end, by the table of kinds, how
// often the evaluation was lost, its retry policy and its deadline. What it
// decides stands in the failure, of the evaluation and of the attempt, after
// what happened.
func (e Evaluation) failed(attempt *Attempt, f Failure, after time.Duration, now time.Time, rnd float64, rules Rules) Change {
	policy, ok := RetryPolicyByName(e.Spec.RetryPolicy)
	if !ok {
		policy, _ = RetryPolicyByName(PolicyDefault)
	}
	quota, _ := RetryPolicyByName(PolicyQuotaExceeded)
	after = min(max(after, 0), quota.Cap)
	if f.Kind == KindExecutorLost || f.Kind == KindWorkerLost {
		e = e.lost(*attempt)
	}
	refused := e.Refused + 1
	e.Refused = 0

	delay, again, never := after, "which does not count as a try", "" // never: why there is no other try
	switch f.Kind.Info().Retry {
	case RetryCounted:
		e.Tries++
		attempt.Counted = true
		delay, again = max(policy.Delay(e.Tries, rnd), after), fmt.Sprintf("try %d of %d", e.Tries+1, policy.Tries)
		if e.Tries >= policy.Tries {
			never = fmt.Sprintf("that was the last of %d tries", policy.Tries)
		}
	case RetryLater:
		e.Refused = refused
		if delay == 0 {
			delay = quota.Delay(refused, rnd)
		}
		if now.Sub(e.Due()) >= rules.FullFor {
			never = fmt.Sprintf("it has waited for %s, which is as long as it may", rules.FullFor)
		}
	case RetryAtOnce:
	default:
		e.Failure, attempt.Failure = &f, &f
		return e.end(Failed, now, f.Message)
	}
	next := StoreTime(now.Add(delay))
	switch poison := e.poison(rules); {
	case poison != "":
		f.Kind, never = KindPoison, poison
	case never == "" && e.expired(next):
		f.Kind, never = KindExpired, fmt.Sprintf("its deadline, %s, comes before the next try could begin", e.ExpiresAt.Format(time.RFC3339))
	}
	e.Failure, attempt.Failure = &f, &f
	if never != "" {
		f.Message += "; " + never
		return e.end(Failed, now, f.Message)
	}
	when := "now"
	if delay > 0 {
		when = "in " + delay.Round(100*time.Millisecond).String()
	}
	f.Message += fmt.Sprintf("; it is tried again %s, %s", when, again)
	e.Status, e.LeaseUntil, e.NextDispatchAt = Queued, nil, &next
	e.DispatchSeq++
	return e.changed(EventRequeued, now, f.Message)
}

func (e Evaluation) end(s Status, now time.Time, why string) Change {
	e.Status, e.FinishedAt, e.NextDispatchAt, e.DispatchedAt, e.LeaseUntil = s, &now, nil, nil, nil
	c := e.changed(map[Status]EventType{Completed: EventCompleted, Failed: EventFailed, Cancelled: EventCancelled}[s], now, why)
	c.Callback = c.Evaluation.callback(now)
	if s == Failed {
		c.DeadLetter = ptr(c.Evaluation.DeadLetter())
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
