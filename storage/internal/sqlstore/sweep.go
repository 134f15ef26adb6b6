package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/crucible-eval/crucible/pkg/eval"
)

var _ eval.Sweeper = (*Store)(nil)

// history is the tables that have rows of an evaluation by its key alone.
var history = []string{"programs", "attempts", "evaluation_events", "dead_letters", "callbacks", "blob_refs"}

const whereOver = " FROM evaluations e WHERE e.status = ? AND e.finished_at <= ?" +
	" AND NOT EXISTS (SELECT 1 FROM callbacks c WHERE c.project_id = e.project_id AND c.evaluation_id = e.id AND c.status = 'pending')"

// Sweep implements [eval.Sweeper]. One transaction removes all of them.
func (s *Store) Sweep(ctx context.Context, r eval.Retention, limit int) (int, error) {
	gone := 0
	for _, status := range eval.Statuses() {
		age := r.Of(status)
		if age <= 0 || gone >= limit {
			continue
		}
		// Mostly nothing is: find that out without taking the lock to write.
		some, err := s.any(ctx, "SELECT 1"+whereOver+" LIMIT 1", string(status), s.now().Add(-age).UnixMicro())
		if err != nil || !some {
			if err != nil {
				return gone, err
			}
			continue
		}
		n := 0
		err = s.transact(ctx, func(t *tx) (err error) {
			n, err = t.sweep(status, t.now.Add(-age), limit-gone)
			return err
		})
		if err != nil {
			return gone, err
		}
		gone += n
	}
	return gone, nil
}

// tagged is an evaluation with its rows in the table of tags.
type tagged struct {
	eval.Key
	createdAt time.Time
	tags      []string
}

func (t *tx) sweep(status eval.Status, before time.Time, limit int) (int, error) {
	var over []tagged
	err := rows(t.db, func(r *sql.Rows) error {
		e, err := scanEvaluation(r)
		over = append(over, tagged{e.Key, e.CreatedAt, e.Spec.Tags})
		return err
	}, selectSummary+whereOver[len(" FROM evaluations e"):]+" ORDER BY e.finished_at LIMIT ?"+t.store.dialect.skipLocked,
		string(status), before.UnixMicro(), limit)
	if err != nil || len(over) == 0 {
		return 0, err
	}
	var keys []any
	for _, e := range over {
		keys = append(keys, e.Project, string(e.ID))
	}
	these := " IN (VALUES " + tuples(marks(2), len(over)) + ")"
	if _, err := t.exec("UPDATE blobs SET look_at = ? WHERE (look_at IS NULL OR look_at < ?) AND digest IN"+
		" (SELECT digest FROM blob_refs WHERE (project_id, evaluation_id)"+these+")",
		append([]any{t.now.UnixMicro(), t.now.UnixMicro()}, keys...)...); err != nil {
		return 0, err
	}
	for _, table := range history {
		if _, err := t.exec("DELETE FROM "+table+" WHERE (project_id, evaluation_id)"+these, keys...); err != nil {
			return 0, err
		}
	}
	for _, e := range over {
		if len(e.tags) == 0 {
			continue
		}
		if _, err := t.exec("DELETE FROM tags WHERE project_id = ? AND tag IN ? AND created_at = ? AND evaluation_id = ?",
			e.Project, e.tags, e.createdAt.UnixMicro(), string(e.ID)); err != nil {
			return 0, err
		}
	}
	_, err = t.exec("DELETE FROM evaluations WHERE (project_id, id)"+these, keys...)
	return len(over), err
}

// SweepKeys implements [eval.Sweeper].
func (s *Store) SweepKeys(ctx context.Context, limit int) (int, error) {
	var n int64
	err := s.transact(ctx, func(t *tx) (err error) {
		n, err = t.forgetKeys(t.now.Add(-eval.IdempotencyWindow), limit)
		return err
	})
	return int(n), err
}

