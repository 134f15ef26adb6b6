package memory

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/crucible-eval/crucible/pkg/eval"
)

var _ eval.Sweeper = (*Store)(nil)

// blob is what the store knows of content elsewhere.
type blob struct {
	bytes  int64
	refs   int        // evaluations that refer to it
	lookAt *time.Time // when to see whether it is in use; nil: it is
}

// commit writes a transaction that only removes or notes something.
func (s *Store) commit(ctx context.Context, t Transaction) error {
	if s.options.Journal == nil {
		return nil
	}
	return s.options.Journal.Commit(ctx, t)
}

// Sweep implements [eval.Sweeper].
func (s *Store) Sweep(ctx context.Context, r eval.Retention, limit int) (int, error) {
	if err := ended(ctx); err != nil {
		return 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	var over []*record
	for _, rec := range s.records {
		if r.Over(rec.eval, now) && s.pending[rec.eval.Key] == nil {
			over = append(over, rec)
		}
	}
	slices.SortFunc(over, func(a, b *record) int { return cmp.Or(a.eval.FinishedAt.Compare(*b.eval.FinishedAt), byAge(a, b)) })
	over = over[:min(max(limit, 0), len(over))]
	if len(over) == 0 {
		return 0, nil
	}
	t := transaction(nil, over, nil)
	t.Cursor = s.cursor // the events that told it may be gone
	if err := s.commit(ctx, t); err != nil {
		return 0, err
	}
	for _, rec := range over {
		s.forget(rec)
	}
	return len(over), nil
}

// SweepKeys implements [eval.Sweeper].
func (s *Store) SweepKeys(ctx context.Context, limit int) (int, error) {
	if err := ended(ctx); err != nil {
		return 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.now().Add(-eval.IdempotencyWindow)
	var t Transaction
	for name, p := range s.projects {
		for key, used := range p.keys {
			if !used.at.After(old) && len(t.ForgottenKeys) < limit {
				t.ForgottenKeys = append(t.ForgottenKeys, Idempotency{Project: name, Client: key.client, Key: key.key})
			}
		}
	}
	if len(t.ForgottenKeys) == 0 {
		return 0, nil
	}
	if err := s.commit(ctx, t); err != nil {
		return 0, err
	}
	for _, k := range t.ForgottenKeys {
		delete(s.projects[k.Project].keys, clientKey{k.Client, k.Key})
	}
	return len(t.ForgottenKeys), nil
}

// HoldBlob implements [eval.Sweeper].
func (s *Store) HoldBlob(ctx context.Context, digest string, bytes int64) error {
	if err := ended(ctx); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	at := s.now().Add(eval.BlobGrace)
	if err := s.commit(ctx, Transaction{Blobs: []Blob{{digest, bytes, at}}}); err != nil {
		return err
	}
	b := s.blob(digest)
	b.bytes, b.lookAt = bytes, &at
	return nil
}

// blob returns what is known of a blob, made when missing.
func (s *Store) blob(digest string) *blob {
	b := s.blobs[digest]
	if b == nil {
		b = &blob{}
		s.blobs[digest] = b
	}
	return b
}

// refer counts the blobs of an evaluation as used by one more, or one less.
func (s *Store) refer(e eval.Evaluation, by int) {
	for _, digest := range e.Blobs() {
		b := s.blob(digest)
		if b.refs += by; b.refs > 0 {
			continue
		}
		if now := s.now(); b.lookAt == nil || b.lookAt.Before(now) {
			b.lookAt = &now
		}
	}
}

// SweepBlobs implements [eval.Sweeper]. Everybody else waits meanwhile.
func (s *Store) SweepBlobs(ctx context.Context, limit int, remove func(context.Context, string) error) (swept eval.SweptBlobs, err error) {
	if err := ended(ctx); err != nil {
		return swept, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	var errs []error
	for digest, b := range s.blobs {
		if swept.Looked == limit {
			break
		}
		if b.lookAt == nil || b.lookAt.After(now) {
			continue
		}
		swept.Looked++
		if b.refs > 0 {
			b.lookAt = nil
			continue
		}
		if err := remove(ctx, digest); err != nil { // one that cannot be removed holds up no other
			errs = append(errs, err)
			continue
		}
		if err := s.commit(ctx, Transaction{ForgottenBlobs: []string{digest}}); err != nil {
			return swept, err
		}
		delete(s.blobs, digest)
		swept.Removed++
		swept.Bytes += b.bytes
	}
	return swept, errors.Join(errs...)
}
