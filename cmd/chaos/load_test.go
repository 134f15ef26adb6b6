//go:build chaos && linux

package chaos_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/crucible-eval/crucible/cmd/internal/client"
	"github.com/crucible-eval/crucible/pkg/eval"
)

const (
	// inFlight bounds how many evaluations wait for their end at once.
	inFlight = 64
	// patience is how long anything may take after the last fault is over.
	patience = 3 * time.Minute
	// followed is which part of the evaluations is watched as a person would: one in so many.
	followed = 40
)

// item is a submission and what became of it.
type item struct {
	job
	number   int
	id       eval.ID
	accepted time.Time
	final    client.Evaluation // as first seen when it had ended
	seen     bool
}

// load submits programs and waits for their end, as clients do.
type load struct {
	api  *client.Client
	say  func(format string, args ...any)
	slot chan struct{} // one for each in flight
	done sync.WaitGroup

	mu       sync.Mutex
	random   *rand.Rand
	items    []*item
	byID     map[eval.ID]*item
	problems []string
	refusals int           // submissions and questions that were asked again
	shut     time.Duration // the longest time from a submission to its acceptance
	halt     chan struct{} // closed when the steady stream is to end
	once     sync.Once
}

func newLoad(api *client.Client, say func(format string, args ...any)) *load {
	return &load{
		api: api, say: say, slot: make(chan struct{}, inFlight), random: rand.New(rand.NewPCG(options.seed, 1)),
		byID: map[eval.ID]*item{}, halt: make(chan struct{}),
	}
}

// start submits at a steady rate until finish.
func (l *load) start(ctx context.Context) {
	l.done.Go(func() {
		tick := time.NewTicker(time.Duration(float64(time.Second) / options.rate))
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-l.halt:
				return
			case <-tick.C:
				l.submit(ctx, l.draw())
			}
		}
	})
}

// finish ends the steady stream, submits what is missing as fast as it is taken, and waits for the end of all.
func (l *load) finish(ctx context.Context, atLeast int) {
	l.once.Do(func() { close(l.halt) })
	for ctx.Err() == nil && l.count() < atLeast {
		l.submit(ctx, l.draw())
	}
	l.done.Wait()
}

func (l *load) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.items)
}

func (l *load) draw() job {
	l.mu.Lock()
	defer l.mu.Unlock()
	return drawJob(len(l.items), l.random)
}

// submit waits for room and lets the job run its course.
func (l *load) submit(ctx context.Context, j job) *item {
	select {
	case l.slot <- struct{}{}:
	case <-ctx.Done():
		return nil
	}
	l.mu.Lock()
	it := &item{job: j, number: len(l.items)}
	l.items = append(l.items, it)
	l.mu.Unlock()
	l.done.Go(func() {
		defer func() { <-l.slot }()
		l.follow(ctx, it)
	})
	return it
}

// burst submits several at once, and returns when all are accepted.
func (l *load) burst(ctx context.Context, n int, j job) []*item {
	var all []*item
	for range n {
		if it := l.submit(ctx, j); it != nil {
			all = append(all, it)
		}
	}
	for ctx.Err() == nil && slices.ContainsFunc(all, func(it *item) bool { return l.idOf(it) == "" }) {
		time.Sleep(5 * time.Millisecond) // it comes without a signal
	}
	return all
}

func (l *load) idOf(it *item) eval.ID {
	l.mu.Lock()
	defer l.mu.Unlock()
	return it.id
}

