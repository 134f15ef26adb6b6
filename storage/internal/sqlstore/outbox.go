package sqlstore

import (
	"context"
	"database/sql"
	"strings"

	"github.com/crucible-eval/crucible/pkg/eval"
)

const (
	callbackColumns = "project_id, evaluation_id, url, host, created_at, status, tries, max_tries, deliverer, next_at, reason, message, http_status, ended_at"
	selectCallback  = "SELECT " + callbackColumns + " FROM callbacks"
	thisCallback    = " WHERE project_id = ? AND evaluation_id = ?"
	whereCallDue    = " status = 'pending' AND next_at <= ?"
)

var (
	insertCallback = "INSERT INTO callbacks (" + callbackColumns + ") VALUES " + marks(strings.Count(callbackColumns, ",")+1)
	updateCallback = "UPDATE callbacks SET status = ?, tries = ?, max_tries = ?, deliverer = ?, next_at = ?, reason = ?, message = ?, http_status = ?, ended_at = ?" + thisCallback
)

// callbackState are the values of those columns that change.
func callbackState(c eval.Callback) []any {
	return []any{string(c.Status), c.Tries, c.MaxTries, text(c.Deliverer), micros(c.NextAt), text(string(c.Reason)), text(c.Message), c.HTTPStatus, micros(c.EndedAt)}
}

func scanCallback(r *sql.Rows) (eval.Callback, error) {
	var (
		c       eval.Callback
		created int64
	)
	err := r.Scan(&c.Project, &c.ID, &c.URL, &c.Host, &created, &c.Status, &c.Tries, &c.MaxTries, &c.Deliverer,
		moment{&c.NextAt}, &c.Reason, &c.Message, &c.HTTPStatus, moment{&c.EndedAt})
	c.CreatedAt = fromMicros(created)
	return c, err
}

func (t *tx) insertCallback(c eval.Callback) error {
	_, err := t.exec(insertCallback, append([]any{c.Project, string(c.ID), text(c.URL), text(c.Host), c.CreatedAt.UnixMicro()}, callbackState(c)...)...)
	return err
}

func (t *tx) saveCallback(c eval.Callback) error {
	_, err := t.exec(updateCallback, append(callbackState(c), c.Project, string(c.ID))...)
	return err
}

