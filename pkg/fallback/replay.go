package fallback

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/service"
)

const (
	// bringPatience bounds the bringing over of one entry.
	bringPatience = 30 * time.Second
	// idle is how often Run shows that it is alive, where nothing waits.
	idle = 10 * time.Second
	// Bound is the longest time between two steps of Run.
	Bound = 2*bringPatience + idle
	// never is how far away the start of an evaluation is put that is
	// cancelled before it may start.
	never = 365 * 24 * time.Hour
)

// Run brings over what waits in the journal whenever the store answers, until
// ctx ends. It is called once.
func (s *Store) Run(ctx context.Context) error {
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		service.Beat(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-s.wake:
		case <-pause.C:
		}
		next := idle
		if s.left() > 0 && (!s.gate.Allow() || s.bringAll(ctx) > 0) {
			next = s.options.Pause
		}
		pause.Reset(next)
	}
}

func (s *Store) left() int {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return len(s.entries)
}

// bringAll brings over the entries in order and returns how many are left. It
// ends where the store goes away; what the store refuses stays, and is tried
// again the next time.
func (s *Store) bringAll(ctx context.Context) int {
	s.mu.RLock()
	todo := slices.Clone(s.entries)
	s.mu.RUnlock()
	began, done := time.Now(), 0
	var refused []error
	for _, en := range todo {
		service.Beat(ctx)
		if !en.done {
			limited, stop := context.WithTimeout(ctx, bringPatience)
			err := s.bring(limited, en)
			stop()
			if ctx.Err() != nil {
				break
			}
			if away(ctx, err) {
				s.gate.Report(err)
				break
			}
			s.gate.Report(nil)
			if err != nil {
				s.metrics.refused.Inc()
				refused = append(refused, err)
				continue
			}
			s.brought(en)
		}
		done++
	}
	if done > 0 {
		s.compact()
		s.log.Info("fallback journal: brought to the storage", "entries", done, "left", s.left(), "took", time.Since(began).Round(time.Millisecond))
	}
	if len(refused) > 0 {
		s.log.Error("fallback journal: the storage answers and refuses entries; they stay and are tried again", "entries", len(refused), "first", refused[0])
	}
	return s.left()
}

// bring makes the store have one entry. Doing it again changes nothing.
func (s *Store) bring(ctx context.Context, en *entry) error {
	if c := en.Cancel; c != nil {
		if _, found := s.here(c.Key); found {
			return eval.Errorf(eval.KindConflict, "evaluation %s is not in the storage yet, so it cannot be cancelled there", c.ID)
		}
		_, err := s.Store.Cancel(ctx, c.Key, c.Reason)
		if eval.IsKind(err, eval.KindConflict) || eval.IsKind(err, eval.KindNotFound) { // it has ended, or never was
			return nil
		}
		return err
	}
	sub := s.stillborn(*en.Create, false)
	created, replayed, err := s.Store.Create(ctx, sub)
	switch {
	case err == nil && replayed && !holds(created, sub):
		return s.bury(ctx, sub, fmt.Sprintf("its idempotency key had been used before, for evaluation %s, which was not known while the storage was away", first(created)))
	case eval.IsKind(err, eval.KindKeyReused):
		return s.bury(ctx, sub, "its idempotency key had been used before with another request, which was not known while the storage was away")
	case eval.IsKind(err, eval.KindConflict):
		// The ids are there: it was brought before, or the store had written
		// it when it went away.
		_, missing := s.Store.Get(ctx, sub.Evaluations[0].Key)
		switch {
		case missing == nil:
		case eval.IsKind(missing, eval.KindNotFound) && sub.IdempotencyKey != "":
			return s.bury(ctx, sub, "its idempotency key had been used before, for what has been removed since, which was not known while the storage was away")
		default:
			return fmt.Errorf("%w; the storage had answered: %w", missing, err)
		}
	case err != nil:
		return err
	}
	s.metrics.moved.Add(float64(len(sub.Evaluations)))
	if s.options.Moved != nil && err == nil && !replayed {
		s.options.Moved(ctx, slices.DeleteFunc(created, func(e eval.Evaluation) bool { return !e.Dispatched() }))
	}
	return nil
}

// stillborn puts off the start of those evaluations whose cancel waits behind
// them, or of all: what is cancelled before it starts never runs.
func (s *Store) stillborn(sub eval.Submission, all bool) eval.Submission {
	sub.Evaluations = slices.Clone(sub.Evaluations)
	at := eval.StoreTime(s.options.Now().Add(never))
	s.mu.RLock()
	defer s.mu.RUnlock()
	for i := range sub.Evaluations {
		e := &sub.Evaluations[i]
		if w := s.waiting[e.Key]; all || w != nil && w.CancelRequestedAt != nil {
			e.Spec.RunAt = &at
		}
	}
	return sub
}

// bury gives evaluations that must not run their end, which says why: whoever
// was promised one by its id finds it.
func (s *Store) bury(ctx context.Context, sub eval.Submission, why string) error {
	sub = s.stillborn(sub, true)
	sub.IdempotencyKey, sub.Fingerprint = "", ""
	if _, _, err := s.Store.Create(ctx, sub); err != nil && !eval.IsKind(err, eval.KindConflict) {
		return err
	}
	for _, e := range sub.Evaluations {
		if _, err := s.Store.Cancel(ctx, e.Key, why); err != nil && !eval.IsKind(err, eval.KindConflict) {
			return err
		}
	}
	s.metrics.buried.Add(float64(len(sub.Evaluations)))
	return nil
}

func holds(created []eval.Evaluation, sub eval.Submission) bool {
	return slices.ContainsFunc(created, func(e eval.Evaluation) bool { return e.Key == sub.Evaluations[0].Key })
}

func first(created []eval.Evaluation) eval.ID {
	if len(created) == 0 {
		return "that is gone"
	}
	return created[0].ID
}

// brought forgets an entry that the store has. It goes from the file with the
// others, by compact.
func (s *Store) brought(en *entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := en.Create; c != nil {
		for _, e := range c.Evaluations {
			delete(s.waiting, e.Key)
		}
		if k := keyOf(*c); s.keys[k] == en {
			delete(s.keys, k)
		}
	} else {
		delete(s.wishes, en.Cancel.Key)
	}
	en.done = true
}

// compact takes what was brought over from the file. Where it cannot, the file
// is as it was, and who reads it finds those entries to be done.
func (s *Store) compact() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	left := slices.DeleteFunc(slices.Clone(s.entries), func(en *entry) bool { return en.done })
	spans := make([]span, len(left))
	for i, en := range left {
		spans[i] = en.span
	}
	if err := s.file.keep(spans); err != nil {
		s.metrics.failures.Inc()
		s.log.Error("fallback journal: what was brought over cannot be taken from the file; that is tried again", "error", err)
		if s.file.size != total(spans) {
			return
		}
	}
	s.entries = left
	at := int64(0)
	for _, en := range left {
		en.span.at = at
		at += en.span.size
	}
}
