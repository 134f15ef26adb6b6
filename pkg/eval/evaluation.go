package eval

import "time"

// ID names an evaluation: a UUIDv7 in its 36-character text form, so that
// ids sort by creation.
type ID string

// DefaultProject is the project of everything until there are more.
const DefaultProject = "default"

// Key names an evaluation within its project.
type Key struct {
	Project string `json:"project"`
	ID      ID     `json:"id"`
}

// Evaluation is one accepted request and all that became of it.
type Evaluation struct {
	Key
	Spec    Spec   `json:"spec"`
	BatchID string `json:"batch_id,omitempty"` // set on each member of a batch
	RetryOf ID     `json:"retry_of,omitempty"` // the failed evaluation that this one runs again
	Client  string `json:"client,omitempty"`   // who submitted it: the name of its API key; "" where there are no keys

	Status  Status  `json:"status"`
	Verdict Verdict `json:"verdict,omitempty"` // completed only
	Cause   Cause   `json:"cause,omitempty"`   // completed only
	Result  *Result `json:"result,omitempty"`  // completed; cancelled while running: what there was
	// Failure is why the platform gave up (failed), or why the last attempt
	// did not count (queued again). Reason, in words, is for cancelled ones.
	Failure *Failure `json:"failure,omitempty"`
	Reason  string   `json:"reason,omitempty"`

	Attempt     int    `json:"attempt"`      // grows with each claim; fences late workers
	Tries       int    `json:"tries"`        // attempts that count against the retry policy
	Refused     int    `json:"refused"`      // attempts in a row that found no free slot
	Lost        int    `json:"lost"`         // attempts whose worker or executor vanished
	LostAlone   int    `json:"lost_alone"`   // of those, the ones in which nothing else ran there: its own doing
	DispatchSeq int    `json:"dispatch_seq"` // how often it has entered the queue
	Turn        int64  `json:"turn"`         // its place among those that wait, see fair.go
	EventSeq    int64  `json:"event_seq"`    // its last event's number
	Worker      string `json:"worker,omitempty"`
	Executor    string `json:"executor,omitempty"`

	CreatedAt         time.Time  `json:"created_at"`
	UpdatedAt         time.Time  `json:"updated_at"`
	StartedAt         *time.Time `json:"started_at,omitempty"` // of the last attempt
	FinishedAt        *time.Time `json:"finished_at,omitempty"`
	NextDispatchAt    *time.Time `json:"next_dispatch_at,omitempty"` // queued only: when the reconciler looks again; nil: when its turn comes, see fair.go
	DispatchedAt      *time.Time `json:"dispatched_at,omitempty"`    // queued only: when its turn came and it was handed to the queue; nil: it waits in the store
	ExpiresAt         *time.Time `json:"expires_at,omitempty"`       // when it fails unless it has ended
	LeaseUntil        *time.Time `json:"lease_until,omitempty"`      // running only
	CancelRequestedAt *time.Time `json:"cancel_requested_at,omitempty"`

	// Trace is the W3C traceparent of the request that created it.
	Trace string `json:"trace,omitempty"`
}

// Owner is for whom it runs, in the words of an executor ([Request.Client]):
// the project, and the client where there are several. Programs of different
// owners share no interpreter and nothing that was compiled.
func (e Evaluation) Owner() string {
	if e.Client == "" {
		return e.Project
	}
	return e.Project + "/" + e.Client
}

// Summary is the evaluation without what may be large: the program (its
// language, limits and the rest of the spec stay) and the bytes of the
// streams. Lists are made of summaries.
func (e Evaluation) Summary() Evaluation {
	e.Spec.Code, e.Spec.Files, e.Spec.Stdin, e.Spec.Tests, e.Spec.Env, e.Spec.Args = nil, nil, nil, nil, nil, nil
	e.Spec.Checker, e.Spec.Artifacts = Checker{}, nil
	if e.Result != nil {
		e.Result = e.Result.summary()
	}
	return e
}

// Failure is how the platform failed an evaluation.
type Failure struct {
	Kind    Kind   `json:"kind"`
	Message string `json:"message"` // for users: what happened and what to do
}

