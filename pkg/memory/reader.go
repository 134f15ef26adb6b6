package memory

import (
	"context"
	"maps"
	"slices"

	"github.com/crucible-eval/crucible/pkg/eval"
)

// read calls fn under the read lock, unless the caller has gone.
func (s *Store) read(ctx context.Context, fn func()) error {
	if err := ended(ctx); err != nil {
		return err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	fn()
	return nil
}

// Get implements [eval.Reader].
func (s *Store) Get(ctx context.Context, key eval.Key) (e eval.Evaluation, err error) {
	gone := s.read(ctx, func() {
		r := s.records[key]
		if r == nil {
			err = key.Missing()
			return
		}
		e = Clone(r.eval)
	})
	if gone != nil {
		return e, gone
	}
	return e, err
}

// List implements [eval.Reader].
func (s *Store) List(ctx context.Context, q eval.Query) (eval.Page, error) {
	q, cursor, err := q.Check()
	if err != nil {
		return eval.Page{}, err
	}
	page := eval.Page{Evaluations: []eval.Evaluation{}}
	err = s.read(ctx, func() {
		p := s.projects[q.Project]
		if p == nil {
			return
		}
		for _, r := range slices.Backward(p.order) {
			e := r.eval
			if cursor != nil && !cursor.Before(e.CreatedAt, e.ID) || !q.Matches(e) {
				continue
			}
			if len(page.Evaluations) == q.Limit {
				page.Next = page.Evaluations[q.Limit-1].Cursor()
				return
			}
			page.Evaluations = append(page.Evaluations, Clone(e.Summary()))
		}
	})
	return page, err
}

// Events implements [eval.Reader].
func (s *Store) Events(ctx context.Context, key eval.Key, after int64, limit int) (events []eval.Event, err error) {
	err = s.read(ctx, func() {
		if r := s.records[key]; r != nil {
			from := min(max(after, 0), int64(len(r.events))) // event n stands at n-1
			events = slices.Clone(r.events[from:min(int(from)+max(limit, 0), len(r.events))])
		}
	})
	return events, err
}

// Feed implements [eval.Reader].
func (s *Store) Feed(ctx context.Context, name string, after int64, limit int) (events []eval.Event, err error) {
	err = s.read(ctx, func() {
		p := s.projects[name]
		if p == nil || limit <= 0 {
			return
		}
		if after < 0 {
			events = slices.Clone(p.feed[max(len(p.feed)-1, 0):])
			return
		}
		from, _ := slices.BinarySearchFunc(p.feed, after+1, func(e eval.Event, cursor int64) int { return int(e.Cursor - cursor) })
		for _, e := range p.feed[from:] {
			if len(events) == limit {
				return
			}
			if s.records[e.Key] != nil {
				events = append(events, e)
			}
		}
	})
	return events, err
}

// Attempts implements [eval.Reader].
func (s *Store) Attempts(ctx context.Context, key eval.Key) (attempts []eval.Attempt, err error) {
	err = s.read(ctx, func() {
		if r := s.records[key]; r != nil {
			for _, a := range r.attempts {
				attempts = append(attempts, cloneAttempt(a))
			}
		}
	})
	return attempts, err
}

// Backlog implements [eval.Scheduler].
func (s *Store) Backlog(ctx context.Context) (eval.Backlog, error) {
	var b eval.Backlog
	err := s.read(ctx, func() {
		b = eval.NewBacklog(s.now())
		clients := map[string]bool{}
		for _, records := range []map[eval.Key]*record{s.queued, s.running} {
			for _, r := range records {
				if b.Add(r.eval) {
					clients[r.eval.Client] = true
				}
			}
		}
		b.Clients = int64(len(clients))
		for _, r := range s.records {
			if r.dead != nil {
				b.DeadLetters[r.dead.Failure.Kind]++
			}
		}
	})
	return b, err
}

// Clients implements [eval.Reader].
func (s *Store) Clients(ctx context.Context, name string) ([]eval.ClientCount, error) {
	by := map[string]eval.ClientCount{}
	err := s.read(ctx, func() {
		for key, r := range s.queued {
			if key.Project == name {
				u := by[r.eval.Client]
				u.Queued++
				by[r.eval.Client] = u
			}
		}
		for key, r := range s.running {
			if key.Project == name {
				u := by[r.eval.Client]
				u.Running++
				by[r.eval.Client] = u
			}
		}
	})
	all := []eval.ClientCount{}
	for _, client := range slices.Sorted(maps.Keys(by)) {
		u := by[client]
		u.Client = client
		all = append(all, u)
	}
	return all, err
}

// Stats implements [eval.Reader].
func (s *Store) Stats(ctx context.Context, name string) (eval.Stats, error) {
	stats := eval.Stats{Statuses: map[eval.Status]int64{}, Verdicts: map[eval.Verdict]int64{}, DeadLettersByKind: map[eval.Kind]int64{}}
	for _, status := range eval.Statuses() {
		stats.Statuses[status] = 0
	}
	err := s.read(ctx, func() {
		p := s.projects[name]
		if p == nil {
			return
		}
		now := s.now()
		for _, r := range p.order {
			e := r.eval
			stats.Statuses[e.Status]++
			if e.Verdict != "" {
				stats.Verdicts[e.Verdict]++
			}
			if r.dead != nil {
				stats.DeadLetters++
				stats.DeadLettersByKind[r.dead.Failure.Kind]++
			}
			if waits := e.Status == eval.Queued && (e.Spec.RunAt == nil || !e.Spec.RunAt.After(now)); waits && stats.OldestQueuedAt == nil {
				stats.OldestQueuedAt = &e.CreatedAt
			}
		}
	})
	return stats, err
}
