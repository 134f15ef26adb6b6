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

	watch   *time.Timer // nil: only the connection is watched
	silence time.Duration
	warned  bool // the time is over; a word that is on its way may still come

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
		return notHere(id)
	}
	p.cancel(ErrStopped)
	return nil
}

// Watch has the run cancelled (KindUnavailable) when nothing is heard of its
// caller for so long, and a quarter more: a worker that is frozen, or whose
// host is gone, leaves its connection open, and loses its evaluation to another
// attempt, maybe at another executor. The quarter is for an executor that was
// frozen itself and has yet to read what came meanwhile.
func (p *Pass) Watch(silence time.Duration) {
	p.fence.mu.Lock()
	defer p.fence.mu.Unlock()
	p.silence = silence
	p.watch = time.AfterFunc(silence, p.unheard)
}

func (p *Pass) unheard() {
	p.fence.mu.Lock()
	defer p.fence.mu.Unlock()
	if !p.warned {
		p.warned = true
		p.watch.Reset(p.silence / 4)
		return
	}
	p.cancel(eval.Errorf(eval.KindUnavailable, "nothing was heard of the worker for %v, so that its run was ended: another attempt may have begun", p.silence))
}

// Heard notes a sign of life of the caller of an attempt. KindNotFound when
// that does not run here.
func (f *Fence) Heard(id eval.ID, attempt int) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	p := f.active[id]
	if p == nil || p.attempt != attempt {
		return notHere(id)
	}
	if p.watch != nil {
		p.warned = false
		p.watch.Reset(p.silence)
	}
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
		if p.watch != nil {
			p.watch.Stop()
		}
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

func notHere(id eval.ID) error {
	return eval.Errorf(eval.KindNotFound, "no run of %q is here", string(id))
}

func conflict(format string, args ...any) error {
	return &eval.Error{Kind: eval.KindConflict, Message: fmt.Sprintf(format, args...)}
}
