package eval

import (
	"context"
	"time"
)

// Notice says that an evaluation has changed, so that those who wait may look.
type Notice struct {
	Key
	Status          Status `json:"status"`
	Seq             int64  `json:"seq"`
	CancelRequested bool   `json:"cancel_requested,omitempty"`
}

// Notices carries hints between processes. Losing one costs latency, never
// truth: whoever waits also looks at the store now and then.
type Notices interface {
	// Announce tells everybody who watches. An error may be ignored.
	Announce(ctx context.Context, n Notice) error
	// Watch returns the notices of all evaluations until ctx ends, and then
	// closes the channel. The channel is bounded: a slow reader loses
	// notices. It reconnects by itself.
	Watch(ctx context.Context) (<-chan Notice, error)
}

// OutputChunk is a piece of a running program's output.
type OutputChunk struct {
	Position string    `json:"position"` // where the next read goes on
	Attempt  int       `json:"attempt"`
	Stream   string    `json:"stream"` // stdout or stderr
	Offset   int64     `json:"offset"` // of Data's first byte in its stream
	Data     Bytes     `json:"data"`
	At       time.Time `json:"at"`
}

// OutputLog carries the output of running programs to those who look. It is
// capped, and gone a while after the end: the result is the record.
type OutputLog interface {
	// Append adds a chunk to the log of an evaluation.
	Append(ctx context.Context, key Key, c OutputChunk) error
	// Read returns chunks after a position ("" is the oldest kept), at most
	// 100, and waits up to wait for the first.
	Read(ctx context.Context, key Key, after string, wait time.Duration) ([]OutputChunk, error)
}

// WorkerInfo is what a worker says about itself.
type WorkerInfo struct {
	ID        string            `json:"id"`
	Host      string            `json:"host"`
	PID       int               `json:"pid"`
	Version   string            `json:"version"`
	StartedAt time.Time         `json:"started_at"`
	SeenAt    time.Time         `json:"seen_at"`
	Slots     int               `json:"slots"`
	Draining  bool              `json:"draining"`
	Running   []RunningInfo     `json:"running"`
	Executors []ExecutorContact `json:"executors"`
	Finished  int64             `json:"finished"` // attempts since it started
	// Lost is true when it fell silent without leaving; the rest is what it
	// said last. It is set by the Roster.
	Lost bool `json:"lost,omitempty"`
}

// State is the worker's state in a word: working, draining or lost.
func (w WorkerInfo) State() string {
	switch {
	case w.Lost:
		return "lost"
	case w.Draining:
		return "draining"
	default:
		return "working"
	}
}

// RunningInfo is an attempt that a worker, or an executor, has in hand.
type RunningInfo struct {
	ID       ID        `json:"id"`
	Language string    `json:"language"`
	Attempt  int       `json:"attempt"`
	Since    time.Time `json:"since"`
}

// ExecutorContact is an executor as a worker sees it.
type ExecutorContact struct {
	Name     string `json:"name"`              // its URL, or "local"
	InFlight int    `json:"in_flight"`         // of this worker
	Load     *Load  `json:"load,omitempty"`    // as its last answer told, with everybody's runs
	Problem  string `json:"problem,omitempty"` // why it was not reached last time
}

// LostFor is how long a worker that fell silent is shown as lost.
const LostFor = 15 * time.Minute

// Roster is the list of workers.
type Roster interface {
	// Report publishes a worker's state. When no other report comes within
	// ttl, the worker is lost; LostFor later it is forgotten.
	Report(ctx context.Context, w WorkerInfo, ttl time.Duration) error
	// Leave forgets a worker at once.
	Leave(ctx context.Context, id string) error
	// Workers returns those alive and those lost, by id.
	Workers(ctx context.Context) ([]WorkerInfo, error)
}
