package slots

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/crucible-eval/crucible/pkg/eval"
)

// memory is how many evaluations a fence remembers. An attempt can only be
// late by the length of a lease, in which an executor sees far fewer.
const memory = 16_384

// Fence lets only the newest attempt of an evaluation run.
type Fence struct {
	mu     sync.Mutex
	seen   map[eval.ID]int // the highest attempt
	oldest []eval.ID       // in the order they came
	active map[eval.ID]*Pass
}

// Pass is the right of one attempt to run.
type Pass struct {
	fence   *Fence
	id      eval.ID
	attempt int
	cancel  context.CancelCauseFunc
	done    chan struct{}
	once    sync.Once

	language string    // once it has begun
	since    time.Time // zero: it has not
}

// NewFence returns a fence that has seen nothing.
func NewFence() *Fence {
	return &Fence{seen: map[eval.ID]int{}, active: map[eval.ID]*Pass{}}
}

// Enter lets an attempt in. An older run of the same id is cancelled with a
// KindConflict cause, and waited for. KindConflict: a higher attempt has been
// seen, or this one is running. The context returned ends when the pass is
// revoked, or ctx does; Leave must be called.
func (f *Fence) Enter(ctx context.Context, id eval.ID, attempt int) (context.Context, *Pass, error) {
	for {
		f.mu.Lock()
		if seen := f.seen[id]; attempt < seen {
			f.mu.Unlock()
			return nil, nil, conflict("attempt %d of %s comes late: this executor has seen attempt %d", attempt, id, seen)
		}
		older := f.active[id]
		if older != nil && older.attempt == attempt {
			f.mu.Unlock()
			return nil, nil, conflict("attempt %d of %s is running already", attempt, id)
		}
		f.remember(id, attempt)
		if older == nil {
			runCtx, cancel := context.WithCancelCause(ctx)
			p := &Pass{fence: f, id: id, attempt: attempt, cancel: cancel, done: make(chan struct{})}
			f.active[id] = p
			f.mu.Unlock()
			return runCtx, p, nil
		}
		f.mu.Unlock()
		older.cancel(conflict("attempt %d of %s took over from attempt %d", attempt, id, older.attempt))
		select {
		case <-older.done:
		case <-ctx.Done():
			return nil, nil, context.Cause(ctx)
		}
	}
}

// Stop cancels the run with this id, of this attempt or, when it is 0, of
// any. KindNotFound when there is none.
func (f *Fence) Stop(id eval.ID, attempt int) error {
	f.mu.Lock()
	p := f.active[id]
	f.mu.Unlock()
	if p == nil || attempt != 0 && p.attempt != attempt {
		return eval.Errorf(eval.KindNotFound, "no run of %q is here", string(id))
	}
	p.cancel(ErrStopped)
	return nil
}

// Begin notes that the attempt has its slot and starts to run.
func (p *Pass) Begin(language string) {
	p.fence.mu.Lock()
	defer p.fence.mu.Unlock()
	p.language, p.since = language, time.Now().UTC()
}

// Running lists the attempts that have begun, the oldest first.
func (f *Fence) Running() []eval.RunningInfo {
	f.mu.Lock()
	defer f.mu.Unlock()
	running := []eval.RunningInfo{}
	for _, p := range f.active {
		if !p.since.IsZero() {
			running = append(running, eval.RunningInfo{ID: p.id, Language: p.language, Attempt: p.attempt, Since: p.since})
		}
	}
	slices.SortFunc(running, func(a, b eval.RunningInfo) int { return a.Since.Compare(b.Since) })
	return running
}

// StopAll cancels every run for a reason.
func (f *Fence) StopAll(why error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, p := range f.active {
		p.cancel(why)
	}
}

// ErrStopped is the cause of a run that was stopped by its id.
var ErrStopped error = &eval.Error{Kind: eval.KindConflict, Message: "the run was stopped"}

// Leave ends the pass. Leaving twice is fine.
func (p *Pass) Leave() {
	p.once.Do(func() {
		p.cancel(context.Canceled)
		p.fence.mu.Lock()
		delete(p.fence.active, p.id)
		p.fence.mu.Unlock()
		close(p.done)
	})
}

// remember notes the attempt, and forgets the oldest evaluation when there
// are too many.
func (f *Fence) remember(id eval.ID, attempt int) {
	if _, ok := f.seen[id]; !ok {
		if len(f.oldest) >= memory {
			delete(f.seen, f.oldest[0])
			f.oldest = f.oldest[1:]
		}
		f.oldest = append(f.oldest, id)
	}
	f.seen[id] = max(f.seen[id], attempt)
}

func conflict(format string, args ...any) error {
	return &eval.Error{Kind: eval.KindConflict, Message: fmt.Sprintf(format, args...)}
}
