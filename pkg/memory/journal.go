package memory

import (
	"context"
	"slices"
	"time"

	"github.com/crucible-eval/crucible/pkg/eval"
)

// Journal makes a store durable: it writes down each transaction before the
// store takes it over.
type Journal interface {
	// Commit writes all of t, or nothing and returns an error, which the
	// store returns to its caller. Calls do not overlap. What t points at is
	// not to be changed.
	Commit(ctx context.Context, t Transaction) error
}

// Transaction is what has to be written together.
type Transaction struct {
	Records     []Record     `json:"records,omitempty"`     // written, or replaced by their keys
	Forgotten   []eval.Key   `json:"forgotten,omitempty"`   // removed
	Idempotency *Idempotency `json:"idempotency,omitempty"` // written, or replaced by its key
	Blobs       []Blob       `json:"blobs,omitempty"`       // written, or replaced by their digests

	ForgottenKeys  []Idempotency `json:"forgotten_keys,omitempty"`  // removed, by project, client and key
	ForgottenBlobs []string      `json:"forgotten_blobs,omitempty"` // removed
	// Cursor, when not 0, is the last that was given: the event that has it
	// may be among what is forgotten.
	Cursor int64 `json:"cursor,omitempty"`
}

// Blob is content elsewhere that nothing is known to refer to before LookAt.
type Blob struct {
	Digest string    `json:"digest"`
	Bytes  int64     `json:"bytes"`
	LookAt time.Time `json:"look_at"`
}

// Snapshot is all that a journal has kept.
type Snapshot struct {
	Records []Record
	Keys    []Idempotency
	Blobs   []Blob
	Cursor  int64
}

// Record is an evaluation with all of its history.
type Record struct {
	Evaluation eval.Evaluation  `json:"evaluation"`
	Events     []eval.Event     `json:"events"`
	Attempts   []eval.Attempt   `json:"attempts,omitempty"`
	DeadLetter *eval.DeadLetter `json:"dead_letter,omitempty"`
	Callback   *eval.Callback   `json:"callback,omitempty"`
}

// Idempotency is a used idempotency key.
type Idempotency struct {
	Project     string    `json:"project"`
	Client      string    `json:"client,omitempty"`
	Key         string    `json:"key"`
	Fingerprint string    `json:"fingerprint"`
	IDs         []eval.ID `json:"ids"`
	At          time.Time `json:"at"`
}

func transaction(records, forgotten []*record, key *Idempotency) Transaction {
	t := Transaction{Idempotency: key}
	for _, r := range records {
		t.Records = append(t.Records, Record{r.eval, r.events, r.attempts, r.dead, r.callback})
	}
	for _, r := range forgotten {
		t.Forgotten = append(t.Forgotten, r.eval.Key)
	}
	return t
}

// Restore fills an empty store with what a journal has kept. It is called
// before the store is used.
func (s *Store) Restore(from Snapshot) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cursor = from.Cursor
	for _, b := range from.Blobs {
		s.blobs[b.Digest] = &blob{bytes: b.Bytes, lookAt: &b.LookAt}
	}
	for _, r := range from.Records {
		s.put(&record{r.Evaluation, r.Events, r.Attempts, r.DeadLetter, r.Callback})
		for _, e := range r.Events {
			s.cursor = max(s.cursor, e.Cursor)
		}
	}
	for _, p := range s.projects {
		slices.SortFunc(p.feed, func(a, b eval.Event) int { return int(a.Cursor - b.Cursor) })
	}
	for _, k := range from.Keys {
		s.project(k.Project).keys[clientKey{k.Client, k.Key}] = idempotencyKey{k.Fingerprint, k.IDs, k.At}
	}
}
