package client

import (
	"encoding/json"
	"time"

	"github.com/crucible-eval/crucible/pkg/eval"
)

// Evaluation is an evaluation as the API shows it.
type Evaluation struct {
	ID      eval.ID      `json:"id"`
	Status  eval.Status  `json:"status"`
	Verdict eval.Verdict `json:"verdict,omitempty"`
	Cause   eval.Cause   `json:"cause,omitempty"`
	Attempt int          `json:"attempt"`

	eval.Spec
	BatchID string  `json:"batch_id,omitempty"`
	RetryOf eval.ID `json:"retry_of,omitempty"`
	Client  string  `json:"client,omitempty"`

	CreatedAt  time.Time  `json:"created_at"`
	StartedAt  *time.Time `json:"started_at,omitempty"`
	FinishedAt *time.Time `json:"finished_at,omitempty"`
	QueueMS    *float64   `json:"queue_ms,omitempty"`
	NextTryAt  *time.Time `json:"next_try_at,omitempty"`
	ExpiresAt  *time.Time `json:"expires_at,omitempty"`

	Worker   string        `json:"worker,omitempty"`
	Executor string        `json:"executor,omitempty"`
	Failure  *eval.Failure `json:"failure,omitempty"`
	Reason   string        `json:"reason,omitempty"`
	Result   *eval.Result  `json:"result,omitempty"`
	Callback *Callback     `json:"callback,omitempty"`

	// Raw is the answer as it came, for -o json.
	Raw json.RawMessage `json:"-"`
}

// UnmarshalJSON keeps the answer beside what is read from it.
func (e *Evaluation) UnmarshalJSON(raw []byte) error {
	type plain Evaluation
	var p plain
	if err := json.Unmarshal(raw, &p); err != nil {
		return err
	}
	*e = Evaluation(p)
	e.Raw = append(json.RawMessage(nil), raw...)
	return nil
}

// MarshalJSON writes the answer as it came.
func (e Evaluation) MarshalJSON() ([]byte, error) {
	if e.Raw != nil {
		return e.Raw, nil
	}
	type plain Evaluation
	return json.Marshal(plain(e))
}

// Callback is the delivery of an evaluation, as the API shows it.
type Callback struct {
	ID         eval.ID             `json:"id"`
	Host       string              `json:"host"`
	Status     eval.CallbackStatus `json:"status"`
	Tries      int                 `json:"tries"`
	MaxTries   int                 `json:"max_tries"`
	NextTryAt  *time.Time          `json:"next_try_at,omitempty"`
	Reason     eval.CallbackReason `json:"reason,omitempty"`
	Message    string              `json:"message,omitempty"`
	HTTPStatus int                 `json:"http_status,omitempty"`
	CreatedAt  time.Time           `json:"created_at"`
	EndedAt    *time.Time          `json:"ended_at,omitempty"`
}

// CallbackPage is a part of the list of callbacks.
type CallbackPage struct {
	Callbacks []Callback `json:"callbacks"`
	Next      string     `json:"next,omitempty"`
}

// Page is a part of a list.
type Page struct {
	Evaluations []Evaluation `json:"evaluations"`
	Next        string       `json:"next,omitempty"`
}

// Batch is the answer to a batch.
type Batch struct {
	ID          string       `json:"batch_id"`
	Evaluations []Evaluation `json:"evaluations"`
}

// Event is an entry of an event stream.
type Event struct {
	ID   string
	Type string // of eval.EventType, or stdout, stderr, ...
	Data []byte // JSON
}
