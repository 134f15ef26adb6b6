package memory

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/crucible-eval/crucible/pkg/eval"
)

// Claim implements [eval.Leaser].
func (s *Store) Claim(ctx context.Context, req eval.ClaimRequest) (eval.Evaluation, error) {
	return s.change(ctx, req.Key, req.Missing(), func(r *record, now time.Time) (eval.Change, error) {
		return r.eval.Claim(req, now)
	})
}

// Beat implements [eval.Leaser].
func (s *Store) Beat(ctx context.Context, l eval.Lease, lease time.Duration) (eval.Beat, error) {
	e, err := s.change(ctx, l.Key, l.Missing(), func(r *record, now time.Time) (eval.Change, error) {
		return r.eval.Beat(l.Attempt, lease, now)
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
	o.Result = cloneResult(o.Result)
	return s.change(ctx, l.Key, l.Missing(), func(r *record, now time.Time) (eval.Change, error) {
		attempt := eval.Attempt{Number: l.Attempt}
		if n := l.Attempt; n >= 1 && n <= len(r.attempts) {
			attempt = r.attempts[n-1]
			if attempt.Reported() {
				return eval.Change{Evaluation: r.eval}, nil
			}
		}
		return r.eval.Finish(attempt, o, now, jitter(), s.options.Rules)
	})
}

// rules are those of the store, with the window that is in force.
func (s *Store) rules() eval.Rules {
	r := s.options.Rules
	r.Window = r.InQueue(s.window)
	return r
}

// Due implements [eval.Scheduler].
func (s *Store) Due(ctx context.Context, req eval.DueRequest) ([]eval.Dispatch, error) {
	if err := ended(ctx); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	if req.Window > 0 {
		s.window = req.Window
	}
	rules := s.rules()
	// Those that have waited for a time join the line first.
	var again turns
	var arrived []eval.Change
	standing := s.lines.standing()
	for _, r := range first(s.lines.timed, req.Limit, now, func(e eval.Evaluation) *time.Time { return e.NextDispatchAt }) {
		if r.eval.Dispatched() {
			again = append(again, r)
			continue
		}
		e := r.eval
		standing.Arrive(&e)
		arrived = append(arrived, eval.Change{Evaluation: e})
	}
	if len(arrived) > 0 {
		if err := s.write(ctx, arrived, nil); err != nil {
			return nil, err
		}
	}
	var changes []eval.Change
	var due []eval.Dispatch
	hand := func(r *record) {
		e := r.eval
		due = append(due, rules.Dispatch(&e, now, req.Again))
		changes = append(changes, eval.Change{Evaluation: e})
	}
	for _, r := range again {
		hand(r)
	}
	for _, p := range eval.Priorities() {
		room := min(rules.Window-len(s.lines.dispatched[p]), req.Limit-len(due))
		for _, r := range s.lines.next(p, room, rules.MaxRunning, standing.Held) {
			hand(r)
		}
	}
	if len(changes) == 0 {
		return nil, nil
	}
	if err := s.write(ctx, changes, nil); err != nil {
		return nil, err
	}
	return due, nil
}

// first returns the records whose time has come, the most overdue first.
func first(from map[eval.Key]*record, limit int, now time.Time, at func(eval.Evaluation) *time.Time) []*record {
	var due []*record
	for _, r := range from {
		if t := at(r.eval); t != nil && !t.After(now) {
			due = append(due, r)
		}
	}
	slices.SortFunc(due, func(a, b *record) int {
		return cmp.Or(at(a.eval).Compare(*at(b.eval)), cmp.Compare(a.eval.ID, b.eval.ID))
	})
	return due[:min(max(limit, 0), len(due))]
}

// Reap implements [eval.Scheduler].
func (s *Store) Reap(ctx context.Context, limit int) ([]eval.Evaluation, error) {
	return s.overdue(ctx, s.running, limit, func(e eval.Evaluation) *time.Time { return e.LeaseUntil },
		func(r *record, now time.Time) (eval.Change, bool) {
			return r.eval.Reap(r.attempts[r.eval.Attempt-1], now, jitter(), s.options.Rules)
		})
}

// Expire implements [eval.Scheduler].
func (s *Store) Expire(ctx context.Context, limit int) ([]eval.Evaluation, error) {
	return s.overdue(ctx, s.queued, limit, func(e eval.Evaluation) *time.Time { return e.ExpiresAt },
		func(r *record, now time.Time) (eval.Change, bool) { return r.eval.Expire(now) })
}

// overdue changes evaluations whose time is over.
func (s *Store) overdue(ctx context.Context, from map[eval.Key]*record, limit int, at func(eval.Evaluation) *time.Time,
	fn func(r *record, now time.Time) (eval.Change, bool),
) ([]eval.Evaluation, error) {
	if err := ended(ctx); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	var changed []eval.Evaluation
	for _, r := range first(from, limit, now, at) {
		c, ok := fn(r, now)
		if !ok {
			continue
		}
		if err := s.write(ctx, []eval.Change{c}, nil); err != nil {
			return changed, err
		}
		changed = append(changed, Clone(c.Evaluation))
	}
	return changed, nil
}

// Rewind implements [eval.Scheduler].
func (s *Store) Rewind(ctx context.Context) (int, error) {
	if err := ended(ctx); err != nil {
		return 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	var changes []eval.Change
	for _, dispatched := range s.lines.dispatched {
		for _, r := range dispatched {
			if e := r.eval; e.NextDispatchAt.After(now) {
				e.NextDispatchAt = &now
				changes = append(changes, eval.Change{Evaluation: e})
			}
		}
	}
	if len(changes) == 0 {
		return 0, nil
	}
	return len(changes), s.write(ctx, changes, nil)
}
