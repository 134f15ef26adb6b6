package sqlstore

import (
	"context"
	"database/sql"
	"time"

	"github.com/crucible-eval/crucible/pkg/eval"
)

// Claim implements [eval.Leaser].
func (s *Store) Claim(ctx context.Context, r eval.ClaimRequest) (eval.Evaluation, error) {
	if !r.Plausible() {
		return eval.Evaluation{}, r.Missing()
	}
	return s.change(ctx, selectWhole, r.Key, r.Missing(), func(t *tx, e eval.Evaluation) (eval.Change, error) {
		return e.Claim(r, t.now)
	})
}

// Beat implements [eval.Leaser].
func (s *Store) Beat(ctx context.Context, l eval.Lease, lease time.Duration) (eval.Beat, error) {
	if !l.Plausible() {
		return eval.Beat{}, l.Missing()
	}
	e, err := s.change(ctx, selectSummary, l.Key, l.Missing(), func(t *tx, e eval.Evaluation) (eval.Change, error) {
		return e.Beat(l.Attempt, lease, t.now)
	})
	if err != nil {
		return eval.Beat{}, err
	}
	return eval.Beat{LeaseUntil: *e.LeaseUntil, CancelRequested: e.CancelRequestedAt != nil}, nil
}

// Finish implements [eval.Leaser].
func (s *Store) Finish(ctx context.Context, l eval.Lease, o eval.Outcome) (eval.Evaluation, error) {
	if err := o.Validate(); err != nil {
		return eval.Evaluation{}, err
	}
	if !l.Plausible() {
		return eval.Evaluation{}, l.Missing()
	}
	return s.change(ctx, selectWhole, l.Key, l.Missing(), func(t *tx, e eval.Evaluation) (eval.Change, error) {
		attempt, err := t.attempt(l.Key, l.Attempt)
		if err != nil {
			return eval.Change{}, err
		}
		if attempt.Reported() {
			return eval.Change{Evaluation: e}, nil
		}
		return e.Finish(attempt, o, t.now, jitter(), s.rules)
	})
}

// attempt reads one attempt; one that never was is still running.
func (t *tx) attempt(key eval.Key, number int) (eval.Attempt, error) {
	a := eval.Attempt{Key: key, Number: number, Outcome: eval.AttemptRunning}
	err := rows(t.db, func(r *sql.Rows) (err error) {
		a, err = scanAttempt(r)
		return err
	}, "SELECT "+attemptColumns+" FROM attempts WHERE project_id = ? AND evaluation_id = ? AND number = ?", key.Project, string(key.ID), number)
	return a, err
}

const (
	whereExpired = " FROM evaluations WHERE status = 'queued' AND expires_at <= ?"
	whereLapsed  = " FROM evaluations WHERE status = 'running' AND lease_until <= ?"
)

func (s *Store) any(ctx context.Context, query string, args ...any) (found bool, err error) {
	err = s.look(ctx, func(*sql.Rows) error { found = true; return nil }, query, args...)
	return found, err
}

// Reap implements [eval.Scheduler].
func (s *Store) Reap(ctx context.Context, limit int) ([]eval.Evaluation, error) {
	return s.overdue(ctx, whereLapsed+" ORDER BY lease_until, id LIMIT ?", limit, func(t *tx, e eval.Evaluation) (eval.Change, bool, error) {
		attempt, err := t.attempt(e.Key, e.Attempt)
		if err != nil {
			return eval.Change{}, false, err
		}
		c, ok := e.Reap(attempt, t.now, jitter(), s.rules)
		return c, ok, nil
	})
}

// Expire implements [eval.Scheduler].
func (s *Store) Expire(ctx context.Context, limit int) ([]eval.Evaluation, error) {
	return s.overdue(ctx, whereExpired+" ORDER BY expires_at, id LIMIT ?", limit, func(t *tx, e eval.Evaluation) (eval.Change, bool, error) {
		c, ok := e.Expire(t.now)
		return c, ok, nil
	})
}

// overdue changes evaluations whose time is over. Each is taken in a
// transaction of its own, so that one cannot hold up the others. fn says
// whether it still is: somebody else may have been faster.
func (s *Store) overdue(ctx context.Context, where string, limit int, fn func(*tx, eval.Evaluation) (eval.Change, bool, error)) ([]eval.Evaluation, error) {
	var keys []eval.Key
	err := s.look(ctx, func(r *sql.Rows) error {
		var k eval.Key
		err := r.Scan(&k.Project, &k.ID)
		keys = append(keys, k)
		return err
	}, "SELECT project_id, id"+where, s.now().UnixMicro(), max(limit, 0))
	if err != nil {
		return nil, err
	}
	var changed []eval.Evaluation
	for _, key := range keys {
		err := s.transact(ctx, func(t *tx) error {
			e, found, err := t.load(selectWhole, key)
			if err != nil || !found {
				return err
			}
			c, ok, err := fn(t, e)
			if err != nil || !ok {
				return err
			}
			changed = append(changed, c.Evaluation)
			return t.save(e, c)
		})
		if err != nil {
			return changed, err
		}
	}
	return changed, nil
}