// EventType names a change in the life of an evaluation.
type EventType string

const (
	EventQueued          EventType = "queued"
	EventRunning         EventType = "running"
	EventRequeued        EventType = "requeued"
	EventCancelRequested EventType = "cancel_requested"
	EventCompleted       EventType = "completed"
	EventFailed          EventType = "failed"
	EventCancelled       EventType = "cancelled"
)

// Event is a numbered entry in the history of an evaluation. It is written
// in the transaction of the change that it records.
type Event struct {
	Key
	Seq     int64     `json:"seq"`    // 1, 2, 3 ... within the evaluation
	Cursor  int64     `json:"cursor"` // grows over all evaluations of a store; for feeds
	Type    EventType `json:"type"`
	Status  Status    `json:"status"` // after the change
	Verdict Verdict   `json:"verdict,omitempty"`
	Cause   Cause     `json:"cause,omitempty"`
	Attempt int       `json:"attempt"`
	At      time.Time `json:"at"`
	Worker  string    `json:"worker,omitempty"`
	Message string    `json:"message,omitempty"` // why: a failure, a cancel's reason
}

// Attempt is one try at running an evaluation.
type Attempt struct {
	Key
	Number     int            `json:"number"`
	Worker     string         `json:"worker"`
	Executor   string         `json:"executor,omitempty"`
	StartedAt  time.Time      `json:"started_at"`
	FinishedAt *time.Time     `json:"finished_at,omitempty"`
	Outcome    AttemptOutcome `json:"outcome"`
	Failure    *Failure       `json:"failure,omitempty"`
	Alone      bool           `json:"alone,omitempty"`       // nothing else ran at its worker and executor, to find out who takes them down
	Counted    bool           `json:"counted,omitempty"`     // it is a try in the sense of the retry policy
	NextTryAt  *time.Time     `json:"next_try_at,omitempty"` // when the next attempt may begin, if there is to be one
	WallMS     float64        `json:"wall_ms,omitempty"`     // of the program, where it ran
	CPUMS      float64        `json:"cpu_ms,omitempty"`
	MemoryPeak int64          `json:"memory_peak_bytes,omitempty"`
}

// AttemptOutcome says how an attempt ended.
type AttemptOutcome string

const (
	AttemptRunning   AttemptOutcome = "running"
	AttemptCompleted AttemptOutcome = "completed" // there is a result
	AttemptCancelled AttemptOutcome = "cancelled"
	AttemptRetried   AttemptOutcome = "retried" // the platform failed; queued again
	AttemptFailed    AttemptOutcome = "failed"  // the platform failed for good
	AttemptLost      AttemptOutcome = "lost"    // the lease ran out
)

// DeadLetter is an evaluation that the platform gave up on, until somebody
// retries or deletes it.
type DeadLetter struct {
	Key
	Language    string    `json:"language"`
	Tags        []string  `json:"tags,omitempty"`
	BatchID     string    `json:"batch_id,omitempty"`
	Client      string    `json:"client,omitempty"`
	Priority    Priority  `json:"priority"`
	DispatchSeq int       `json:"dispatch_seq"`
	Failure     Failure   `json:"failure"`
	Attempts    int       `json:"attempts"`
	FailedAt    time.Time `json:"failed_at"`
}

// DeadLetter is what the list of dead letters says about a failed evaluation.
func (e Evaluation) DeadLetter() DeadLetter {
	d := DeadLetter{
		Key: e.Key, Language: e.Spec.Language, Tags: e.Spec.Tags, BatchID: e.BatchID, Client: e.Client,
		Priority: e.Spec.Priority, DispatchSeq: e.DispatchSeq, Attempts: e.Attempt, FailedAt: e.UpdatedAt,
	}
	if e.Failure != nil {
		d.Failure = *e.Failure
	}
	return d
}

// Dispatch is the last dispatch of the evaluation, by which a queue knows it.
func (d DeadLetter) Dispatch() Dispatch {
	return Dispatch{Key: d.Key, Seq: d.DispatchSeq, Priority: d.Priority}
}

func ptr[T any](v T) *T { return &v }
