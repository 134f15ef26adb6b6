package eval

import (
	"context"
	"time"
)

// Store keeps evaluations and decides every change of state. Each change is
// a compare-and-set in one transaction, by the functions of lifecycle.go, so
// any number of callers may use a store at once, in any number of processes.
//
// Every method may return KindUnavailable when the store cannot be reached;
// then nothing, or all of the operation, was written. Times are the store's
// clock, UTC, with microseconds.
type Store interface {
	Intake
	Reader
	Leaser
	Scheduler
	DeadLetters
	Outbox
}

// Submission is what one request accepts: one evaluation or a batch.
type Submission struct {
	Evaluations []Evaluation `json:"evaluations"` // Key, Spec, and optionally BatchID, Client and Trace; the rest is set by the store
	// IdempotencyKey, when not empty, makes the same submission of the same
	// client within a day return the evaluations of the first one. Fingerprint
	// tells whether it is the same: a hash of the request.
	IdempotencyKey string `json:"idempotency_key,omitempty"`
	Fingerprint    string `json:"fingerprint,omitempty"`
	// Recall only looks for an earlier submission with this key.
	Recall bool `json:"recall,omitempty"`
	// AcceptedAt is when it was accepted, if that was before it reached the
	// store: see package fallback. Zero: now.
	AcceptedAt time.Time `json:"accepted_at,omitzero"`
}

// IdempotencyWindow is how long an idempotency key is remembered at least.
const IdempotencyWindow = 24 * time.Hour

// Intake accepts evaluations and requests to end them.
type Intake interface {
	// Create writes all evaluations, queued, or none, and returns them as
	// written, in order. Those that are Dispatched are to be handed to the
	// queue; the others wait for their turn or their run_at. replayed means
	// that the key was used before for the same request: nothing was written
	// and the first ones are returned as they are now. KindKeyReused: the key came with another fingerprint.
	// KindConflict: an id exists, or the key's evaluations do not any more.
	// KindInvalid: none, or from several projects or clients. KindNotFound: a
	// Recall of a key that was not used.
	Create(ctx context.Context, s Submission) (created []Evaluation, replayed bool, err error)
	// Cancel ends a queued evaluation, and marks a running one so that its
	// worker ends it. It is idempotent while the evaluation runs.
	// KindNotFound; KindConflict with the status when it has ended.
	Cancel(ctx context.Context, key Key, reason string) (Evaluation, error)
}

// Reader answers questions. A key of another project is KindNotFound.
type Reader interface {
	// Get returns the evaluation whole. KindNotFound.
	Get(ctx context.Context, key Key) (Evaluation, error)
	// List returns summaries, newest first (created_at, then id, descending).
	// KindInvalid: a cursor that this store did not make.
	List(ctx context.Context, q Query) (Page, error)
	// Events returns the evaluation's events with Seq > after, oldest first,
	// at most limit. An unknown evaluation has none.
	Events(ctx context.Context, key Key, after int64, limit int) ([]Event, error)
	// Feed returns the project's events with Cursor > after in the order of
	// their cursors, at most limit; none is ever skipped. after < 0 returns
	// only the newest event, so that a reader can start from now.
	Feed(ctx context.Context, project string, after int64, limit int) ([]Event, error)
	// Attempts returns the evaluation's attempts in order.
	Attempts(ctx context.Context, key Key) ([]Attempt, error)
	// Stats counts the project's evaluations.
	Stats(ctx context.Context, project string) (Stats, error)
	// Clients counts the project's evaluations that have not ended, by client,
	// in the order of names; who has none is not there. It costs as much as
	// there are of them, and no more when many have ended.
	Clients(ctx context.Context, project string) ([]ClientCount, error)
}

// Query selects evaluations of a project. Empty fields select all.
type Query struct {
	Project  string    `json:"project"`
	Status   []Status  `json:"status,omitempty"`
	Verdict  []Verdict `json:"verdict,omitempty"`
	Language string    `json:"language,omitempty"`
	Tag      string    `json:"tag,omitempty"`
	Batch    string    `json:"batch,omitempty"`
	Client   string    `json:"client,omitempty"`
	Since    time.Time `json:"since,omitzero"`   // created at or after
	Until    time.Time `json:"until,omitzero"`   // created before
	Limit    int       `json:"limit,omitempty"`  // 1 to 500; 0 is 50
	Cursor   string    `json:"cursor,omitempty"` // Page.Next of the page before
}

// Page is a part of a list.
type Page struct {
	Evaluations []Evaluation `json:"evaluations"`
	Next        string       `json:"next,omitempty"` // empty: there is no more
}

// Stats counts evaluations.
type Stats struct {
	Statuses    map[Status]int64  `json:"statuses"` // every status, zero included
	Verdicts    map[Verdict]int64 `json:"verdicts"` // those that occur
	DeadLetters int64             `json:"dead_letters"`
	// DeadLettersByKind are the kinds of failure that occur among them.
	DeadLettersByKind map[Kind]int64 `json:"dead_letters_by_kind"`
	// OldestQueuedAt is when the evaluation was created that has waited
	// longest among those that are due.
	OldestQueuedAt *time.Time `json:"oldest_queued_at,omitempty"`
}

// ClientCount is how many evaluations a client has that have not ended.
type ClientCount struct {
	Client  string `json:"client"`
	Queued  int64  `json:"queued"` // those that wait for a time included
	Running int64  `json:"running"`
}

