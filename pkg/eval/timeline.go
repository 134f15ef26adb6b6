package eval

import (
	"fmt"
	"time"
)

// MomentType names what a moment of a timeline is: an [EventType], or one of
// those that are still to come.
type MomentType = EventType

const (
	MomentNextTry MomentType = "next_try" // to come: the next attempt may begin
	MomentExpires MomentType = "expires"  // to come: it fails unless it has ended
)

// Moment is an entry of the timeline of an evaluation: an event, with what is
// known of the attempt that begins or ends with it.
type Moment struct {
	At          time.Time
	Type        MomentType
	Status      Status // after it
	Attempt     *Ended // which it begins or ends; nil: none
	Explanation string // for people: what happened and why
}

// Ended is an attempt with what was decided at its end.
type Ended struct {
	Attempt
	// Try is the attempt's number among those that count against the retry
	// policy, from 1; 0 when it does not count.
	Try int
	// Policy is the name of the retry policy that decides how long the next
	// attempt waits; "" when none does.
	Policy string
	// Decision says in words what was decided at its end.
	Decision string
}

// Tried returns the attempts, in their order, with what was decided at the
// end of each.
func (e Evaluation) Tried(attempts []Attempt) []Ended {
	own, ok := RetryPolicyByName(e.Spec.RetryPolicy)
	if !ok {
		own, _ = RetryPolicyByName(PolicyDefault)
	}
	all, tries := make([]Ended, len(attempts)), 0
	for i, a := range attempts {
		t := Ended{Attempt: a}
		if a.Counted {
			tries++
			t.Try = tries
		}
		if a.Failure != nil && a.NextTryAt != nil {
			switch a.Failure.Kind.Info().Retry {
			case RetryCounted:
				t.Policy = own.Name
			case RetryLater:
				t.Policy = PolicyQuotaExceeded
			}
		}
		if a.Outcome == AttemptLost {
			t.Policy = "" // the wait for the lease was delay enough
		}
		t.Decision = t.decision(own)
		all[i] = t
	}
	return all
}

func (t Ended) decision(policy RetryPolicy) string {
	counts := "not counted as a try"
	if t.Try > 0 {
		counts = fmt.Sprintf("try %d of the %d of policy %s", t.Try, policy.Tries, policy.Name)
	}
	switch t.Outcome {
	case AttemptRunning:
		return "it runs"
	case AttemptCompleted:
		return "the program ran, and what it did stands"
	case AttemptCancelled:
		return "it was ended because somebody asked for that"
	}
	if t.NextTryAt == nil {
		switch {
		case t.Failure != nil && t.Failure.Kind.Info().Retry == RetryNever:
			return fmt.Sprintf("not tried again: %s is final", t.Failure.Kind)
		case t.Try >= policy.Tries:
			return counts + ": all are used up, and it is not tried again"
		default:
			return counts + "; not tried again"
		}
	}
	wait := "queued again at once"
	if t.FinishedAt != nil {
		if d := t.NextTryAt.Sub(*t.FinishedAt); d > 0 {
			wait = "queued again, for " + seconds(d)
		}
	}
	if t.Policy != "" && t.Policy != policy.Name {
		wait += " by policy " + t.Policy
	}
	return counts + "; " + wait
}

// Timeline merges the evaluation's events and attempts into one story, the
// oldest first, and ends with what is still to come. events and attempts are
// in order; what was left out of them is left out here.
func (e Evaluation) Timeline(events []Event, attempts []Attempt) []Moment {
	tried := make(map[int]*Ended, len(attempts))
	all := e.Tried(attempts)
	for i := range all {
		tried[all[i].Number] = &all[i]
	}
	moments := make([]Moment, 0, len(events)+2)
	since := e.CreatedAt // it waits
	for _, ev := range events {
		m := Moment{At: ev.At, Type: ev.Type, Status: ev.Status}
		if ev.Attempt > 0 && (ev.Type == EventRunning || ev.Type != EventCancelRequested && e.endedWith(ev, tried[ev.Attempt])) {
			m.Attempt = tried[ev.Attempt]
		}
		m.Explanation = e.explain(ev, m.Attempt, ev.At.Sub(since))
		since = ev.At
		moments = append(moments, m)
	}
	if last := tried[e.Attempt]; e.Status == Queued && last != nil && last.NextTryAt != nil {
		moments = append(moments, Moment{At: *last.NextTryAt, Type: MomentNextTry, Status: Queued,
			Explanation: fmt.Sprintf("attempt %d may begin", e.Attempt+1)})
	}
	if !e.Status.Terminal() && e.ExpiresAt != nil {
		moments = append(moments, Moment{At: *e.ExpiresAt, Type: MomentExpires, Status: Failed,
			Explanation: "it fails unless it has ended by then"})
	}
	return moments
}

// endedWith says whether the event is the end of the attempt: they are
// written with the same time. An evaluation that ends while it waits keeps
// the number of its last attempt.
func (e Evaluation) endedWith(ev Event, t *Ended) bool {
	return t != nil && t.FinishedAt != nil && t.FinishedAt.Equal(ev.At)
}

// explain says what an event means. waited is the time since the one before.
func (e Evaluation) explain(ev Event, t *Ended, waited time.Duration) string {
	why := ""
	if ev.Message != "" {
		why = ": " + ev.Message
	}
	switch ev.Type {
	case EventQueued:
		return e.acceptedAs()
	case EventRunning:
		text := fmt.Sprintf("worker %s took it after %s of waiting", ev.Worker, seconds(waited))
		if t != nil && t.Alone {
			text += "; it runs alone, because a worker or an executor was lost while it ran before"
		}
		return text
	case EventRequeued:
		if t == nil {
			return "the platform failed" + why
		}
		if t.Outcome == AttemptLost {
			return fmt.Sprintf("the worker was lost%s; %s", why, t.Decision)
		}
		return fmt.Sprintf("the platform failed%s; %s", why, t.Decision)
	case EventCancelRequested:
		return "somebody asked for its end" + why
	case EventCancelled:
		if t == nil {
			return "cancelled before it ran" + why
		}
		return "cancelled while it ran" + why
	case EventCompleted:
		text := fmt.Sprintf("the program ran: %s", ev.Verdict)
		if ev.Cause != "" {
			text += fmt.Sprintf(" (%s)", ev.Cause)
		}
		return text
	case EventFailed:
		text := "the platform gave up" + why
		if t != nil {
			text += "; " + t.Decision
		}
		return text + "; it is a dead letter"
	default:
		return ev.Message
	}
}

func (e Evaluation) acceptedAs() string {
	text := fmt.Sprintf("accepted with priority %s and retry policy %s", e.Spec.Priority, e.Spec.RetryPolicy)
	if e.RetryOf != "" {
		text += ", to run " + string(e.RetryOf) + " again"
	}
	if e.Spec.RunAt != nil {
		text += ", to run at " + e.Spec.RunAt.UTC().Format(time.RFC3339)
	}
	return text
}

// seconds is a duration for people: 0.004 s, 12.3 s.
func seconds(d time.Duration) string {
	if d < 10*time.Second {
		return fmt.Sprintf("%.3f s", d.Seconds())
	}
	return fmt.Sprintf("%.1f s", d.Seconds())
}