// follow brings one job to its end. Whatever fails on the way is asked again, as a client would: with the same
// idempotency key, so that an answer which was lost is no second evaluation.
func (l *load) follow(ctx context.Context, it *item) {
	began := time.Now()
	var e client.Evaluation
	err := l.insist(ctx, func() (err error) {
		e, err = l.api.Submit(ctx, it.spec, 0, fmt.Sprintf("chaos-%d-%d", options.seed, it.number))
		return err
	})
	if err != nil {
		l.problem("submission %d (%s): %v", it.number, it.kind, err)
		return
	}
	l.mu.Lock()
	it.id, it.accepted = e.ID, time.Now()
	l.byID[e.ID] = it
	l.shut = max(l.shut, time.Since(began))
	l.mu.Unlock()

	if it.cancel > 0 {
		l.done.Go(func() { l.cancel(ctx, it) })
	}
	if it.number%followed == 0 {
		l.done.Go(func() { l.watch(ctx, it) })
	}
	err = l.insist(ctx, func() (err error) {
		e, err = l.api.Await(ctx, it.id)
		return err
	})
	if err != nil {
		l.problem("evaluation %s (%s): %v", it.id, it.kind, err)
		return
	}
	l.mu.Lock()
	it.final, it.seen = e, true
	l.mu.Unlock()
	if err := it.check(e); err != nil {
		l.problem("evaluation %s (%s), attempt %d at %s: %v", it.id, it.kind, e.Attempt, e.Executor, err)
		return
	}
	if it.stdout == nil {
		return
	}
	var whole bytes.Buffer
	err = l.insist(ctx, func() error {
		whole.Reset()
		_, err := l.api.Output(ctx, it.id, "stdout", 0, &whole)
		return err
	})
	if err != nil {
		l.problem("output of %s: %v", it.id, err)
	} else if !bytes.Equal(it.stdout(), whole.Bytes()) {
		l.problem("the output of %s is not what it wrote: %d bytes", it.id, whole.Len())
	}
}

func (l *load) cancel(ctx context.Context, it *item) {
	select {
	case <-ctx.Done():
		return
	case <-time.After(it.cancel):
	}
	err := l.insist(ctx, func() error {
		_, err := l.api.Cancel(ctx, it.id, cancelReason)
		return err
	})
	// When the first answer was lost, the second says that it has ended.
	if err != nil && !eval.IsKind(err, eval.KindConflict) {
		l.problem("cancel of %s: %v", it.id, err)
	}
}

// watch reads the events of an evaluation as a page in a browser does, over all interruptions, and wants each change
// of state once and in order, and the end last.
func (l *load) watch(ctx context.Context, it *item) {
	last, seq, end := "", int64(0), ""
	err := l.insist(ctx, func() error {
		return l.api.Events(ctx, "/api/v1/evaluations/"+string(it.id)+"/events", nil, last, func(e client.Event) bool {
			last = e.ID
			var state struct {
				Seq int64 `json:"seq"`
			}
			if e.Type == "stdout" || e.Type == "stderr" || json.Unmarshal(e.Data, &state) != nil || state.Seq == 0 {
				return true
			}
			if end != "" || state.Seq != seq+1 {
				l.problem("who watches %s sees event %d (%s) after %d %s", it.id, state.Seq, e.Type, seq, end)
			}
			seq = state.Seq
			if eval.Status(e.Type).Terminal() {
				end = e.Type
			}
			return true
		})
	})
	switch {
	case err != nil:
		l.problem("who watches %s: %v", it.id, err)
	case end == "":
		l.problem("who watches %s never sees its end: the stream was over after event %d", it.id, seq)
	}
}

// insist repeats a call while the platform says, or shows, that it cannot answer now.
func (l *load) insist(ctx context.Context, call func() error) error {
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		err := call()
		if err == nil || ctx.Err() != nil || !passing(err) {
			return err
		}
		l.mu.Lock()
		l.refusals++
		l.mu.Unlock()
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(pause):
		}
	}
}

// passing says whether an error is one that a client waits out.
func passing(err error) bool {
	if _, away := errors.AsType[*client.Unreachable](err); away {
		return true
	}
	switch eval.KindOf(err) {
	case eval.KindUnavailable, eval.KindStopping, eval.KindFull, eval.KindRateLimited:
		return true
	case eval.KindInternal:
		_, typed := errors.AsType[*eval.Error](err)
		return !typed // a cut connection; a 500 of the API is a bug
	}
	return false
}

func (l *load) problem(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.problems = append(l.problems, fmt.Sprintf(format, args...))
	l.say("PROBLEM: "+format, args...)
}

// open lists the evaluations that have been accepted and, as far as clients know, have not ended. The poison is left
// out: its way is another one.
func (l *load) open() []eval.ID {
	l.mu.Lock()
	defer l.mu.Unlock()
	var ids []eval.ID
	for _, it := range l.items {
		if it.id != "" && !it.seen && it.kind != poisonKind {
			ids = append(ids, it.id)
		}
	}
	return ids
}

// kindsOf counts the programs by kind.
func (l *load) kindsOf() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := map[string]int{}
	for _, it := range l.items {
		n[it.kind]++
	}
	var all []string
	for kind, count := range n {
		all = append(all, fmt.Sprintf("%s %d", kind, count))
	}
	slices.Sort(all)
	return strings.Join(all, ", ")
}
