package rest

import (
	"context"
	"net/http"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/crucible-eval/crucible/pkg/eval"
)

// mostEvents is how many of an evaluation's events, the newest, its timeline
// has: one that waits for a slot for a day is tried thousands of times.
const mostEvents = 500

// Attempts lists the tries at running an evaluation, and what decides about
// further ones.
type Attempts struct {
	RetryPolicy RetryPolicy `json:"retry_policy"` // the one in force
	Tries       int         `json:"tries"`        // attempts that count against it
	Lost        int         `json:"lost"`         // attempts whose worker or executor vanished
	LostAlone   int         `json:"lost_alone"`   // of those, the ones in which nothing else ran there
	Attempts    []Attempt   `json:"attempts"`
}

// Attempt is one try at running an evaluation.
type Attempt struct {
	Number     int                 `json:"number"`
	Outcome    eval.AttemptOutcome `json:"outcome"`
	Worker     string              `json:"worker"`
	Executor   string              `json:"executor,omitempty"`
	Alone      bool                `json:"alone"` // nothing else ran at its worker and executor
	StartedAt  time.Time           `json:"started_at"`
	FinishedAt *time.Time          `json:"finished_at,omitempty"`
	TookMS     float64             `json:"took_ms"` // until now, while it runs

	Failure     *eval.Failure `json:"failure,omitempty"`
	Retry       eval.Retry    `json:"retry,omitempty"`        // what its failure's kind leads to
	Counted     bool          `json:"counted"`                // it counts against the retry policy
	Try         int           `json:"try,omitempty"`          // its number among those that count
	RetryPolicy string        `json:"retry_policy,omitempty"` // which decided how long the next one waits
	NextTryAt   *time.Time    `json:"next_try_at,omitempty"`
	WaitMS      *float64      `json:"wait_ms,omitempty"` // from its end to next_try_at

	WallMS          float64 `json:"wall_ms,omitempty"`
	CPUMS           float64 `json:"cpu_ms,omitempty"`
	MemoryPeakBytes int64   `json:"memory_peak_bytes,omitempty"`
}

func viewAttempt(a eval.Ended, now time.Time) Attempt {
	v := Attempt{
		Number: a.Number, Outcome: a.Outcome, Worker: a.Worker, Executor: a.Executor, Alone: a.Alone,
		StartedAt: a.StartedAt, FinishedAt: a.FinishedAt, TookMS: until(a.StartedAt, a.FinishedAt, now),
		Failure: a.Failure, Counted: a.Counted, Try: a.Try, RetryPolicy: a.Policy, NextTryAt: a.NextTryAt,
		WallMS: a.WallMS, CPUMS: a.CPUMS, MemoryPeakBytes: a.MemoryPeak,
	}
	if a.Failure != nil {
		v.Retry = a.Failure.Kind.Info().Retry
	}
	if a.NextTryAt != nil && a.FinishedAt != nil {
		ms := millis(a.NextTryAt.Sub(*a.FinishedAt))
		v.WaitMS = &ms
	}
	return v
}

// until is the time from a moment to its end, or to now, in milliseconds.
func until(from time.Time, end *time.Time, now time.Time) float64 {
	if end != nil {
		now = *end
	}
	return max(0, millis(now.Sub(from)))
}

func millis(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// history reads an evaluation and its attempts. The evaluation comes first,
// so that it has no attempt that is not among them.
func (a *API) history(ctx context.Context, key eval.Key) (eval.Evaluation, []eval.Attempt, error) {
	e, err := a.Store.Get(ctx, key)
	if err != nil {
		return e, nil, err
	}
	attempts, err := a.Store.Attempts(ctx, key)
	return e, attempts, err
}

func (a *API) attempts(c echo.Context) error {
	key, err := onlyKey(c)
	if err != nil {
		return err
	}
	e, attempts, err := a.history(c.Request().Context(), key)
	if err != nil {
		return err
	}
	policy, _ := eval.RetryPolicyByName(e.Spec.RetryPolicy) // checked when it was accepted
	out := Attempts{RetryPolicy: viewPolicy(policy), Tries: e.Tries, Lost: e.Lost, LostAlone: e.LostAlone, Attempts: []Attempt{}}
	now := time.Now()
	for _, t := range e.Tried(attempts) {
		out.Attempts = append(out.Attempts, viewAttempt(t, now))
	}
	return c.JSON(http.StatusOK, out)
}

// Timeline is the life of an evaluation as a story.
type Timeline struct {
	ID         eval.ID      `json:"id"`
	Status     eval.Status  `json:"status"`
	Verdict    eval.Verdict `json:"verdict,omitempty"`
	AcceptedAt time.Time    `json:"accepted_at"`
	FinishedAt *time.Time   `json:"finished_at,omitempty"`
	TotalMS    float64      `json:"total_ms"`   // from acceptance to the end, or to now
	RunningMS  float64      `json:"running_ms"` // of it, in the hands of workers; the rest it waited
	Attempts   int          `json:"attempts"`
	LeftOut    int64        `json:"left_out,omitempty"` // older entries that are not here
	Entries    []Moment     `json:"entries"`
}

// Moment is an entry of a timeline.
type Moment struct {
	At          time.Time       `json:"at"`
	AfterMS     float64         `json:"after_ms"` // since it was accepted
	Type        eval.MomentType `json:"type"`
	Status      eval.Status     `json:"status"`           // after it
	Planned     bool            `json:"planned"`          // it is still to come
	Explanation string          `json:"explanation"`      // for people
	Number      int             `json:"number,omitempty"` // of the attempt that begins or ends
	Attempt     *Attempt        `json:"attempt,omitempty"`
}

func (a *API) timeline(c echo.Context) error {
	key, err := onlyKey(c)
	if err != nil {
		return err
	}
	ctx := c.Request().Context()
	e, attempts, err := a.history(ctx, key)
	if err != nil {
		return err
	}
	leftOut := max(0, e.EventSeq-mostEvents)
	events, err := a.Store.Events(ctx, e.Key, leftOut, mostEvents)
	if err != nil {
		return err
	}
	// What has happened since it was read is for the next reader.
	for len(events) > 0 && events[len(events)-1].Seq > e.EventSeq {
		events = events[:len(events)-1]
	}
	now := time.Now()
	out := Timeline{
		ID: e.ID, Status: e.Status, Verdict: e.Verdict, AcceptedAt: e.CreatedAt, FinishedAt: e.FinishedAt,
		TotalMS: until(e.CreatedAt, e.FinishedAt, now), Attempts: e.Attempt, LeftOut: leftOut, Entries: []Moment{},
	}
	for _, t := range attempts {
		out.RunningMS += until(t.StartedAt, t.FinishedAt, now)
	}
	for _, m := range e.Timeline(events, attempts) {
		v := Moment{At: m.At, AfterMS: millis(m.At.Sub(e.CreatedAt)), Type: m.Type, Status: m.Status,
			Planned: m.Type == eval.MomentNextTry || m.Type == eval.MomentExpires, Explanation: m.Explanation}
		if m.Attempt != nil {
			v.Number = m.Attempt.Number
			if m.Type != eval.EventRunning { // its end tells all of it
				t := viewAttempt(*m.Attempt, now)
				v.Attempt = &t
			}
		}
		out.Entries = append(out.Entries, v)
	}
	return c.JSON(http.StatusOK, out)
}
