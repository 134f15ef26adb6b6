package eval

import (
	"context"
	"time"
)

// Outbox is the list of callbacks: what a deliverer needs, and what people do
// with those that are dead.
type Outbox interface {
	// TakeCallbacks gives callbacks that are due to a deliverer, over all
	// projects, the most overdue first. Several may ask at once: none gets a
	// callback that another holds.
	TakeCallbacks(ctx context.Context, r TakeRequest) ([]Callback, error)
	// ReportCallback says what became of a try and returns the callback as it
	// is then. KindLeaseLost: the try was taken away before; the report is
	// dropped.
	ReportCallback(ctx context.Context, l CallbackLease, d Delivery) (Callback, error)
	// Callback returns the callback of an evaluation that has ended.
	// KindNotFound where it has none.
	Callback(ctx context.Context, key Key) (Callback, error)
	// ListCallbacks returns them newest first (created_at, then id, descending).
	ListCallbacks(ctx context.Context, q CallbackQuery) (CallbackPage, error)
	// RetryCallback makes a dead callback due now, with all of its tries.
	// KindNotFound; KindConflict when it is not dead.
	RetryCallback(ctx context.Context, key Key) (Callback, error)
	// CountCallbacks counts the project's callbacks that are not delivered.
	CountCallbacks(ctx context.Context, project string) (CallbackStats, error)
}

// TakeRequest says which callbacks a deliverer takes.
type TakeRequest struct {
	Deliverer string        `json:"deliverer"`
	Lease     time.Duration `json:"lease"` // nanoseconds after which it is taken for lost
	Limit     int           `json:"limit"` // of one answer
	// PerHost bounds the callbacks to one host in one answer, and none goes to
	// a host in Busy, so that a slow receiver does not hold up the others.
	PerHost int      `json:"per_host"`
	Busy    []string `json:"busy,omitempty"`
}

// CallbackLease names a try that a deliverer believes it holds.
type CallbackLease struct {
	Key
	Try int `json:"try"`
}

// CallbackQuery selects callbacks of a project.
type CallbackQuery struct {
	Project string         `json:"project"`
	Status  CallbackStatus `json:"status,omitempty"` // empty: all
	Limit   int            `json:"limit,omitempty"`  // 1 to 500; 0 is 50
	Cursor  string         `json:"cursor,omitempty"`
}

// CallbackPage is a part of the list.
type CallbackPage struct {
	Callbacks []Callback `json:"callbacks"`
	Next      string     `json:"next,omitempty"` // empty: there is no more
}

// CallbackStats counts callbacks.
type CallbackStats struct {
	Pending int64 `json:"pending"`
	Dead    int64 `json:"dead"`
	// DueAt is since when the most overdue pending one is due; absent when
	// none is.
	DueAt *time.Time `json:"due_at,omitempty"`
}