// forgetKeys forgets idempotency keys that were used before, at most limit.
func (t *tx) forgetKeys(before time.Time, limit int) (int64, error) {
	at := before.UnixMicro()
	return t.exec("DELETE FROM idempotency_keys WHERE created_at <= ? AND (project_id, client, key) IN"+
		" (SELECT project_id, client, key FROM idempotency_keys WHERE created_at <= ? LIMIT ?"+t.store.dialect.skipLocked+")", at, at, limit)
}

// HoldBlob implements [eval.Sweeper].
func (s *Store) HoldBlob(ctx context.Context, digest string, bytes int64) error {
	return s.transact(ctx, func(t *tx) error {
		_, err := t.exec("INSERT INTO blobs (digest, bytes, look_at) VALUES (?, ?, ?)"+
			" ON CONFLICT (digest) DO UPDATE SET bytes = excluded.bytes, look_at = excluded.look_at",
			digest, bytes, t.now.Add(eval.BlobGrace).UnixMicro())
		return err
	})
}

// refer notes the blobs that an evaluation has come to refer to.
func (t *tx) refer(e eval.Evaluation) error {
	blobs := e.Blobs()
	for part := range slices.Chunk(blobs, t.store.dialect.rows) {
		var values []any
		for _, digest := range part {
			values = append(values, digest, e.Project, string(e.ID))
		}
		if _, err := t.exec("INSERT INTO blob_refs (digest, project_id, evaluation_id) VALUES "+tuples(marks(3), len(part))+
			" ON CONFLICT DO NOTHING", values...); err != nil {
			return err
		}
	}
	return nil
}

// SweepBlobs implements [eval.Sweeper]. Each blob is removed in a transaction
// of its own that holds its row, which is what HoldBlob waits for.
func (s *Store) SweepBlobs(ctx context.Context, limit int, remove func(context.Context, string) error) (swept eval.SweptBlobs, err error) {
	var digests []string
	err = s.look(ctx, func(r *sql.Rows) error {
		var digest string
		err := r.Scan(&digest)
		digests = append(digests, digest)
		return err
	}, "SELECT digest FROM blobs WHERE look_at <= ? ORDER BY look_at LIMIT ?", s.now().UnixMicro(), max(limit, 0))
	if err != nil {
		return swept, err
	}
	var errs []error
	for _, digest := range digests {
		var bytes int64
		removed := false
		err := s.transact(ctx, func(t *tx) error {
			size, used, found, err := t.lookAt(digest)
			switch {
			case err != nil || !found:
				return err
			case used:
				_, err := t.exec("UPDATE blobs SET look_at = NULL WHERE digest = ?", digest)
				return err
			}
			if err := remove(ctx, digest); err != nil {
				return fmt.Errorf("remove blob %s: %w", digest, err)
			}
			bytes, removed = size, true
			_, err = t.exec("DELETE FROM blobs WHERE digest = ?", digest)
			return err
		})
		if err != nil { // one that cannot be removed holds up no other
			errs = append(errs, err)
			continue
		}
		swept.Looked++
		if removed {
			swept.Removed++
			swept.Bytes += bytes
		}
	}
	return swept, errors.Join(errs...)
}

// lookAt locks the row of a blob that it is time to look at, and says whether
// an evaluation refers to it. found is false when somebody else looks at it,
// or has put it again.
func (t *tx) lookAt(digest string) (bytes int64, used, found bool, err error) {
	err = rows(t.db, func(r *sql.Rows) error { found = true; return r.Scan(&bytes) },
		"SELECT bytes FROM blobs WHERE digest = ? AND look_at <= ?"+t.store.dialect.skipLocked, digest, t.now.UnixMicro())
	if err != nil || !found {
		return 0, false, false, err
	}
	err = rows(t.db, func(*sql.Rows) error { used = true; return nil }, "SELECT 1 FROM blob_refs WHERE digest = ? LIMIT 1", digest)
	return bytes, used, true, err
}
