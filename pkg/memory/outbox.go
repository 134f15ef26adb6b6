package memory

import (
	"cmp"
	"context"
	"slices"

	"github.com/crucible-eval/crucible/pkg/eval"
)

// TakeCallbacks implements [eval.Outbox].
func (s *Store) TakeCallbacks(ctx context.Context, q eval.TakeRequest) ([]eval.Callback, error) {
	if err := ended(ctx); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	var due []*record
	for _, r := range s.pending {
		if c := r.callback; !c.NextAt.After(now) && !slices.Contains(q.Busy, c.Host) {
			due = append(due, r)
		}
	}
	slices.SortFunc(due, func(a, b *record) int {
		return cmp.Or(a.callback.NextAt.Compare(*b.callback.NextAt), cmp.Compare(a.callback.ID, b.callback.ID))
	})
	var changes []eval.Change
	var taken []eval.Callback
	hosts := map[string]int{}
	for _, r := range due {
		if len(changes) >= q.Limit {
			break
		}
		if hosts[r.callback.Host]++; hosts[r.callback.Host] > q.PerHost {
			continue
		}
		c, ok := r.callback.Take(q.Deliverer, q.Lease, now)
		changes = append(changes, eval.Change{Evaluation: r.eval, Callback: &c})
		if ok {
			taken = append(taken, cloneCallback(c))
		}
	}
	if len(changes) == 0 {
		return nil, nil
	}
	if err := s.write(ctx, changes, nil); err != nil {
		return nil, err
	}
	return taken, nil
}

// ReportCallback implements [eval.Outbox].
func (s *Store) ReportCallback(ctx context.Context, l eval.CallbackLease, d eval.Delivery) (eval.Callback, error) {
	return s.changeCallback(ctx, l.Key, l.Missing(), func(c eval.Callback) (eval.Callback, error) {
		return c.Report(l.Try, d, s.now(), jitter())
	})
}

// RetryCallback implements [eval.Outbox].
func (s *Store) RetryCallback(ctx context.Context, key eval.Key) (eval.Callback, error) {
	return s.changeCallback(ctx, key, key.NoCallback(), func(c eval.Callback) (eval.Callback, error) {
		return c.Retry(s.now())
	})
}

func (s *Store) changeCallback(ctx context.Context, key eval.Key, missing error, fn func(eval.Callback) (eval.Callback, error)) (eval.Callback, error) {
	if err := ended(ctx); err != nil {
		return eval.Callback{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.records[key]
	if r == nil || r.callback == nil {
		return eval.Callback{}, missing
	}
	c, err := fn(*r.callback)
	if err != nil {
		return eval.Callback{}, err
	}
	if err := s.write(ctx, []eval.Change{{Evaluation: r.eval, Callback: &c}}, nil); err != nil {
		return eval.Callback{}, err
	}
	return cloneCallback(c), nil
}

// Callback implements [eval.Outbox].
func (s *Store) Callback(ctx context.Context, key eval.Key) (c eval.Callback, err error) {
	gone := s.read(ctx, func() {
		r := s.records[key]
		if r == nil || r.callback == nil {
			err = key.NoCallback()
			return
		}
		c = cloneCallback(*r.callback)
	})
	if gone != nil {
		return c, gone
	}
	return c, err
}

// ListCallbacks implements [eval.Outbox].
func (s *Store) ListCallbacks(ctx context.Context, q eval.CallbackQuery) (eval.CallbackPage, error) {
	q, cursor, err := q.Check()
	if err != nil {
		return eval.CallbackPage{}, err
	}
	page := eval.CallbackPage{Callbacks: []eval.Callback{}}
	err = s.read(ctx, func() {
		p := s.projects[q.Project]
		if p == nil {
			return
		}
		for _, r := range p.order {
			if c := r.callback; c != nil && (cursor == nil || cursor.Before(c.CreatedAt, c.ID)) && (q.Status == "" || q.Status == c.Status) {
				page.Callbacks = append(page.Callbacks, cloneCallback(*c))
			}
		}
	})
	slices.SortFunc(page.Callbacks, func(a, b eval.Callback) int {
		return cmp.Or(b.CreatedAt.Compare(a.CreatedAt), cmp.Compare(b.ID, a.ID))
	})
	if len(page.Callbacks) > q.Limit {
		page.Callbacks = page.Callbacks[:q.Limit]
		page.Next = page.Callbacks[q.Limit-1].Cursor()
	}
	return page, err
}

// CountCallbacks implements [eval.Outbox].
func (s *Store) CountCallbacks(ctx context.Context, name string) (stats eval.CallbackStats, err error) {
	err = s.read(ctx, func() {
		p := s.projects[name]
		if p == nil {
			return
		}
		now := s.now()
		for _, r := range p.order {
			switch c := r.callback; {
			case c == nil:
			case c.Status == eval.CallbackDead:
				stats.Dead++
			case c.Status == eval.CallbackPending:
				stats.Pending++
				if !c.NextAt.After(now) && (stats.DueAt == nil || c.NextAt.Before(*stats.DueAt)) {
					stats.DueAt = clonePointer(c.NextAt)
				}
			}
		}
	})
	return stats, err
}
