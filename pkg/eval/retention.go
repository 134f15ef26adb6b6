package eval

import (
	"context"
	"time"
)

// Retention says how long what has ended is kept, from its end. 0: for ever.
type Retention struct {
	Ended  time.Duration `json:"ended"`  // completed and cancelled evaluations; nanoseconds in JSON
	Failed time.Duration `json:"failed"` // failed ones, and with them their dead letters
}

// DefaultRetention returns what crucible starts with.
func DefaultRetention() Retention {
	return Retention{Ended: 30 * 24 * time.Hour, Failed: 90 * 24 * time.Hour}
}

// Of is how long an evaluation with this status is kept; 0 is for ever, as
// for what has not ended.
func (r Retention) Of(s Status) time.Duration {
	switch s {
	case Completed, Cancelled:
		return r.Ended
	case Failed:
		return r.Failed
	default:
		return 0
	}
}

// Over reports whether the evaluation was kept long enough.
func (r Retention) Over(e Evaluation, now time.Time) bool {
	age := r.Of(e.Status)
	return age > 0 && e.FinishedAt != nil && !e.FinishedAt.Add(age).After(now)
}

// BlobGrace is how long a blob stays after a Put though nothing refers to it:
// more than a worker may take from there to the end of its attempt, which is
// what refers to it.
const BlobGrace = time.Hour

// Sweeper is what a store offers to the service that has it, beyond [Store]:
// it removes what was kept long enough, and knows which blobs are in use.
// Several may sweep the same store at once.
type Sweeper interface {
	// Sweep removes evaluations that were kept long enough, those that ended
	// first, at most limit, each with all of its history, and says how many.
	// A cursor of the feed stays good: what is left keeps its own, and none is
	// given again.
	Sweep(ctx context.Context, r Retention, limit int) (int, error)
	// SweepKeys forgets idempotency keys that are older than
	// [IdempotencyWindow], at most limit, and says how many.
	SweepKeys(ctx context.Context, limit int) (int, error)
	// HoldBlob notes that a blob of this many bytes is about to be referred
	// to: for [BlobGrace] from now it is not removed. Blobs call it before
	// they look whether they have the content; it waits while that is being
	// removed.
	HoldBlob(ctx context.Context, digest string, bytes int64) error
	// SweepBlobs calls remove for blobs that nothing refers to and nobody
	// holds, at most limit, and forgets them. It says how many were looked at,
	// and how many were removed, with their bytes as far as they are known.
	SweepBlobs(ctx context.Context, limit int, remove func(ctx context.Context, digest string) error) (SweptBlobs, error)
}

// SweptBlobs is what SweepBlobs did.
type SweptBlobs struct {
	Looked  int
	Removed int
	Bytes   int64
}

// Blobs lists the blobs that the evaluation refers to, each once.
func (e Evaluation) Blobs() []string {
	if e.Result == nil {
		return nil
	}
	var all []string
	seen := map[string]bool{}
	for _, s := range e.Result.Streams() {
		if s.Blob != "" && !seen[s.Blob] {
			seen[s.Blob] = true
			all = append(all, s.Blob)
		}
	}
	return all
}

// Keeper is what a store may offer beyond [Store] to those who remember its
// answers.
type Keeper interface {
	// GetKept is Get, and says for how long from the call at least the answer
	// stays as it is: 0 when the evaluation has not ended, or may be removed
	// at any time.
	GetKept(ctx context.Context, key Key) (e Evaluation, kept time.Duration, err error)
}

// MaxKept is the most that GetKept says. A sweep with a new setting starts
// only when so much time has passed since its service did.
const MaxKept = time.Minute

// Kept is what GetKept says of an evaluation.
func (r Retention) Kept(e Evaluation, now time.Time) time.Duration {
	if !e.Status.Terminal() || e.FinishedAt == nil {
		return 0
	}
	age := r.Of(e.Status)
	if age <= 0 {
		return MaxKept
	}
	return min(max(e.FinishedAt.Add(age).Sub(now), 0), MaxKept)
}
