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
	w.and("project_id = ?", q.Project)
	if q.Kind != "" {
		w.and("failure_kind = ?", string(q.Kind))
	}
	if q.Language != "" {
		w.and("language = ?", q.Language)
	}
	if cursor != nil {
		w.and("(failed_at, evaluation_id) < (?, ?)", cursor.At.UnixMicro(), string(cursor.ID))
	}
	page := eval.DeadLetterPage{DeadLetters: []eval.DeadLetter{}}
	err = s.look(ctx, func(r *sql.Rows) error {
		if len(page.DeadLetters) == q.Limit {
			page.Next = page.DeadLetters[q.Limit-1].Cursor()
			return nil
		}
		var (
			d        eval.DeadLetter
			failedAt int64
		)
		err := r.Scan(&d.Project, &d.ID, &d.Language, &d.Failure.Kind, &d.Failure.Message, &d.Attempts, &failedAt)
		d.FailedAt = fromMicros(failedAt)
		page.DeadLetters = append(page.DeadLetters, d)
		return err
	}, "SELECT project_id, evaluation_id, language, failure_kind, failure_message, attempts, failed_at FROM dead_letters"+
		w.String()+" ORDER BY failed_at DESC, evaluation_id DESC LIMIT ?", append(w.values, q.Limit+1)...)
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
		c, err := e.Again(newID, t.now, s.rules)
		if err != nil {
			return err
		}
		if _, err := t.bury(key); err != nil {
			return err
		}
		created = c.Evaluation
		return t.insert([]eval.Change{c})
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
