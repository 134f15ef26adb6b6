package eval

import (
	"slices"
	"time"
)

// Backlog counts what waits and what runs, over all projects.
type Backlog struct {
	At         time.Time `json:"at"`         // now, by the store's clock
	Priorities []Waiting `json:"priorities"` // all, the most urgent first
	Clients    int64     `json:"clients"`    // clients of whom something waits that is due
	// DeadLetters wait for somebody to decide about them: the kinds of failure
	// that occur.
	DeadLetters map[Kind]int64 `json:"dead_letters"`
}

// Waiting is the backlog of one priority.
type Waiting struct {
	Priority   Priority `json:"priority"`
	Stored     int64    `json:"stored"`     // due, and not handed to the queue yet
	Dispatched int64    `json:"dispatched"` // handed to the queue, and not claimed yet
	Later      int64    `json:"later"`      // queued until their time: run_at, or a next try
	Running    int64    `json:"running"`
	// Since is when the one became due that has waited longest; nil: none waits.
	Since *time.Time `json:"since,omitempty"`
}

// Total sums the priorities; Since is the longest.
func (b Backlog) Total() (sum Waiting) {
	for _, w := range b.Priorities {
		sum.Stored += w.Stored
		sum.Dispatched += w.Dispatched
		sum.Later += w.Later
		sum.Running += w.Running
		sum.wait(w.Since)
	}
	return sum
}

func (w *Waiting) wait(since *time.Time) {
	if since != nil && (w.Since == nil || since.Before(*w.Since)) {
		w.Since = since
	}
}

// NewBacklog returns one in which nothing waits.
func NewBacklog(now time.Time) Backlog {
	b := Backlog{At: StoreTime(now), DeadLetters: map[Kind]int64{}}
	for _, p := range Priorities() {
		b.Priorities = append(b.Priorities, Waiting{Priority: p})
	}
	return b
}

// Set puts the numbers of a priority in their place.
func (b *Backlog) Set(w Waiting) {
	if i := slices.IndexFunc(b.Priorities, func(have Waiting) bool { return have.Priority == w.Priority }); i >= 0 {
		b.Priorities[i] = w
	}
}

// Add counts an evaluation that has not ended, and says whether it waits and
// is due. Stores in SQL count by the same rule.
func (b *Backlog) Add(e Evaluation) (waits bool) {
	i := slices.IndexFunc(b.Priorities, func(w Waiting) bool { return w.Priority == e.Spec.Priority })
	if i < 0 {
		return false
	}
	w := &b.Priorities[i]
	switch later := e.NextDispatchAt; {
	case e.Status == Running:
		w.Running++
		return false
	case e.Spec.RunAt != nil && e.Spec.RunAt.After(b.At), e.DispatchedAt == nil && later != nil && later.After(b.At):
		w.Later++
		return false
	case e.DispatchedAt != nil:
		w.Dispatched++
	default:
		w.Stored++
	}
	w.wait(e.waitsSince())
	return true
}

// waitsSince is when an evaluation that waits became due: when it was
// accepted or its run_at came, and for a further try when that was to begin,
// or, where that is not known any more, when it was handed to the queue or
// the last try ended.
func (e Evaluation) waitsSince() *time.Time {
	switch {
	case e.Attempt == 0:
		return ptr(e.Due())
	case e.DispatchedAt != nil:
		return e.DispatchedAt
	case e.NextDispatchAt != nil:
		return e.NextDispatchAt
	default:
		return ptr(e.UpdatedAt)
	}
}
