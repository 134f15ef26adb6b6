package handle

import (
	"context"
	"time"

	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/task"
)

// handBack is how long a dispatch waits for a slot, and for an executor, before it goes back to the queue, where another
// worker may take it.
// The queue hands out as many as there are slots, so it waits only while a suspect has them all.
const handBack = time.Second

// slots bounds the attempts in hand. One that must be alone takes all of them, before its evaluation is claimed, and
// so without a lease that could run out meanwhile.
type slots struct {
	taken   chan struct{} // one entry for each slot that is taken
	alone   chan struct{} // its only entry is whoever takes all: two that each had some would wait for ever
	refused chan struct{} // closed: nobody gets a slot any more
}

func newSlots(n int) *slots {
	return &slots{taken: make(chan struct{}, max(n, 1)), alone: make(chan struct{}, 1), refused: make(chan struct{})}
}

// take waits for a slot, or for all of them, and returns the function that gives back. Its error is a task.Failure.
//
// Who takes all keeps those that it has, and is served in its turn like anybody else: it gets each slot that becomes
// free, so that it has them all when what is in hand now has ended.
func (s *slots) take(ctx context.Context, alone bool) (release func(), err error) {
	soon := time.NewTimer(handBack)
	defer soon.Stop()
	if !alone {
		if err := s.enter(ctx, s.taken, soon.C); err != nil {
			return nil, err
		}
		return func() { <-s.taken }, nil
	}
	if err := s.enter(ctx, s.alone, soon.C); err != nil {
		return nil, err
	}
	mine := 0
	release = func() {
		for range mine {
			<-s.taken
		}
		<-s.alone
	}
	for ; mine < cap(s.taken); mine++ {
		if err := s.enter(ctx, s.taken, nil); err != nil {
			release()
			return nil, err
		}
	}
	return release, nil
}

func (s *slots) enter(ctx context.Context, room chan<- struct{}, giveUp <-chan time.Time) error {
	select {
	case room <- struct{}{}:
		return nil
	case <-giveUp:
		return &task.Failure{Err: eval.Errorf(eval.KindFull, "an evaluation that must run alone has all slots of this worker"), Delay: time.Second}
	case <-s.refused:
		return &task.Failure{Err: errStopping}
	case <-ctx.Done():
		return &task.Failure{Err: context.Cause(ctx), Delay: time.Second}
	}
}
