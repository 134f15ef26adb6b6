package fallback

import (
	"cmp"
	"context"
	"slices"

	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/memory"
)

// here returns what waits under a key.
func (s *Store) here(key eval.Key) (e eval.Evaluation, found bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if w := s.waiting[key]; w != nil {
		return memory.Clone(*w), true
	}
	return e, false
}

// ask looks at the store for something that waits here: the store may have it
// already. ok is false when it has not, or cannot say.
func ask[T any](ctx context.Context, s *Store, call func(context.Context) (T, error)) (answer T, ok bool, err error) {
	if s.gate.Down() { // whoever brings things over finds out when it is back
		return answer, false, nil
	}
	limited, stop := context.WithTimeout(ctx, s.options.Patience)
	defer stop()
	answer, err = call(limited)
	if away(ctx, err) || eval.IsKind(err, eval.KindNotFound) {
		return answer, false, nil
	}
	return answer, true, err
}

// Get implements [eval.Reader].
func (s *Store) Get(ctx context.Context, key eval.Key) (eval.Evaluation, error) {
	// Looked up first: what leaves the journal meanwhile is in the store.
	waits, found := s.here(key)
	if !found {
		return s.Store.Get(ctx, key)
	}
	e, ok, err := ask(ctx, s, func(ctx context.Context) (eval.Evaluation, error) { return s.Store.Get(ctx, key) })
	if !ok {
		return waits, nil
	}
	return e, err
}

// Events implements [eval.Reader].
func (s *Store) Events(ctx context.Context, key eval.Key, after int64, limit int) ([]eval.Event, error) {
	waits, found := s.here(key)
	if !found {
		return s.Store.Events(ctx, key, after, limit)
	}
	events, ok, err := ask(ctx, s, func(ctx context.Context) ([]eval.Event, error) { return s.Store.Events(ctx, key, after, limit) })
	if (!ok || err == nil && len(events) == 0) && after < waits.EventSeq && limit > 0 {
		// It gets its cursor, and its place in the feed, in the store.
		return []eval.Event{{Key: key, Seq: waits.EventSeq, Type: eval.EventQueued, Status: waits.Status, At: waits.CreatedAt}}, nil
	}
	return events, err
}

// Attempts implements [eval.Reader].
func (s *Store) Attempts(ctx context.Context, key eval.Key) ([]eval.Attempt, error) {
	if _, found := s.here(key); !found {
		return s.Store.Attempts(ctx, key)
	}
	attempts, _, err := ask(ctx, s, func(ctx context.Context) ([]eval.Attempt, error) { return s.Store.Attempts(ctx, key) })
	return attempts, err
}

// Clients implements [eval.Reader]. What waits here waits.
func (s *Store) Clients(ctx context.Context, project string) ([]eval.ClientCount, error) {
	all, err := s.Store.Clients(ctx, project)
	if err != nil {
		return nil, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, e := range s.waiting {
		if e.Project != project {
			continue
		}
		at, found := slices.BinarySearchFunc(all, e.Client, func(u eval.ClientCount, client string) int { return cmp.Compare(u.Client, client) })
		if !found {
			all = slices.Insert(all, at, eval.ClientCount{Client: e.Client})
		}
		all[at].Queued++
	}
	return all, nil
}

// List implements [eval.Reader]. What waits here stands among what the store
// has. While that is away, only a batch that waits here is shown.
func (s *Store) List(ctx context.Context, q eval.Query) (eval.Page, error) {
	waits, err := s.listed(q)
	if err != nil || len(waits) == 0 {
		return s.Store.List(ctx, q)
	}
	whole := q.Batch != "" // a batch is accepted in one place
	if whole && s.gate.Down() {
		return merge(q, eval.Page{}, waits), nil
	}
	page, err := s.Store.List(ctx, q)
	if err != nil && !(whole && away(ctx, err)) {
		return page, err
	}
	return merge(q, page, waits), nil
}

// listed is what waits here of what a query asks for, newest first.
func (s *Store) listed(q eval.Query) ([]eval.Evaluation, error) {
	_, cursor, err := q.Check()
	if err != nil {
		return nil, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	var all []eval.Evaluation
	for _, e := range s.waiting {
		if e.Project == q.Project && q.Matches(*e) && (cursor == nil || cursor.Before(e.CreatedAt, e.ID)) {
			all = append(all, memory.Clone(e.Summary()))
		}
	}
	return sorted(all), nil
}

// merge puts what waits into a page of the store, and ends the page where it is full.
func merge(q eval.Query, page eval.Page, waits []eval.Evaluation) eval.Page {
	q, _, _ = q.Check() // for the limit; it was checked before
	all, more := page.Evaluations, page.Next != ""
	for _, w := range waits {
		there := slices.ContainsFunc(all, func(e eval.Evaluation) bool { return e.Key == w.Key })
		// What comes after the last of a page belongs to a later one.
		if after := more && byAge(all[len(page.Evaluations)-1], w) < 0; !there && !after {
			all = append(all, w)
		}
	}
	all = sorted(all)
	if len(all) > q.Limit {
		all, more = all[:q.Limit], true
	}
	page.Evaluations, page.Next = all, ""
	if more {
		page.Next = all[len(all)-1].Cursor()
	}
	return page
}
