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

// Want is what a run asks for: always one slot, and with it
type Want struct {
	Memory  int64         // bytes: the most that it may use at once
	Longest time.Duration // how long it may take at most; 0: not known
	// Exclusive wants all slots: nothing else runs beside it.
	Exclusive bool
}

// Slots admits runs. A run that finds no room waits a moment in a short line,
// because another may be on its way out, and is then refused.
//
// The line is served in order and nobody overtakes, not even one that would
// fit where the first does not: a run that needs much memory gets its turn
// when those before it have ended. It cannot hold up the others for longer
// than it may wait.
//
// An exclusive run waits in the same line until nothing else runs: for as long
// as what runs may take by its limits, and a minute at most. It holds up those
// behind it for no longer than that; they are refused meanwhile, as always
// when there is no room.
type Slots struct {
	total    int
	memory   int64
	patience time.Duration

	mu        sync.Mutex
	running   map[*ticket]struct{}
	exclusive bool // what runs is one exclusive run
	reserved  int64
	line      []*ticket // first come, first served; at most total
	draining  bool
	stop      chan struct{} // closed when draining
	idle      chan struct{} // closed when draining and nothing runs
	typical   time.Duration // how long runs take, the last ones above all
}

// ticket is a run that waits or is under way.
type ticket struct {
	Want
	in    chan struct{} // closed when admitted
	since time.Time     // of admission
}

// New returns n slots that share memory bytes, of which each run reserves its
// limit; 0: memory is not looked at. A run whose limit is above all of it may
// run when it is alone. patience is how long a run may wait; ten times
// as long if it asks for more than an even share of the memory.
func New(n int, memory int64, patience time.Duration) *Slots {
	return &Slots{
		total: n, memory: memory, patience: patience, running: map[*ticket]struct{}{},
		stop: make(chan struct{}), idle: make(chan struct{}), typical: guess,
	}
}

// largePatience is how many times longer a run may wait that asks for more
// than an even share of the memory: several others have to end for it.
const largePatience = 10

// exclusivePatience bounds the wait of an exclusive run for all others to end.
const exclusivePatience = time.Minute

// mayWait is how long a run may stay in line. s.mu is held.
func (s *Slots) mayWait(want Want) time.Duration {
	if want.Exclusive {
		longest := s.patience
		for t := range s.running {
			left := exclusivePatience
			if t.Longest > 0 {
				left = t.Longest - time.Since(t.since) + s.patience
			}
			longest = max(longest, min(left, exclusivePatience))
		}
		return longest
	}
	if want.Memory > s.memory/int64(s.total) && s.memory > 0 {
		return largePatience * s.patience
	}
	return s.patience
}

// Take waits for a slot and returns the function that gives it back, which
// may be called more than once. KindFull: none became free; RetryAfter says
// when to come back. KindStopping: draining. Otherwise ctx's cause.
func (s *Slots) Take(ctx context.Context, want Want) (release func(), err error) {
	t := &ticket{Want: want, in: make(chan struct{})}
	s.mu.Lock()
	switch {
	case s.draining:
		s.mu.Unlock()
		return nil, stopping()
	case len(s.line) == 0 && s.fits(t):
		s.admit(t)
		s.mu.Unlock()
		return s.releaser(t), nil
	case len(s.line) >= s.total || s.patience <= 0:
		defer s.mu.Unlock()
		return nil, s.full(want)
	}
	s.line = append(s.line, t)
	patience := time.NewTimer(s.mayWait(want))
	s.mu.Unlock()

	defer patience.Stop()
	select {
	case <-t.in:
		return s.releaser(t), nil
	case <-patience.C:
	case <-s.stop:
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-t.in: // admitted in the same moment
		if err == nil {
			return s.releaser(t), nil
		}
		s.give(t)
		return nil, err
	default:
	}
	s.leave(t)
	if err == nil {
		if err = s.full(want); s.draining {
			err = stopping()
		}
	}
	return nil, err
}

// TryTake takes a slot that is free and that nobody waits for, for a run that
// can do with the slots that it has. It gives back what Take does, or nil.
func (s *Slots) TryTake(want Want) (release func()) {
	t := &ticket{Want: want, in: make(chan struct{})}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.draining || len(s.line) > 0 || !s.fits(t) {
		return nil
	}
	s.admit(t)
	return s.releaser(t)
}

// Load tells how much is taken.
func (s *Slots) Load() eval.Load {
	s.mu.Lock()
	defer s.mu.Unlock()
	return eval.Load{
		Slots: s.total, Busy: len(s.running), Waiting: len(s.line),
		MemoryBytes: s.memory, ReservedBytes: s.reserved, Draining: s.draining,
	}
}

// Drain gives out no more slots, and returns a channel that is closed when
// none is taken. Those in line are refused at once. Calling it again returns
// the same.
func (s *Slots) Drain() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.draining {
		s.draining = true
		close(s.stop)
		if len(s.running) == 0 {
			close(s.idle)
		}
	}
	return s.idle
}

// fits tells whether a run can start now. One that wants more memory than
// there is may run alone: the machine has more than the budget.
func (s *Slots) fits(t *ticket) bool {
	switch {
	case len(s.running) == 0:
		return true
	case len(s.running) >= s.total, t.Exclusive, s.exclusive:
		return false
	}
	return s.memory == 0 || s.reserved+t.Memory <= s.memory
}

func (s *Slots) admit(t *ticket) {
	s.running[t] = struct{}{}
	s.exclusive = t.Exclusive
	s.reserved += t.Memory
	t.since = time.Now()
	close(t.in)
}

func (s *Slots) releaser(t *ticket) func() {
	return sync.OnceFunc(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.give(t)
	})
}

// give returns a slot and lets in who is next.
func (s *Slots) give(t *ticket) {
	delete(s.running, t)
	s.reserved -= t.Memory
	s.typical += (time.Since(t.since) - s.typical) / 8
	s.next()
	if s.draining && len(s.running) == 0 {
		close(s.idle)
	}
}

// next lets in as many of the line as fit.
func (s *Slots) next() {
	for !s.draining && len(s.line) > 0 && s.fits(s.line[0]) {
		t := s.line[0]
		s.line = s.line[1:]
		s.admit(t)
	}
}

// leave takes a run out of the line; those behind it may fit where it did not.
func (s *Slots) leave(t *ticket) {
	s.line = slices.DeleteFunc(s.line, func(other *ticket) bool { return other == t })
	s.next()
}

func (s *Slots) full(want Want) error {
	what := fmt.Sprintf("all %d slots of this executor are taken", s.total)
	switch {
	case s.exclusive:
		what = "this executor is taken by a run that must be alone"
	case want.Exclusive:
		what = fmt.Sprintf("the run must be alone, and %d others of this executor have not ended in time", len(s.running))
	case len(s.line) > 0 && s.line[0].Exclusive:
		what = "a run that must be alone waits for all slots of this executor"
	case len(s.running) < s.total:
		what = fmt.Sprintf("%d of %d bytes of this executor's memory are reserved, and the run asks for %d", s.reserved, s.memory, want.Memory)
	}
	return &eval.Error{Kind: eval.KindFull, RetryAfter: s.wait(want), Message: what}
}

func stopping() error {
	return eval.Errorf(eval.KindStopping, "this executor is shutting down; send the run to another one")
}
