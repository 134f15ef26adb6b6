// Package rest answers the requests below /api/v1. Each file has the routes
// of one thing; what they mean stands in openapi.yaml.
package rest

import (
	"context"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/crucible-eval/crucible/api/internal/catalog"
	"github.com/crucible-eval/crucible/api/internal/live"
	"github.com/crucible-eval/crucible/api/internal/quota"
	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/httpkit"
	"github.com/crucible-eval/crucible/pkg/task"
)

// Queues looks at the queues and pauses them.
type Queues interface {
	Queues(ctx context.Context) ([]task.QueueInfo, error)
	Pause(ctx context.Context, queue string) error
	Resume(ctx context.Context, queue string) error
}

// StoragePart is a place where data is kept, with its numbers as they are.
type StoragePart struct {
	Name    string `json:"name"`              // database, blobs, queue...
	Backend string `json:"backend"`           // memory, file, sqlite, postgres, s3, redis...
	Bytes   *int64 `json:"bytes,omitempty"`   // nil: not known
	Objects *int64 `json:"objects,omitempty"` // rows, files or keys; nil: not known
	Version string `json:"version,omitempty"` // of the server behind it
	Problem string `json:"problem,omitempty"` // why it cannot be reached
	// Retention is how long what has ended is kept there; nil: not known.
	Retention *Retention `json:"retention,omitempty"`
}

// Retention is how many seconds evaluations are kept from their end; 0: for ever.
type Retention struct {
	Ended  int64 `json:"ended_seconds"`  // completed and cancelled
	Failed int64 `json:"failed_seconds"` // with their dead letters
}

// Options are what the routes work with. Blobs, Output, Roster, Queues and
// Storage may be nil: what needs them says that it is not here.
type Options struct {
	Store    eval.Store
	Blobs    eval.Blobs
	Queue    eval.Queue
	Output   eval.OutputLog
	Roster   eval.Roster
	Queues   Queues
	Storage  func(context.Context) ([]StoragePart, error)
	Hub      *live.Hub
	Catalog  *catalog.Catalog
	Policy   eval.Policy
	Quota    *quota.Gate
	Log      *slog.Logger
	Metrics  *Metrics
	Version  string
	Draining <-chan struct{}     // closed when the server shuts down: waits and streams end
	NewWork  echo.MiddlewareFunc // of routes that begin something

	// CheckCallback says what is wrong with a callback_url, or "". Nil: there are no callbacks here.
	CheckCallback func(url string) string

	BatchBodyLimit int64
	MaxWait        time.Duration
	MaxWaiters     int
	MaxStreams     int
}

// API has the handlers.
type API struct {
	Options
	began   time.Time
	waiting atomic.Int64
	streams atomic.Int64
	numbers numbers
	readers sync.WaitGroup // of output logs
}

// New returns the handlers.
func New(o Options) *API { return &API{Options: o, began: time.Now()} }

// Routes adds the routes below /api/v1.
func (a *API) Routes(e *echo.Echo) {
	v1 := e.Group("/api/v1")

	v1.POST("/evaluations", a.submit, a.NewWork, linger)
	v1.POST("/evaluations/batch", a.submitBatch, a.NewWork, linger, httpkit.BodyLimit(a.BatchBodyLimit))
	v1.GET("/evaluations", a.list)
	v1.POST("/evaluations/cancel", a.cancelMany, linger)
	v1.GET("/evaluations/:id", a.get)
	v1.GET("/evaluations/:id/attempts", a.attempts)
	v1.GET("/evaluations/:id/timeline", a.timeline)
	v1.POST("/evaluations/:id/cancel", a.cancel, linger)
	v1.POST("/evaluations/:id/retry", a.retry, a.NewWork)
	v1.GET("/evaluations/:id/events", a.events)
	v1.GET("/evaluations/:id/output/:stream", a.output)
	v1.HEAD("/evaluations/:id/output/:stream", a.output)
	v1.GET("/evaluations/:id/artifacts/:index", a.artifact)
	v1.HEAD("/evaluations/:id/artifacts/:index", a.artifact)
	v1.GET("/events", a.feed)

	v1.GET("/queues", a.queues)
	v1.POST("/queues/:name/pause", a.pauseQueue)
	v1.POST("/queues/:name/resume", a.resumeQueue)

	v1.GET("/dead-letters", a.listDeadLetters)
	v1.POST("/dead-letters/retry", a.retryDeadLetters, a.NewWork, linger)
	v1.POST("/dead-letters/delete", a.deleteDeadLetters, linger)
	v1.GET("/dead-letters/:id", a.deadLetter)
	v1.POST("/dead-letters/:id/retry", a.retry, a.NewWork)
	v1.DELETE("/dead-letters/:id", a.deleteDeadLetter)

	v1.GET("/callbacks", a.listCallbacks)
	v1.POST("/callbacks/:id/retry", a.retryCallback)

	v1.GET("/workers", a.workers)
	v1.GET("/executors", a.executors)
	v1.GET("/languages", a.languages)
	v1.GET("/isolation", a.isolation)
	v1.GET("/stats", a.stats)
	v1.GET("/retry-policies", a.retryPolicies)
	v1.GET("/limits", a.limits)
	v1.GET("/storage", a.storage)
}

// Wait returns when nothing that streams left behind runs any more. It is
// called after the server has stopped.
func (a *API) Wait() { a.readers.Wait() }

// stopping tells whether the server shuts down.
func (a *API) stopping() bool {
	select {
	case <-a.Draining:
		return true
	default:
		return false
	}
}

// await waits for the end of an evaluation if there is room for one more to
// wait, and ends early when the server stops. The answer is the evaluation as
// it is then.
func (a *API) await(ctx context.Context, key eval.Key, limit time.Duration) (eval.Evaluation, error) {
	if a.waiting.Add(1) > int64(a.MaxWaiters) {
		a.waiting.Add(-1)
		return eval.Evaluation{}, &eval.Error{Kind: eval.KindFull, RetryAfter: time.Second,
			Message: "too many requests wait already; ask without wait, or come back"}
	}
	a.Metrics.Waiters.Inc()
	defer func() {
		a.waiting.Add(-1)
		a.Metrics.Waiters.Dec()
	}()
	return a.Hub.Await(ctx, key, limit, a.Draining)
}

// answer sends an evaluation: 200 when it has ended, else 202.
func answer(c echo.Context, e eval.Evaluation) error {
	status := http.StatusAccepted
	if e.Status.Terminal() {
		status = http.StatusOK
	}
	return c.JSON(status, brief(e))
}
