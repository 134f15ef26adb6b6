package memory

import (
	"cmp"
	"context"
	"slices"

	"github.com/crucible-eval/crucible/pkg/eval"
)

// ListDeadLetters implements [eval.DeadLetters].
func (s *Store) ListDeadLetters(ctx context.Context, q eval.DeadLetterQuery) (eval.DeadLetterPage, error) {
	q, cursor, err := q.Check()
	if err != nil {
		return eval.DeadLetterPage{}, err
	}
	page := eval.DeadLetterPage{DeadLetters: []eval.DeadLetter{}}
	err = s.read(ctx, func() {
		p := s.projects[q.Project]
		if p == nil {
			return
		}
		for _, r := range p.order {
			if r.dead == nil {
				continue
			}
			if d := r.eval.DeadLetter(); q.Matches(d) && (cursor == nil || cursor.Before(d.FailedAt, d.ID)) {
				d.Tags = slices.Clone(d.Tags)
				page.DeadLetters = append(page.DeadLetters, d)
			}
		}
	})
	slices.SortFunc(page.DeadLetters, func(a, b eval.DeadLetter) int {
		return cmp.Or(b.FailedAt.Compare(a.FailedAt), cmp.Compare(b.ID, a.ID))
	})
	if len(page.DeadLetters) > q.Limit {
		page.DeadLetters = page.DeadLetters[:q.Limit]
		page.Next = page.DeadLetters[q.Limit-1].Cursor()
	}
	return page, err
}

// Retry implements [eval.DeadLetters].
func (s *Store) Retry(ctx context.Context, key eval.Key, newID eval.ID) (eval.Evaluation, error) {
	if err := ended(ctx); err != nil {
		return eval.Evaluation{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.records[key]
	if r == nil {
		return eval.Evaluation{}, key.Missing()
	}
	now := s.now()
	c, err := r.eval.Again(newID, now)
	if err != nil {
		return eval.Evaluation{}, err
	}
	if first := s.records[s.retries[key]]; first != nil {
		return Clone(first.eval), nil
	}
	changes := []eval.Change{c}
	s.lines.standing().Join(changes, now, s.rules())
	c = changes[0]
	if s.records[c.Evaluation.Key] != nil {
		return eval.Evaluation{}, c.Evaluation.Exists()
	}
	if err := s.write(ctx, []eval.Change{c}, nil, key); err != nil {
		return eval.Evaluation{}, err
	}
	return Clone(c.Evaluation), nil
}

// DeleteDeadLetter implements [eval.DeadLetters].
func (s *Store) DeleteDeadLetter(ctx context.Context, key eval.Key) error {
	if err := ended(ctx); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.records[key]; r == nil || r.dead == nil {
		return &eval.Error{Kind: eval.KindNotFound, Message: "there is no dead letter " + string(key.ID)}
	}
	return s.write(ctx, nil, nil, key)
}
