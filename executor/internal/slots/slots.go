// Package slots decides which runs an executor takes on: as many at once as
// there are slots and memory for ([Slots]), and of each evaluation only the
// newest attempt ([Fence]).
package slots

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/crucible-eval/crucible/pkg/eval"
)

// retryAfter is what a refused client is told: most runs are shorter.
const retryAfter = time.Second

// Slots admits runs. A run that finds no room waits a moment in a short line,
// because another may be on its way out, and is then refused.
type Slots struct {
	total    int
	memory   int64
	patience time.Duration

	mu       sync.Mutex
	busy     int
	reserved int64
	line     []*waiter // first come, first served; at most total
	draining bool
	idle     chan struct{} // closed when draining and nothing is busy
}

type waiter struct {
	memory int64
	in     chan struct{} // closed when admitted
}

// New returns n slots that share memory bytes, of which each run reserves its
// limit; 0: memory is not looked at. patience is how long a run may wait.
func New(n int, memory int64, patience time.Duration) *Slots {
	return &Slots{total: n, memory: memory, patience: patience, idle: make(chan struct{})}
}

// Take waits for a slot and returns the function that gives it back, which
// may be called more than once. KindFull: none became free; RetryAfter says
// when to come back. KindStopping: draining. Otherwise ctx's cause.
func (s *Slots) Take(ctx context.Context, memory int64) (release func(), err error) {
	s.mu.Lock()
	switch {
	case s.draining:
		s.mu.Unlock()
		return nil, stopping()
	case len(s.line) == 0 && s.fits(memory):
		s.admit(memory)
		s.mu.Unlock()
		return s.releaser(memory), nil
	case len(s.line) >= s.total || s.patience <= 0:
		defer s.mu.Unlock()
		return nil, s.full()
	}
	w := &waiter{memory: memory, in: make(chan struct{})}
	s.line = append(s.line, w)
	s.mu.Unlock()

	patience := time.NewTimer(s.patience)
	defer patience.Stop()
	select {
	case <-w.in:
		return s.releaser(memory), nil
	case <-patience.C:
		err = nil
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-w.in: // admitted in the same moment
		if err == nil {
			return s.releaser(memory), nil
		}
		s.give(memory)
		return nil, err
	default:
	}
	s.leave(w)
	if err == nil {
		if err = s.full(); s.draining {
			err = stopping()
		}
	}
	return nil, err
}

// State returns how many slots there are, how many are taken, and whether no
// more are given out.
func (s *Slots) State() (total, busy int, draining bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.total, s.busy, s.draining
}

// Drain gives out no more slots, and returns a channel that is closed when
// none is taken. Calling it again returns the same.
func (s *Slots) Drain() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.draining {
		s.draining = true
		if s.busy == 0 {
			close(s.idle)
		}
	}
	return s.idle
}

// fits tells whether a run can start now. One that wants more memory than
// there is may run alone: the machine has more than the budget.
func (s *Slots) fits(memory int64) bool {
	if s.busy >= s.total {
		return false
	}
	return s.memory == 0 || s.busy == 0 || s.reserved+memory <= s.memory
}

func (s *Slots) admit(memory int64) {
	s.busy++
	s.reserved += memory
}

func (s *Slots) releaser(memory int64) func() {
	return sync.OnceFunc(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.give(memory)
	})
}

// give returns a slot and lets in who is next.
func (s *Slots) give(memory int64) {
	s.busy--
	s.reserved -= memory
	s.next()
	if s.draining && s.busy == 0 {
		close(s.idle)
	}
}

// next lets in as many of the line as fit.
func (s *Slots) next() {
	for !s.draining && len(s.line) > 0 && s.fits(s.line[0].memory) {
		w := s.line[0]
		s.line = s.line[1:]
		s.admit(w.memory)
		close(w.in)
	}
}

// leave takes a run out of the line; those behind it may fit where it did not.
func (s *Slots) leave(w *waiter) {
	s.line = slices.DeleteFunc(s.line, func(other *waiter) bool { return other == w })
	s.next()
}

func (s *Slots) full() error {
	return &eval.Error{Kind: eval.KindFull, RetryAfter: retryAfter,
		Message: fmt.Sprintf("all %d slots of this executor are taken", s.total)}
}

func stopping() error {
	return eval.Errorf(eval.KindStopping, "this executor is shutting down; send the run to another one")
}
