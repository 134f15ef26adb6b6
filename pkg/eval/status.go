package eval

import "slices"

// Status says what the platform did with an evaluation. What the program did
// is the [Verdict].
type Status string

const (
	Queued    Status = "queued"    // accepted; waits for a worker, or for its time
	Running   Status = "running"   // a worker holds it by a lease
	Completed Status = "completed" // the program ran; there is a verdict
	Failed    Status = "failed"    // the platform gave up; there is a reason
	Cancelled Status = "cancelled" // somebody asked for it to end
)

// Statuses lists every status in the order of a life.
func Statuses() []Status { return []Status{Queued, Running, Completed, Failed, Cancelled} }

// Transition is one row of the table of allowed changes of status.
type Transition struct {
	From, To Status
	Event    EventType // what is recorded
	Why      string    // for the diagram in the docs
}

// Transitions is the one table that says how a status may change. An empty
// From is the creation. The diagram in docs/state-machine.md and the triggers
// that guard terminal rows in the database follow from it.
func Transitions() []Transition {
	return []Transition{
		{"", Queued, EventQueued, "accepted"},
		{Queued, Running, EventRunning, "claimed by a worker: attempt n+1, lease"},
		{Queued, Cancelled, EventCancelled, "cancelled before it started"},
		{Queued, Failed, EventFailed, "its deadline passed before it started"},
		{Running, Running, EventCancelRequested, "cancel asked for; the worker is told"},
		{Running, Queued, EventRequeued, "lease lost, or a platform failure that may be retried"},
		{Running, Completed, EventCompleted, "the program ran"},
		{Running, Failed, EventFailed, "the platform gave up: a dead letter with its reason"},
		{Running, Cancelled, EventCancelled, "cancelled while running, partial output kept"},
	}
}

// CanBecome reports whether the table allows the change.
func (s Status) CanBecome(to Status) bool {
	return slices.ContainsFunc(Transitions(), func(t Transition) bool { return t.From == s && t.To == to })
}

// Terminal reports whether the status is final.
func (s Status) Terminal() bool { return s == Completed || s == Failed || s == Cancelled }

// Valid reports whether s is one of [Statuses].
func (s Status) Valid() bool { return slices.Contains(Statuses(), s) }
