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

// Ended is an attempt with what decided about the next one; the decision
// itself stands in its Failure.
type Ended struct {
	Attempt
	// Try is the attempt's number among those that count against the retry
	// policy, from 1; 0 when it does not count.
	Try int
	// Policy is the name of the retry policy that decided how long the next
	// attempt waits; "" when none did.
	Policy string
}

// Tried returns the attempts, in their order, with what decided at the end of
// each.
func (e Evaluation) Tried(attempts []Attempt) []Ended {
	all, tries := make([]Ended, len(attempts)), 0
	for i, a := range attempts {
		all[i].Attempt = a
		if a.Counted {
			tries++
			all[i].Try = tries
		}
		if a.Failure == nil || a.NextTryAt == nil {
			continue
		}
		switch a.Failure.Kind.Info().Retry {
		case RetryCounted:
			all[i].Policy = e.Spec.RetryPolicy
		case RetryLater:
			all[i].Policy = PolicyQuotaExceeded
		}
	}
	return all
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
		return "the platform failed" + why
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
		return "the platform gave up" + why + "; it is a dead letter, until somebody retries it"
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
