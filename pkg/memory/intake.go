package memory

import (
	"context"
	"time"

	"github.com/crucible-eval/crucible/pkg/eval"
)

// Create implements [eval.Intake].
func (s *Store) Create(ctx context.Context, sub eval.Submission) ([]eval.Evaluation, bool, error) {
	if err := ended(ctx); err != nil {
		return nil, false, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	changes, err := sub.Accept(now)
	if err != nil {
		return nil, false, err
	}
	name := sub.Evaluations[0].Project
	var key *Idempotency
	if sub.IdempotencyKey != "" {
		if used, found := s.recall(name, clientKey{sub.Client(), sub.IdempotencyKey}, now); found {
			first, err := s.replay(name, used, sub)
			return first, err == nil, err
		}
		key = &Idempotency{Project: name, Client: sub.Client(), Key: sub.IdempotencyKey, Fingerprint: sub.Fingerprint, At: changes[0].Evaluation.CreatedAt}
	}
	if sub.Recall {
		return nil, false, sub.Unused()
	}
	s.lines.standing().Join(changes, now, s.rules())
	created := make([]eval.Evaluation, len(changes))
	for i, c := range changes {
		if s.records[c.Evaluation.Key] != nil {
			return nil, false, c.Evaluation.Exists()
		}
		if key != nil {
			key.IDs = append(key.IDs, c.Evaluation.ID)
		}
		created[i] = c.Evaluation
		changes[i].Evaluation = Clone(c.Evaluation)
	}
	if err := s.write(ctx, changes, key); err != nil {
		return nil, false, err
	}
	for i := range created {
		created[i] = Clone(created[i])
	}
	return created, false, nil
}

// recall finds a key that is still remembered, and forgets old ones.
func (s *Store) recall(name string, key clientKey, now time.Time) (idempotencyKey, bool) {
	keys := s.project(name).keys
	old := now.Add(-eval.IdempotencyWindow)
	if len(keys) >= s.options.MaxEvaluations {
		for k, v := range keys {
			if !v.at.After(old) {
				delete(keys, k)
			}
		}
	}
	used, found := keys[key]
	return used, found && used.at.After(old)
}

func (s *Store) replay(name string, used idempotencyKey, sub eval.Submission) ([]eval.Evaluation, error) {
	if used.fingerprint != sub.Fingerprint {
		return nil, sub.KeyReused()
	}
	var first []eval.Evaluation
	for _, id := range used.ids {
		r := s.records[eval.Key{Project: name, ID: id}]
		if r == nil {
			return nil, sub.Forgotten()
		}
		first = append(first, Clone(r.eval))
	}
	return first, nil
}

// Cancel implements [eval.Intake].
func (s *Store) Cancel(ctx context.Context, key eval.Key, reason string) (eval.Evaluation, error) {
	return s.change(ctx, key, key.Missing(), func(r *record, now time.Time) (eval.Change, error) {
		return r.eval.RequestCancel(reason, now)
	})
}
