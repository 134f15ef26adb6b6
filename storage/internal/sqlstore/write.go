package sqlstore

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/crucible-eval/crucible/pkg/eval"
)

// insert writes new evaluations with their first events. An id that is taken
// is a KindConflict error.
func (t *tx) insert(changes []eval.Change) error {
	for part := range slices.Chunk(changes, t.store.dialect.rows) {
		if err := t.insertPart(part); err != nil {
			return err
		}
	}
	return nil
}

func (t *tx) insertPart(changes []eval.Change) error {
	var evaluations, programs, tags []any
	for _, c := range changes {
		e := c.Evaluation
		constant, err := constantValues(e)
		if err != nil {
			return err
		}
		changing, err := changingValues(e)
		if err != nil {
			return err
		}
		spec, err := json.Marshal(e.Spec)
		if err != nil {
			return err
		}
		evaluations = append(append(evaluations, constant...), changing...)
		programs = append(programs, e.Project, string(e.ID), string(spec))
		for _, tag := range slices.Compact(slices.Sorted(slices.Values(e.Spec.Tags))) {
			tags = append(tags, e.Project, tag, e.CreatedAt.UnixMicro(), string(e.ID))
		}
	}
	n, err := t.exec(insertEvaluations+tuples(evaluationMarks, len(changes))+" ON CONFLICT DO NOTHING", evaluations...)
	switch {
	case err != nil:
		return err
	case n != int64(len(changes)) && len(changes) == 1:
		return changes[0].Evaluation.Exists()
	case n != int64(len(changes)):
		return eval.Errorf(eval.KindConflict, "an id of the submission exists already; nothing was written")
	}
	if _, err := t.exec("INSERT INTO programs (project_id, evaluation_id, spec) VALUES "+tuples(marks(3), len(changes)), programs...); err != nil {
		return err
	}
	for part := range slices.Chunk(tags, 4*t.store.dialect.rows) {
		if _, err := t.exec("INSERT INTO tags (project_id, tag, created_at, evaluation_id) VALUES "+tuples(marks(4), len(part)/4), part...); err != nil {
			return err
		}
	}
	return t.appendEvents(changes)
}

// appendEvents writes the events of changes.
func (t *tx) appendEvents(changes []eval.Change) error {
	var values []any
	var places []string
	for _, c := range changes {
		if c.Event == nil {
			continue
		}
		cursor := t.store.dialect.cursor
		if strings.Contains(cursor, "%d") {
			cursor = fmt.Sprintf(cursor, t.events)
		}
		places = append(places, "("+cursor+", "+eventMarks)
		values = append(values, eventValues(c.Event)...)
		t.events++
	}
	if len(places) == 0 {
		return nil
	}
	_, err := t.exec("INSERT INTO evaluation_events (cursor, "+eventColumns+") VALUES "+strings.Join(places, ", "), values...)
	return err
}

// load reads one evaluation, whole or as lists show it, locked until the
// transaction ends. found is false when it is not there.
func (t *tx) load(query string, key eval.Key) (e eval.Evaluation, found bool, err error) {
	return t.one(query+thisOne, key)
}

// one is load for a query with its condition, which has the key's project and
// id for values.
func (t *tx) one(query string, key eval.Key) (e eval.Evaluation, found bool, err error) {
	err = rows(t.db, func(r *sql.Rows) (err error) {
		found = true
		e, err = scanEvaluation(r)
		return err
	}, query+t.store.dialect.lock, key.Project, string(key.ID))
	return e, found, err
}

// save writes what became of an evaluation that was loaded in this transaction.
func (t *tx) save(old eval.Evaluation, c eval.Change) error {
	values, err := changingValues(c.Evaluation)
	if err != nil {
		return err
	}
	values = append(values, old.Project, string(old.ID), string(old.Status), old.Attempt)
	n, err := t.exec(updateEvaluation, values...)
	if err != nil {
		return err
	}
	if n != 1 { // the row was locked: this cannot happen, and must not pass unseen
		return eval.Errorf(eval.KindInternal, "evaluation %s changed under a lock", old.ID)
	}
	if c.Evaluation.Status.Terminal() {
		if err := t.refer(c.Evaluation); err != nil {
			return err
		}
	}
	if c.Attempt != nil {
		if _, err := t.exec(upsertAttempt, attemptValues(*c.Attempt)...); err != nil {
			return err
		}
	}
	if d := c.DeadLetter; d != nil {
		kind, message := failure(&d.Failure)
		if _, err := t.exec("INSERT INTO dead_letters (project_id, evaluation_id, language, failure_kind, failure_message, attempts, failed_at) VALUES "+marks(7),
			d.Project, string(d.ID), d.Language, kind, message, d.Attempts, d.FailedAt.UnixMicro()); err != nil {
			return err
		}
	}
	if c.Callback != nil {
		if err := t.insertCallback(*c.Callback); err != nil {
			return err
		}
	}
	return t.appendEvents([]eval.Change{c})
}

// change does one thing to one evaluation and returns what became of it.
// query says whether it is loaded, and returned, whole.
func (s *Store) change(ctx context.Context, query string, key eval.Key, missing error, fn func(*tx, eval.Evaluation) (eval.Change, error)) (eval.Evaluation, error) {
	var now eval.Evaluation
	err := s.transact(ctx, func(t *tx) error {
		e, found, err := t.load(query, key)
		if err != nil {
			return err
		}
		if !found {
			return missing
		}
		c, err := fn(t, e)
		if err != nil {
			return err
		}
		now = c.Evaluation
		if e.Status.Terminal() { // nothing changes any more: fn only looked
			return nil
		}
		return t.save(e, c)
	})
	if err != nil {
		return eval.Evaluation{}, err
	}
	return now, nil
}
