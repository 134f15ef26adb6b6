// Package remote has the HTTP twins: each implements an interface of package
// eval by asking the service that has the real one.
package remote

import (
	"time"

	"github.com/crucible-eval/crucible/pkg/eval"
)

// Paths of the storage service. Each method of [eval.Store] is a POST to
// StorePath + its name in snake_case, with one of the requests below as JSON;
// blobs are BlobsPath and BlobsPath/<digest>, as raw bytes.
const (
	StorePath = "/v1/store/"
	BlobsPath = "/v1/blobs"
	InfoPath  = "/v1/info"
)

// BlobSizeHeader says how long a blob is, of which the body may be a part.
const BlobSizeHeader = "Crucible-Blob-Size"

// Requests and answers of the storage service, where the domain has no type for them.
type (
	// CreateAnswer answers create, whose request is an eval.Submission.
	CreateAnswer struct {
		Evaluations []eval.Evaluation `json:"evaluations"`
		Replayed    bool              `json:"replayed"`
	}
	// GetAnswer answers get: the evaluation, and for how long it stays as it
	// is: see eval.Keeper.
	GetAnswer struct {
		eval.Evaluation
		Kept time.Duration `json:"kept,omitempty"` // nanoseconds
	}
	// CancelRequest asks for cancel.
	CancelRequest struct {
		eval.Key
		Reason string `json:"reason"`
	}
	// EventsRequest asks for events.
	EventsRequest struct {
		eval.Key
		After int64 `json:"after"`
		Limit int   `json:"limit"`
	}
	// FeedRequest asks for feed.
	FeedRequest struct {
		Project string `json:"project"`
		After   int64  `json:"after"`
		Limit   int    `json:"limit"`
	}
	// ProjectRequest asks for stats, clients and count_callbacks.
	ProjectRequest struct {
		Project string `json:"project"`
	}
	// BeatRequest asks for beat.
	BeatRequest struct {
		eval.Lease
		Duration time.Duration `json:"duration"` // nanoseconds
	}
	// FinishRequest asks for finish.
	FinishRequest struct {
		Lease   eval.Lease   `json:"lease"`
		Outcome eval.Outcome `json:"outcome"`
	}
	// LimitRequest asks for reap and expire.
	LimitRequest struct {
		Limit int `json:"limit"`
	}
	// RetryRequest asks for retry.
	RetryRequest struct {
		eval.Key
		NewID eval.ID `json:"new_id"`
	}
	// ReportCallbackRequest asks for report_callback.
	ReportCallbackRequest struct {
		Lease    eval.CallbackLease `json:"lease"`
		Delivery eval.Delivery      `json:"delivery"`
	}
	// Nothing is an empty request or answer.
	Nothing struct{}
	// Number answers rewind.
	Number struct {
		Number int `json:"number"`
	}
	// BlobAnswer answers a POST to BlobsPath.
	BlobAnswer struct {
		Digest string `json:"digest"`
		Size   int64  `json:"size"`
	}
)