// Lease names an attempt that a worker believes it holds.
type Lease struct {
	Key
	Attempt int `json:"attempt"`
}

// ClaimRequest says who takes which dispatch of an evaluation.
type ClaimRequest struct {
	Key
	Seq    int           `json:"seq,omitempty"` // of the dispatch; 0 takes any
	Worker string        `json:"worker"`
	Lease  time.Duration `json:"lease"`           // nanoseconds
	Alone  bool          `json:"alone,omitempty"` // nothing else runs at this worker
}

// Leaser is what a worker needs.
type Leaser interface {
	// Claim changes queued to running for this worker and returns the whole
	// evaluation, with its new attempt. KindNotFound; KindConflict with the
	// status when it is not queued, or when the dispatch has been replaced by
	// a later one: a stale or double dispatch.
	Claim(ctx context.Context, r ClaimRequest) (Evaluation, error)
	// Beat extends the lease and says whether a cancel was asked for.
	// KindLeaseLost: stop the run and drop its result.
	Beat(ctx context.Context, l Lease, lease time.Duration) (Beat, error)
	// Finish ends the attempt and returns the evaluation as it is then:
	// terminal, or queued for another try. Streams longer than InlineBytes
	// must be in Blobs: KindInvalid otherwise. The same attempt finishing
	// twice changes nothing and returns the evaluation as it is.
	// KindLeaseLost: the attempt was taken away before; the outcome is dropped.
	Finish(ctx context.Context, l Lease, o Outcome) (Evaluation, error)
}

// Beat is the answer to a beat.
type Beat struct {
	LeaseUntil      time.Time `json:"lease_until"`
	CancelRequested bool      `json:"cancel_requested"`
}

// Scheduler is what the reconciler needs. It looks over all projects, and
// several may run at once: no evaluation is handed to two at the same time.
type Scheduler interface {
	// Due returns queued evaluations that are to be handed to the queue now,
	// at most r.Limit: those dispatched before whose NextDispatchAt has come,
	// the most overdue first, and then those whose turn it is, the most urgent
	// priority first, as many as the window has room for (see fair.go). It
	// notes that they were, and sets their NextDispatchAt to now + r.Again.
	// Those whose time has come join the line before.
	Due(ctx context.Context, r DueRequest) ([]Dispatch, error)
	// Reap takes evaluations from workers whose lease has run out, at most
	// limit, and returns them as they are now.
	Reap(ctx context.Context, limit int) ([]Evaluation, error)
	// Expire fails queued evaluations whose ExpiresAt has passed, at most
	// limit, and returns them as they are now. Running ones are ended by
	// their workers.
	Expire(ctx context.Context, limit int) ([]Evaluation, error)
	// Rewind makes every dispatched evaluation due now and returns how many:
	// for when the queue was lost. What waits for a time or for its turn goes
	// on waiting.
	Rewind(ctx context.Context) (int, error)
	// Backlog counts what waits and what runs, now.
	Backlog(ctx context.Context) (Backlog, error)
}

// DueRequest says how many evaluations the queue may take.
type DueRequest struct {
	Limit int           `json:"limit"` // of one answer
	Again time.Duration `json:"again"` // nanoseconds until one that was handed out is handed out again
	// Window is how many evaluations of one priority may wait in the queue at
	// once; the others wait in the store. It holds for Create too, until
	// another is named. 0 is the last one named, at first [Rules.Window].
	Window int `json:"window,omitempty"`
}

// DeadLetters is the list of evaluations that the platform gave up on.
type DeadLetters interface {
	// ListDeadLetters returns them newest first.
	ListDeadLetters(ctx context.Context, q DeadLetterQuery) (DeadLetterPage, error)
	// Retry accepts a new evaluation with id newID and the spec of a failed
	// one, and takes that from the list in the same transaction. A failed one
	// is retried once: again, or twice at once, returns the evaluation of the
	// first time as it is now, whose id is then not newID, and changes
	// nothing. That one can be retried in turn, if it fails.
	// KindNotFound; KindConflict with the status when it has not failed.
	Retry(ctx context.Context, key Key, newID ID) (Evaluation, error)
	// DeleteDeadLetter takes it from the list; the evaluation stays.
	// KindNotFound when it is not there.
	DeleteDeadLetter(ctx context.Context, key Key) error
}

// DeadLetterQuery selects dead letters of a project. Empty fields select all.
type DeadLetterQuery struct {
	Project  string    `json:"project"`
	IDs      []ID      `json:"ids,omitempty"` // of the evaluations, at most 500
	Kind     []Kind    `json:"kind,omitempty"`
	Language string    `json:"language,omitempty"`
	Tag      string    `json:"tag,omitempty"`
	Batch    string    `json:"batch,omitempty"`
	Client   string    `json:"client,omitempty"`
	Since    time.Time `json:"since,omitzero"`  // failed at or after
	Until    time.Time `json:"until,omitzero"`  // failed before
	Limit    int       `json:"limit,omitempty"` // 1 to 500; 0 is 50
	Cursor   string    `json:"cursor,omitempty"`
}

// DeadLetterPage is a part of the list.
type DeadLetterPage struct {
	DeadLetters []DeadLetter `json:"dead_letters"`
	Next        string       `json:"next,omitempty"`
}