// TakeCallbacks implements [eval.Outbox].
func (s *Store) TakeCallbacks(ctx context.Context, q eval.TakeRequest) ([]eval.Callback, error) {
	// Mostly nothing is due: find that out without taking the lock to write.
	some, err := s.any(ctx, "SELECT 1 FROM callbacks WHERE"+whereCallDue+" LIMIT 1", s.now().UnixMicro())
	if err != nil || !some || q.Limit <= 0 {
		return nil, err
	}
	var taken []eval.Callback
	err = s.transact(ctx, func(t *tx) error {
		now := t.now.UnixMicro()
		busy, args := "", []any{now, now}
		if len(q.Busy) > 0 {
			busy = " AND host NOT IN ?"
			args = append(args, q.Busy)
		}
		// PostgreSQL locks no rows of a window function: the inner query chooses, the outer one locks what is still due.
		var due []eval.Callback
		err := rows(t.db, func(r *sql.Rows) error {
			c, err := scanCallback(r)
			due = append(due, c)
			return err
		}, selectCallback+" WHERE"+whereCallDue+" AND (project_id, evaluation_id) IN"+
			" (SELECT project_id, evaluation_id FROM (SELECT project_id, evaluation_id, row_number() OVER"+
			" (PARTITION BY host ORDER BY next_at, evaluation_id) AS place FROM callbacks WHERE"+whereCallDue+busy+") AS chosen WHERE place <= ?)"+
			" ORDER BY next_at, evaluation_id LIMIT ?"+s.dialect.skipLocked, append(args, q.PerHost, q.Limit)...)
		if err != nil {
			return err
		}
		for _, c := range due {
			c, ok := c.Take(q.Deliverer, q.Lease, t.now)
			if err := t.saveCallback(c); err != nil {
				return err
			}
			if ok {
				taken = append(taken, c)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return taken, nil
}

// ReportCallback implements [eval.Outbox].
func (s *Store) ReportCallback(ctx context.Context, l eval.CallbackLease, d eval.Delivery) (eval.Callback, error) {
	return s.changeCallback(ctx, l.Key, l.Missing(), func(t *tx, c eval.Callback) (eval.Callback, error) {
		return c.Report(l.Try, d, t.now, jitter())
	})
}

// RetryCallback implements [eval.Outbox].
func (s *Store) RetryCallback(ctx context.Context, key eval.Key) (eval.Callback, error) {
	return s.changeCallback(ctx, key, key.NoCallback(), func(t *tx, c eval.Callback) (eval.Callback, error) {
		return c.Retry(t.now)
	})
}

func (s *Store) changeCallback(ctx context.Context, key eval.Key, missing error, fn func(*tx, eval.Callback) (eval.Callback, error)) (eval.Callback, error) {
	if !key.Plausible() {
		return eval.Callback{}, missing
	}
	var now eval.Callback
	err := s.transact(ctx, func(t *tx) error {
		found := false
		err := rows(t.db, func(r *sql.Rows) (err error) {
			found = true
			now, err = scanCallback(r)
			return err
		}, selectCallback+thisCallback+s.dialect.lockRow, key.Project, string(key.ID))
		if err == nil && !found {
			err = missing
		}
		if err != nil {
			return err
		}
		if now, err = fn(t, now); err != nil {
			return err
		}
		return t.saveCallback(now)
	})
	if err != nil {
		return eval.Callback{}, err
	}
	return now, nil
}

// Callback implements [eval.Outbox].
func (s *Store) Callback(ctx context.Context, key eval.Key) (c eval.Callback, err error) {
	if !key.Plausible() {
		return c, key.NoCallback()
	}
	found := false
	err = s.look(ctx, func(r *sql.Rows) (err error) {
		found = true
		c, err = scanCallback(r)
		return err
	}, selectCallback+thisCallback, key.Project, string(key.ID))
	if err == nil && !found {
		err = key.NoCallback()
	}
	return c, err
}

// ListCallbacks implements [eval.Outbox].
func (s *Store) ListCallbacks(ctx context.Context, q eval.CallbackQuery) (eval.CallbackPage, error) {
	q, cursor, err := q.Check()
	if err != nil {
		return eval.CallbackPage{}, err
	}
	var w where
	w.and("project_id = ?", q.Project)
	if q.Status != "" {
		w.and("status = ?", string(q.Status))
	}
	if cursor != nil {
		w.and("(created_at, evaluation_id) < (?, ?)", cursor.At.UnixMicro(), string(cursor.ID))
	}
	page := eval.CallbackPage{Callbacks: []eval.Callback{}}
	err = s.look(ctx, func(r *sql.Rows) error {
		if len(page.Callbacks) == q.Limit {
			page.Next = page.Callbacks[q.Limit-1].Cursor()
			return nil
		}
		c, err := scanCallback(r)
		page.Callbacks = append(page.Callbacks, c)
		return err
	}, selectCallback+w.String()+" ORDER BY created_at DESC, evaluation_id DESC LIMIT ?", append(w.values, q.Limit+1)...)
	if err != nil {
		return eval.CallbackPage{}, err
	}
	return page, nil
}

// CountCallbacks implements [eval.Outbox].
func (s *Store) CountCallbacks(ctx context.Context, project string) (stats eval.CallbackStats, err error) {
	if !(eval.Key{Project: project}).Plausible() {
		return stats, nil
	}
	err = s.look(ctx, func(r *sql.Rows) error {
		return r.Scan(&stats.Pending, &stats.Dead, moment{&stats.DueAt})
	}, "SELECT (SELECT count(*) FROM callbacks WHERE project_id = ? AND status = 'pending'),"+
		" (SELECT count(*) FROM callbacks WHERE project_id = ? AND status = 'dead'),"+
		" (SELECT min(next_at) FROM callbacks WHERE project_id = ? AND"+whereCallDue+")",
		project, project, project, s.now().UnixMicro())
	return stats, err
}
