package sqlstore

import (
	"context"
	"database/sql"
	"encoding/json"
	"time"

	"github.com/crucible-eval/crucible/pkg/eval"
)

// Create implements [eval.Intake].
func (s *Store) Create(ctx context.Context, sub eval.Submission) (created []eval.Evaluation, replayed bool, err error) {
	changes, err := sub.Accept(s.now())
	if err != nil {
		return nil, false, err
	}
	err = s.transact(ctx, func(t *tx) error {
		if sub.IdempotencyKey != "" {
			used, fingerprint, err := t.remember(sub, changes[0].Evaluation.CreatedAt)
			if err != nil {
				return err
			}
			if used != nil && fingerprint != sub.Fingerprint {
				return sub.KeyReused()
			}
			if used != nil {
				replayed = true
				created, err = t.replay(sub, used)
				return err
			}
		}
		if sub.Recall { // the key that was just written goes with the transaction
			return sub.Unused()
		}
		if err := t.join(changes); err != nil {
			return err
		}
		for _, c := range changes {
			created = append(created, c.Evaluation)
		}
		return t.insert(changes)
	})
	if err != nil {
		return nil, false, err
	}
	return created, replayed, nil
}

// remember writes the submission's idempotency key. When the key is in use it
// returns the ids and the fingerprint that came with it first. Another
// transaction that is writing the same key is waited for.
func (t *tx) remember(sub eval.Submission, now time.Time) (used []eval.ID, fingerprint string, err error) {
	ids := make([]eval.ID, len(sub.Evaluations))
	for i, e := range sub.Evaluations {
		ids[i] = e.ID
	}
	list, err := json.Marshal(ids)
	if err != nil {
		return nil, "", err
	}
	project, client, forgotten := sub.Evaluations[0].Project, sub.Client(), now.Add(-eval.IdempotencyWindow).UnixMicro()
	n, err := t.exec("INSERT INTO idempotency_keys (project_id, client, key, fingerprint, evaluation_ids, created_at) VALUES "+marks(6)+
		" ON CONFLICT (project_id, client, key) DO UPDATE SET fingerprint = excluded.fingerprint, evaluation_ids = excluded.evaluation_ids,"+
		" created_at = excluded.created_at WHERE idempotency_keys.created_at <= ?",
		project, client, sub.IdempotencyKey, sub.Fingerprint, string(list), now.UnixMicro(), forgotten)
	if err != nil {
		return nil, "", err
	}
	if n == 1 {
		// Each new key takes a few old ones with it, so that the table stays bounded.
		_, err = t.forgetKeys(now.Add(-eval.IdempotencyWindow), 4)
		return nil, "", err
	}
	err = rows(t.db, func(r *sql.Rows) error {
		var raw string
		if err := r.Scan(&fingerprint, &raw); err != nil {
			return err
		}
		return json.Unmarshal([]byte(raw), &used)
	}, "SELECT fingerprint, evaluation_ids FROM idempotency_keys WHERE project_id = ? AND client = ? AND key = ?", project, client, sub.IdempotencyKey)
	return used, fingerprint, err
}

// replay returns evaluations as they are now, in the order of ids.
func (t *tx) replay(sub eval.Submission, ids []eval.ID) ([]eval.Evaluation, error) {
	first := make([]eval.Evaluation, 0, len(ids))
	for _, id := range ids {
		e, found, err := t.load(selectWhole, eval.Key{Project: sub.Evaluations[0].Project, ID: id})
		if err != nil {
			return nil, err
		}
		if !found {
			return nil, sub.Forgotten()
		}
		first = append(first, e)
	}
	return first, nil
}

// Cancel implements [eval.Intake].
func (s *Store) Cancel(ctx context.Context, key eval.Key, reason string) (eval.Evaluation, error) {
	if !key.Plausible() {
		return eval.Evaluation{}, key.Missing()
	}
	return s.change(ctx, selectWhole, key, key.Missing(), func(t *tx, e eval.Evaluation) (eval.Change, error) {
		return e.RequestCancel(reason, t.now)
	})
}
