package sqlstore

import (
	"context"
	"database/sql"

	"github.com/crucible-eval/crucible/pkg/eval"
)

// ListDeadLetters implements [eval.DeadLetters].
func (s *Store) ListDeadLetters(ctx context.Context, q eval.DeadLetterQuery) (eval.DeadLetterPage, error) {
	q, cursor, err := q.Check()
	if err != nil {
		return eval.DeadLetterPage{}, err
	}
	var w where
	w.and("d.project_id = ?", q.Project)
	if len(q.IDs) > 0 {
		w.and("d.evaluation_id IN ?", q.IDs)
	}
	if len(q.Kind) > 0 {
		w.and("d.failure_kind IN ?", q.Kind)
	}
	if q.Language != "" {
		w.and("d.language = ?", q.Language)
	}
	if q.Batch != "" {
		w.and("e.batch_id = ?", q.Batch)
	}
	if q.Client != "" {
		w.and("e.client = ?", q.Client)
	}
	if q.Tag != "" {
		w.and(hasTag, q.Tag)
	}
	if !q.Since.IsZero() {
		w.and("d.failed_at >= ?", ceiling(q.Since))
	}
	if !q.Until.IsZero() {
		w.and("d.failed_at < ?", ceiling(q.Until))
	}
	if cursor != nil {
		w.and("(d.failed_at, d.evaluation_id) < (?, ?)", cursor.At.UnixMicro(), string(cursor.ID))
	}
	page := eval.DeadLetterPage{DeadLetters: []eval.DeadLetter{}}
	err = s.look(ctx, func(r *sql.Rows) error {
		if len(page.DeadLetters) == q.Limit {
			page.Next = page.DeadLetters[q.Limit-1].Cursor()
			return nil
		}
		e, err := scanEvaluation(r)
		if err != nil {
			return err
		}
		page.DeadLetters = append(page.DeadLetters, e.DeadLetter())
		return nil
	}, selectSummary+" JOIN dead_letters d ON d.project_id = e.project_id AND d.evaluation_id = e.id"+
		w.String()+" ORDER BY d.failed_at DESC, d.evaluation_id DESC LIMIT ?", append(w.values, q.Limit+1)...)
	if err != nil {
		return eval.DeadLetterPage{}, err
	}
	return page, nil
}

// Retry implements [eval.DeadLetters].
func (s *Store) Retry(ctx context.Context, key eval.Key, newID eval.ID) (eval.Evaluation, error) {
	if !key.Plausible() {
		return eval.Evaluation{}, key.Missing()
	}
	var created eval.Evaluation
	err := s.transact(ctx, func(t *tx) error {
		e, found, err := t.load(selectWhole, key)
		if err != nil {
			return err
		}
		if !found {
			return key.Missing()
		}
		c, err := e.Again(newID, t.now)
		if err != nil {
			return err
		}
		// The failed one is locked, so that of several at once the second finds what the first has written.
		first, found, err := t.one(selectWhole+itsRetry, key)
		if err != nil || found {
			created = first
			return err
		}
		if _, err := t.bury(key); err != nil {
			return err
		}
		changes := []eval.Change{c}
		if err := t.join(changes); err != nil {
			return err
		}
		created = changes[0].Evaluation
		return t.insert(changes)
	})
	if err != nil {
		return eval.Evaluation{}, err
	}
	return created, nil
}

// DeleteDeadLetter implements [eval.DeadLetters].
func (s *Store) DeleteDeadLetter(ctx context.Context, key eval.Key) error {
	missing := &eval.Error{Kind: eval.KindNotFound, Message: "there is no dead letter " + string(key.ID)}
	if !key.Plausible() {
		return missing
	}
	return s.transact(ctx, func(t *tx) error {
		n, err := t.bury(key)
		if err == nil && n == 0 {
			return missing
		}
		return err
	})
}

// bury takes a dead letter from the list and returns how many were there.
func (t *tx) bury(key eval.Key) (int64, error) {
	return t.exec("DELETE FROM dead_letters WHERE project_id = ? AND evaluation_id = ?", key.Project, string(key.ID))
}
