package live

import (
	"context"
	"time"

	"github.com/crucible-eval/crucible/pkg/eval"
)

// A waiter that nobody wakes looks for itself, at first soon and then less
// often: the feed wakes it long before, unless that is out of order.
const (
	firstLook = 250 * time.Millisecond
	lastLook  = 5 * time.Second
)

// Await returns the evaluation once it is terminal, or as it is when limit
// has passed, or when stop is closed. A store that is away while it waits is
// no error as long as it comes back in time.
func (h *Hub) Await(ctx context.Context, key eval.Key, limit time.Duration, stop <-chan struct{}) (eval.Evaluation, error) {
	w := h.Wait(key)
	defer w.Close()
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	every := firstLook
	look := time.NewTimer(every)
	defer look.Stop()
	for {
		e, err := h.store.Get(ctx, key)
		switch {
		case err != nil && !eval.IsKind(err, eval.KindUnavailable), err == nil && e.Status.Terminal():
			return e, err
		}
		select {
		case <-ctx.Done():
			return e, context.Cause(ctx)
		case <-deadline.C:
			return e, err
		case <-stop:
			return e, err
		case <-w.Wake:
		case <-look.C:
			every = min(2*every, lastLook)
			look.Reset(every)
		}
	}
}
